"""Certificates: what a small authority makes, what one says, and what is refused."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from plexspaces_node.certificates import (
    CertificateInfo,
    Pair,
    describe,
    make_authority,
    make_client_certificate,
    make_node_certificate,
    read_pair,
)
from plexspaces_node.errors import InvalidArgument

HOSTS = ["Node.example", "127.0.0.1", "[::1]", "*.node.example"]


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority("plexspaces CA")


def written(directory: Path, pair: Pair) -> tuple[Path, Path]:
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(pair.certificate)
    key.touch(mode=0o600)
    key.write_bytes(pair.key)
    return certificate, key


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """Bring two ends together in memory; return the server's."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=host),
    ]
    open_ends = [ends[1], ends[0]]
    while open_ends:
        end = open_ends.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            open_ends.append(end)
    return ends[0]


def contexts(
    directory: Path, authority: Pair, server: Pair, client: Pair
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of both ends, each of which wants the other's certificate."""
    trusted = authority.certificate.decode()
    made = []
    for purpose, pair in ((ssl.PROTOCOL_TLS_SERVER, server), (ssl.PROTOCOL_TLS_CLIENT, client)):
        context = ssl.SSLContext(purpose)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=trusted)
        context.load_cert_chain(*written(directory, pair))
        made.append(context)
    return made[0], made[1]


@pytest.mark.parametrize("host", ["node.example", "127.0.0.1", "::1", "cart.node.example"])
def test_certificates_when_used_as_they_are_meant_then_both_ends_agree(
    tmp_path: Path, authority: Pair, host: str
) -> None:
    """Names, a wildcard and addresses; the server reads the client's name."""
    node = make_node_certificate(authority, HOSTS)
    client = make_client_certificate(authority, "admin")
    server = handshake(*contexts(tmp_path, authority, node, client), host)
    found = server.getpeercert()
    assert found is not None
    assert found["subject"] == ((("commonName", "admin"),),)


@pytest.mark.parametrize("swapped", ["server", "client"])
def test_certificates_when_used_as_the_other_then_they_are_refused(
    tmp_path: Path, authority: Pair, swapped: str
) -> None:
    """A stolen node certificate is no identity, a client cannot play the node."""
    node = make_node_certificate(authority, HOSTS)
    client = make_client_certificate(authority, "node.example")
    ends = (node, node) if swapped == "client" else (client, client)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(*contexts(tmp_path, authority, *ends), "node.example")


