"""Certificates that the product does not make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plexspaces_node.certificates import Pair


def ended(pair: Pair, authority: Pair, *, days_ago: float = 1) -> Pair:
    """The same certificate, with an end that has passed."""
    found = x509.load_pem_x509_certificate(pair.certificate)
    signing = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    end = datetime.now(UTC) - timedelta(days=days_ago)
    builder = (
        x509.CertificateBuilder()
        .subject_name(found.subject)
        .issuer_name(found.issuer)
        .public_key(found.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=30))
        .not_valid_after(end)
    )
    for extension in found.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    made = builder.sign(signing, hashes.SHA256())
    return Pair(made.public_bytes(serialization.Encoding.PEM), pair.key)


def of_client(authority: Pair, *names: str) -> Pair:
    """A client's certificate with these common names, however many and whatever is in them."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signing = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signing, hashes.SHA256())
    )
    return Pair(
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def serial_of(der: bytes) -> str:
    """The serial number of a certificate, in hexadecimal digits."""
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"
