"""Where the node listens: every reason why it cannot, told before anything is bound."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import grpc
import pytest

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.api.listen import bind, check_can_listen


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_check_when_the_port_is_taken_then_the_error_says_so(taken: str) -> None:
    """The one thing that happens to everybody has the command that finds the other program."""
    with pytest.raises(Unavailable, match=f"{taken}: the port is in use") as caught:
        await check_can_listen(taken)
    assert "ss -ltnp" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1:9000", "the address does not belong to this host"),
        ("a..b:9000", "unknown host a..b"),
    ],
)
async def test_check_when_the_address_is_elsewhere_then_that_is_the_reason(
    address: str, reason: str
) -> None:
    """A wrong address is not mistaken for a taken port."""
    with pytest.raises(Unavailable, match=reason) as caught:
        await check_can_listen(address)
    assert "127.0.0.1:9000" in (caught.value.hint or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
async def test_check_when_the_port_is_free_then_the_server_gets_it(
    host: str, free_address: str
) -> None:
    """What is found free can be bound at once: the trial holds nothing back."""
    address = f"{host}:{free_address.rpartition(':')[2]}"
    await check_can_listen(address)
    server = grpc.aio.server()
    assert bind(server, address) == address
    await server.stop(None)


async def test_check_when_a_connection_has_just_ended_then_the_port_is_free() -> None:
    """A node that is started again at once is not told that its own port is in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as client:
            accepted, _ = server.accept()
            accepted.close()  # first, so that the server's side waits
            assert client.recv(1) == b""
    await check_can_listen(f"127.0.0.1:{address[1]}")


async def test_bind_when_port_0_then_the_one_that_was_found_is_told() -> None:
    """Whoever asks for any port learns which it is."""
    await check_can_listen("127.0.0.1:0")
    server = grpc.aio.server()
    assert int(bind(server, "127.0.0.1:0").rpartition(":")[2]) > 0
    await server.stop(None)


async def test_bind_when_the_port_was_taken_since_then_the_same_error(taken: str) -> None:
    """Between trial and binding a port can go; the error is ours then too."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    with pytest.raises(Unavailable, match="the port is in use"):
        bind(server, taken)
    await server.stop(None)
