"""What a client is given for TLS: which addresses mean it, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_node.client import ClientTls, NodeClient
from plexspaces_node.errors import InvalidArgument


def test_address_when_it_is_https_then_the_client_speaks_tls() -> None:
    """With what the host trusts, unless told otherwise; the address is the rest."""
    assert NodeClient("node.example:9000").tls is None
    client = NodeClient("https://node.example:9000/")
    assert (client.address, client.tls) == ("node.example:9000", ClientTls())
    own = ClientTls(ca=Path("ca.pem"))
    assert NodeClient("https://[::1]:9000", tls=own).tls is own
    assert NodeClient("node.example:9000", tls=own).tls is own


@pytest.mark.parametrize(
    "address", ["https://", "https://node", "http://node:9000", "https://a/b:1/"]
)
def test_address_when_it_is_no_address_then_it_is_refused(address: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidArgument, match=r"is not HOST:PORT"):
        NodeClient(address)


def test_socket_when_given_tls_then_it_is_refused() -> None:
    """The kernel says who is at the other end."""
    with pytest.raises(InvalidArgument, match="is reached without TLS"):
        NodeClient("unix:/run/node.sock", tls=ClientTls())


def test_certificate_when_it_has_no_key_then_it_is_refused() -> None:
    """And a key without its certificate."""
    with pytest.raises(InvalidArgument, match="needs its private key"):
        ClientTls(certificate=Path("certificate.pem"))
    with pytest.raises(InvalidArgument, match="needs its private key"):
        ClientTls(key=Path("key.pem"))


async def test_file_when_it_cannot_be_used_then_the_error_names_it(tmp_path: Path) -> None:
    """One that is missing, one that is no certificate, a key that others may read."""
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    (tmp_path / "open").write_text("hello")
    (tmp_path / "open").chmod(0o644)
    missing, text, open_key = tmp_path / "none", tmp_path / "text", tmp_path / "open"
    for tls, fault in (
        (ClientTls(ca=missing), r"CA's certificate '.*none' cannot be read: No such file"),
        (ClientTls(ca=text), r"CA's certificate '.*text' is not a certificate in PEM"),
        (ClientTls(None, text, missing), r"private key '.*none' cannot be read"),
        (ClientTls(None, text, open_key), r"private key '.*open' can be read or written by others"),
        (ClientTls(None, text, text), r"client certificate '.*text' is not a certificate in PEM"),
    ):
        with pytest.raises(InvalidArgument, match=fault):
            async with NodeClient("127.0.0.1:9000", tls=tls):
                pass
