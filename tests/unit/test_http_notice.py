"""A node's notice of its HTTP port: found by its clients, believed only while the node runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from plexspaces_node import http_notice
from plexspaces_node.http_notice import Notice

NODE, HTTP = "127.0.0.1:9000", "127.0.0.1:8080"


def posted(address: str, http_address: str, directory: Path) -> AbstractContextManager[None]:
    """Keep the notice of a node that has no unix sockets."""
    return http_notice.posted(address, Notice(http_address), directory)


def find(address: str, directory: Path) -> str | None:
    """Return where a notice says that HTTP is served."""
    found = http_notice.find(address, directory)
    return None if found is None else found.http_address


def names(directory: Path) -> list[str]:
    """Return what lies in the directory."""
    return [path.name for path in directory.iterdir()]


def left_by_a_killed_node(directory: Path, address: str = NODE) -> Path:
    """Write a notice and leave it, as kill -9 does."""
    with posted(address, HTTP, directory):
        [path] = directory.iterdir()
        content = path.read_bytes()
    path.write_bytes(content)
    return path


def test_notice_is_found_while_the_node_runs_and_is_gone_afterwards(tmp_path: Path) -> None:
    """By the address that clients give, and by no other."""
    with posted(NODE, HTTP, tmp_path):
        assert find(NODE, tmp_path) == HTTP
        assert find("localhost:9000", tmp_path) == HTTP
        assert find("127.0.0.1:9001", tmp_path) is None
        assert find("example.org:9000", tmp_path) is None
    assert find(NODE, tmp_path) is None
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("address", "http_address", "asked", "found"),
    [
        ("0.0.0.0:9000", "0.0.0.0:8080", NODE, HTTP),
        ("[::]:9000", "[::]:8080", "[::1]:9000", "[::1]:8080"),
        ("unix:/run/node.sock", HTTP, "unix:/run/node.sock", HTTP),
        ("0.0.0.0:9000", "https://0.0.0.0:8080", NODE, f"https://{HTTP}"),
        (NODE, "192.0.2.1:8080", NODE, None),
        (NODE, "https://192.0.2.1:8080", NODE, None),
        (NODE, "", NODE, None),
    ],
)
def test_notice_has_the_addresses_at_which_clients_here_reach_the_node(
    tmp_path: Path, address: str, http_address: str, asked: str, found: str | None
) -> None:
    """What listens everywhere is reached here too; another host's port is not for this way."""
    with posted(address, http_address, tmp_path):
        assert find(asked, tmp_path) == found


def test_notice_of_a_node_that_was_killed_is_not_believed(tmp_path: Path) -> None:
    """Somebody else may have its ports by now. The next node removes it."""
    left_by_a_killed_node(tmp_path)
    assert find(NODE, tmp_path) is None
    with posted("127.0.0.1:9001", HTTP, tmp_path):
        assert len(names(tmp_path)) == 1


def test_notice_of_the_next_node_at_an_address_takes_the_place(tmp_path: Path) -> None:
    """And is not removed when the one before it ends late."""
    with posted(NODE, HTTP, tmp_path):
        with posted(NODE, "127.0.0.1:8081", tmp_path):
            assert find(NODE, tmp_path) == "127.0.0.1:8081"
        assert find(NODE, tmp_path) is None
    before = posted(NODE, HTTP, tmp_path)
    before.__enter__()
    with posted(NODE, "127.0.0.1:8081", tmp_path):
        before.__exit__(None, None, None)
        assert find(NODE, tmp_path) == "127.0.0.1:8081"


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"no notice", b"127.0.0.1:9000\nanother-boot 1\n127.0.0.1:8080"]
)
def test_notice_of_another_host_or_of_nobody_is_not_believed(
    tmp_path: Path, content: bytes
) -> None:
    """A home directory may be shared with hosts that have the same addresses."""
    with posted(NODE, HTTP, tmp_path):
        [path] = tmp_path.iterdir()
        path.write_bytes(content)
        assert find(NODE, tmp_path) is None


def test_notice_has_the_sockets_also_where_http_is_not_served_here(tmp_path: Path) -> None:
    """A path can have any character but a line feed, which no data directory has."""
    notice = Notice("192.0.2.1:8080", "/var/lib/a b%20/node.sock", "/var/lib/a b%20/http.sock")
    with http_notice.posted(NODE, notice, tmp_path):
        assert http_notice.find(NODE, tmp_path) == notice._replace(http_address="")


def test_notice_when_the_address_is_none_then_nothing_is_found(tmp_path: Path) -> None:
    """Looking for it raises nothing: there is another way."""
    assert find("nonsense", tmp_path) is None
    assert find(NODE, tmp_path / "none") is None