def test_certificates_when_a_client_signs_others_then_they_are_refused(
    tmp_path: Path, authority: Pair
) -> None:
    """Only the authority's certificate is one of an authority."""
    client = make_client_certificate(authority, "ci")
    forged = make_client_certificate(client, "admin")
    chained = Pair(forged.certificate + client.certificate, forged.key)
    node = make_node_certificate(authority, HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(*contexts(tmp_path, authority, node, chained), "node.example")


def test_certificate_when_described_then_with_its_names_and_times(authority: Pair) -> None:
    """Names in lower case; valid a little earlier, for clocks that are slow."""
    now = datetime.now(UTC)
    found = describe(make_node_certificate(authority, HOSTS, days=10).certificate)
    assert (found.name, found.issuer) == ("node.example", "plexspaces CA")
    assert found.hosts == ("node.example", "127.0.0.1", "::1", "*.node.example")
    assert timedelta(minutes=4) < now - found.not_before < timedelta(minutes=6)
    assert timedelta(days=9) < found.not_after - now <= timedelta(days=10, minutes=1)
    assert describe(make_client_certificate(authority, "ci").certificate).hosts == ()


def test_certificate_when_its_authority_ends_earlier_then_with_that() -> None:
    """Clients would refuse it from then on."""
    short = make_authority("plexspaces CA", days=2)
    made = make_node_certificate(short, ["node"], days=100)
    assert describe(made.certificate).not_after == describe(short.certificate).not_after


def test_certificate_when_made_for_a_key_then_it_is_kept(authority: Pair) -> None:
    """So that a renewal is one file."""
    first = make_node_certificate(authority, ["node"])
    second = make_node_certificate(authority, ["node"], key=first.key)
    assert first.key == second.key
    assert first.certificate != second.certificate


@pytest.mark.parametrize(
    "host", ["", "https://node", "node:9000", "node/x", "a b", "-a", "a..b", "x" * 64, "*"]
)
def test_certificate_when_the_host_is_none_then_it_is_refused(authority: Pair, host: str) -> None:
    """The hint shows how one is written."""
    with pytest.raises(InvalidArgument, match="is not a host name or an address"):
        make_node_certificate(authority, [host])


def test_certificate_when_days_or_names_are_out_of_range_then_it_is_refused(
    authority: Pair,
) -> None:
    """Before anything is written."""
    for days in (0, -1, 3651):
        with pytest.raises(InvalidArgument, match=f"valid for {days} days"):
            make_node_certificate(authority, ["node"], days=days)
    for name in ("", "x" * 65):
        with pytest.raises(InvalidArgument, match="cannot be a client's name"):
            make_client_certificate(authority, name)
    with pytest.raises(InvalidArgument, match="needs a host"):
        make_node_certificate(authority, [])
    other = make_authority("other")
    with pytest.raises(InvalidArgument, match="does not belong to its certificate"):
        make_client_certificate(Pair(authority.certificate, other.key), "ci")


def test_pair_when_read_then_the_key_has_to_be_the_certificates(
    tmp_path: Path, authority: Pair
) -> None:
    """Half of a renewal is no pair; a key that others may read is not read."""
    first, second = (make_node_certificate(authority, ["node"]) for _ in range(2))
    certificate, key = written(tmp_path, first)
    assert read_pair(certificate, key) == first
    certificate.write_bytes(second.certificate)
    with pytest.raises(InvalidArgument, match="is not that of the certificate"):
        read_pair(certificate, key)
    certificate.write_bytes(first.certificate)
    key.chmod(0o644)
    with pytest.raises(InvalidArgument, match="can be read or written by others") as raised:
        read_pair(certificate, key)
    assert raised.value.hint == f"chmod 600 {key}"


def test_pair_when_a_file_is_no_pem_then_the_error_names_it(
    tmp_path: Path, authority: Pair
) -> None:
    """Cut off in the middle, of another kind, with a passphrase, or not there."""
    certificate, key = written(tmp_path, make_node_certificate(authority, ["node"]))
    whole = certificate.read_bytes()
    for text in (b"", b"hello", whole[:200], key.read_bytes()):
        certificate.write_bytes(text)
        with pytest.raises(InvalidArgument, match="is not a certificate in PEM"):
            read_pair(certificate, key)
    certificate.write_bytes(whole)
    for text in (b"", whole, key.read_bytes()[:100]):
        key.write_bytes(text)
        with pytest.raises(InvalidArgument, match="is not a private key in PEM"):
            read_pair(certificate, key)
    locked = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    key.write_bytes(locked)
    with pytest.raises(InvalidArgument, match="is encrypted with a passphrase"):
        read_pair(certificate, key)
    certificate.unlink()
    with pytest.raises(InvalidArgument, match="cannot be read: No such file"):
        read_pair(certificate, key)


def test_fault_when_time_passes_then_it_is_said_before_the_end() -> None:
    """A month before; of a certificate of a week, a third of that."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    year = CertificateInfo("node", "CA", (), start, start + timedelta(days=365), "1")
    week = CertificateInfo("node", "CA", (), start, start + timedelta(days=7), "1")
    assert year.fault_at(start + timedelta(days=334)) is None
    assert (
        year.fault_at(start + timedelta(days=335)) == "expires in 30 days, on 2027-01-01 00:00 UTC"
    )
    assert year.fault_at(start + timedelta(days=365)) == "has expired on 2027-01-01 00:00 UTC"
    early = year.fault_at(start - timedelta(seconds=1))
    assert early == "is not valid before 2026-01-01 00:00 UTC: compare the clock of this host"
    assert week.fault_at(start + timedelta(days=4)) is None
    assert week.fault_at(start + timedelta(days=6)) == "expires in 1 day, on 2026-01-08 00:00 UTC"


def test_key_when_shown_then_it_is_not(authority: Pair) -> None:
    """In no log, no error and no list."""
    assert "PRIVATE" not in repr(authority)
    found = x509.load_pem_x509_certificate(authority.certificate)
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.path_length) == (True, 0)
