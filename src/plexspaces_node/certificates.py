"""X.509 certificates: a small authority makes a node's and its clients'; what one says, read.

All of it by the package `cryptography`. Keys are of the curve P-256, which every TLS library knows;
no certificate that is made here can sign another, except the authority's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.private_file import read_private

CA_DAYS = 3650
DAYS = 365
MOST_DAYS = 3650

_CLOCKS_DIFFER = timedelta(minutes=5)
"""So much earlier a certificate is valid: the clock of who checks it may be slow."""

_SOON_DAYS = 30
_LONGEST_NAME = 64
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_DNS_NAME_LETTERS = 253
_LARGEST_BYTES = 1024 * 1024
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""How many points the curve has, by SEC 2, section 2.4.2."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both in PEM; the certificate may have a chain after it."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a certificate says.

    Attributes:
        name: the common name of its subject, "" if it has none.
        issuer: the common name of who signed it.
        hosts: the names and addresses that it is for; empty for a client's and an authority's.
        serial: its number, in hexadecimal digits.
    """

    name: str
    issuer: str
    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    serial: str

    def fault_at(self, now: datetime) -> str | None:
        """Return why it is not valid at a time, or will soon not be, in words; None if it is."""
        if now < self.not_before:
            return f"is not valid before {_shown(self.not_before)}: compare the clock of this host"
        left = self.not_after - now
        if left <= timedelta():
            return f"has expired on {_shown(self.not_after)}"
        # Those of some authorities are valid for a few days, and renewed shortly before.
        soon = min(timedelta(days=_SOON_DAYS), (self.not_after - self.not_before) / 3)
        if left <= soon:
            days = "1 day" if left.days == 1 else f"{left.days} days"
            return f"expires in {days}, on {_shown(self.not_after)}"
        return None


def make_authority(name: str, *, days: int = CA_DAYS) -> Pair:
    """Make the certificate and the key of an authority that signs nodes and clients."""
    return _authority(name, ec.generate_private_key(ec.SECP256R1()), days)


def authority_of(name: str, secret: bytes, *, days: int = CA_DAYS) -> Pair:
    """Make an authority whose key follows from a secret of 48 random bytes.

    Whoever has the secret and the name gets one that signs the same: certificates of one are valid
    for the other.
    """
    # From 128 bits more than the curve has, so that no key is more likely than another.
    number = int.from_bytes(secret) % (_P256_ORDER - 1) + 1
    return _authority(name, ec.derive_private_key(number, ec.SECP256R1()), days)


def _authority(name: str, key: ec.EllipticCurvePrivateKey, days: int) -> Pair:
    subject = _named(name)
    builder = _builder(subject, subject, key, days).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    usage = _usage(signs_certificates=True)
    return _signed(builder.add_extension(usage, critical=True), key, key, key.public_key())


def make_node_certificate(
    authority: Pair, hosts: Iterable[str], *, days: int = DAYS, key: bytes | None = None
) -> Pair:
    """Make a node's certificate for these host names and addresses, the first being its name.

    With `key`, in PEM, it is for that one instead of a new one. Raises `InvalidArgument` for a host
    that is neither a name nor an address, and for an authority that cannot be used.
    """
    names = [_host(each) for each in dict.fromkeys(hosts)]
    if not names:
        raise InvalidArgument("a node's certificate needs a host", hint="pass --host NAME")
    return _issued(
        authority,
        str(names[0].value)[:_LONGEST_NAME],
        days,
        _own_key(key),
        purposes=(ExtendedKeyUsageOID.SERVER_AUTH,),
        hosts=x509.SubjectAlternativeName(names),
    )


def make_peer_certificate(
    authority: Pair, name: str, hosts: Iterable[str], *, days: int = DAYS
) -> Pair:
    """Make the certificate of a node that serves other nodes and calls them.

    It is for its name and these hosts. Raises as `make_node_certificate` does.
    """
    names = [_host(each) for each in dict.fromkeys((name, *hosts))]
    return _issued(
        authority,
        name,
        days,
        _own_key(None),
        purposes=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        hosts=x509.SubjectAlternativeName(names),
    )


def make_client_certificate(
    authority: Pair, name: str, *, days: int = DAYS, key: bytes | None = None
) -> Pair:
    """Make the certificate and the key of a client with this name.

    With `key`, in PEM, it is for that one instead of a new one. Raises `InvalidArgument` for a name
    that is empty or longer than 64 characters, and for an authority that cannot be used.
    """
    if not 0 < len(name) <= _LONGEST_NAME:
        raise InvalidArgument(
            f"{name!r} cannot be a client's name", hint="choose one of 1 to 64 characters"
        )
    own = _own_key(key)
    return _issued(authority, name, days, own, purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,))


def read_pair(certificate: Path, key: Path) -> Pair:
    """Read a certificate and its key from files; blocks for two small reads.

    Raises `InvalidArgument` for a file that cannot be read, a key that others than its owner may
    read, and one that is not the certificate's.
    """
    pair = Pair(read_file(certificate), read_private(key, what="the private key"))
    certified = _parse(pair.certificate, str(certificate)).public_key()
    if certified != _private_key(pair.key, str(key)).public_key():
        raise InvalidArgument(
            f"the private key {str(key)!r} is not that of the certificate {str(certificate)!r}",
            hint="use the two files that were made together",
        )
    return pair


def read_file(path: Path) -> bytes:
    """Read a certificate's file of at most 1 MiB; raises `InvalidArgument` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_BYTES)
    except OSError as error:
        raise InvalidArgument(
            f"the certificate {str(path)!r} cannot be read: {error.strerror}",
            hint=f"ls -l {quoted(path)}",
        ) from error


def describe(pem: bytes, *, place: str = "") -> CertificateInfo:
    """Return what the first certificate in PEM says; `place` says in an error where it is.

    Raises `InvalidArgument` if there is none.
    """
    found = _parse(pem, place)
    return CertificateInfo(
        name=_common_name(found.subject),
        issuer=_common_name(found.issuer),
        hosts=_hosts_of(found),
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        serial=f"{found.serial_number:x}",
    )


@lru_cache(maxsize=1024)
def client_name(certificate: bytes) -> str:
    """Return the name that a client's certificate, in PEM or DER, gives it: its only common name.

    "" if it has none, or more than one. Which one is meant is not guessed, and none is taken from a
    library that ends it at a zero byte: an authority may sign names that its clients choose.
    """
    is_pem = certificate.startswith(b"-----BEGIN")
    load = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate
    try:
        names = load(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value) if len(names) == 1 and "\0" not in str(names[0].value) else ""


def _parse(pem: bytes, place: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InvalidArgument(
            f"{place!r} is not a certificate in PEM",
            hint="it begins with -----BEGIN CERTIFICATE-----",
        ) from error


def _private_key(pem: bytes, place: str = "the private key") -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise InvalidArgument(
            f"{place!r} is encrypted with a passphrase, for which a node cannot ask",
            hint="openssl pkey -in KEY -out KEY-WITHOUT-PASSPHRASE",
        ) from error
    except ValueError as error:
        raise InvalidArgument(
            f"{place!r} is not a private key in PEM",
            hint="it begins with -----BEGIN PRIVATE KEY-----",
        ) from error


def _own_key(pem: bytes | None) -> ec.EllipticCurvePrivateKey:
    own = _private_key(pem) if pem else ec.generate_private_key(ec.SECP256R1())
    if not isinstance(own, ec.EllipticCurvePrivateKey):
        raise InvalidArgument(
            "the key is not of an elliptic curve", hint="renew it where it was made"
        )
    return own


def _issued(  # noqa: PLR0913 - what makes the difference between two certificates
    authority: Pair,
    name: str,
    days: int,
    own: ec.EllipticCurvePrivateKey,
    *,
    purposes: Iterable[x509.ObjectIdentifier],
    hosts: x509.SubjectAlternativeName | None = None,
) -> Pair:
    issuer, signing = _parse(authority.certificate, "the CA"), _private_key(authority.key, "the CA")
    if not isinstance(signing, ec.EllipticCurvePrivateKey) or (
        signing.public_key() != issuer.public_key()
    ):
        raise InvalidArgument(
            "the CA's key does not belong to its certificate",
            hint="use the two files that were made together",
        )
    ends = issuer.not_valid_after_utc
    if ends <= datetime.now(UTC):
        raise InvalidArgument(
            f"the CA's certificate has expired on {_shown(ends)}", hint="make a new CA"
        )
    builder = _builder(_named(name), issuer.subject, own, days, ends=ends)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if hosts is not None:
        builder = builder.add_extension(hosts, critical=False)
    return _signed(builder, signing, own, issuer.public_key())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    *,
    ends: datetime | None = None,
) -> x509.CertificateBuilder:
    if not 1 <= days <= MOST_DAYS:
        raise InvalidArgument(
            f"a certificate cannot be valid for {days} days", hint=f"choose 1 to {MOST_DAYS}"
        )
    now = datetime.now(UTC)
    # One that outlives its issuer would be refused from then on all the same.
    until = min(now + timedelta(days=days), ends or datetime.max.replace(tzinfo=UTC))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(until)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder,
    signing: ec.EllipticCurvePrivateKey,
    own: ec.EllipticCurvePrivateKey,
    issuer: PublicKeyTypes,
) -> Pair:
    assert isinstance(issuer, ec.EllipticCurvePublicKey)
    certificate = (
        builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(signing, hashes.SHA256())
    )
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    if len(text) > _DNS_NAME_LETTERS or not _DNS_NAME.fullmatch(text):
        raise InvalidArgument(
            f"{text!r} is not a host name or an address",
            hint="pass it without scheme and port, for example --host node.example",
        )
    return x509.DNSName(text.lower())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _common_name(subject: x509.Name) -> str:
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    hosts = (x509.DNSName, x509.IPAddress)
    return tuple(str(each.value) for each in found.value if isinstance(each, hosts))


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
