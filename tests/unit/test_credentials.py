"""What a client proves itself with: where it is found, who may read it, where it is not sent."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from plexspaces_node.client import ClientTls, NodeClient
from plexspaces_node.client.credentials import (
    Credentials,
    credentials_file,
    credentials_of,
    forget,
    keep,
    token_of_environment,
)
from plexspaces_node.client.way import Way, http_address, way_to
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.http_notice import Notice, posted
from plexspaces_node.token_text import new_secret
from plexspaces_node.toolchains.environment import BuildEnvironment

NODE = "node.example:9000"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A token; the environment has a home of its own and no other."""
    for variable in ("PLEXSPACES_TOKEN", "PLEXSPACES_TOKEN_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return new_secret()


class TestEnvironment:
    def test_token_when_in_the_environment_then_it_is_used_with_every_node(
        self, token: str, tmp_path: Path
    ) -> None:
        """Or from a file; a line feed at its end is no part of it."""
        file = tmp_path / "token"
        file.write_text(f"{token}\n")
        file.chmod(0o600)
        assert token_of_environment({"PLEXSPACES_TOKEN": token}) == token
        assert token_of_environment({"PLEXSPACES_TOKEN_FILE": str(file)}) == token
        assert token_of_environment({"PLEXSPACES_TOKEN": ""}) == ""
        with pytest.raises(InvalidArgument, match="are both set"):
            token_of_environment({"PLEXSPACES_TOKEN": token, "PLEXSPACES_TOKEN_FILE": str(file)})

    def test_file_when_others_may_read_it_then_it_is_refused(
        self, token: str, tmp_path: Path
    ) -> None:
        """With the command that mends it; its content is in no error."""
        file = tmp_path / "token"
        file.write_text(token)
        file.chmod(0o644)
        with pytest.raises(InvalidArgument, match="can be read or written by others") as caught:
            token_of_environment({"PLEXSPACES_TOKEN_FILE": str(file)})
        assert caught.value.hint == f"chmod 600 {file}"
        file.chmod(0o600)
        file.write_text(token[:-1])
        with pytest.raises(InvalidArgument, match="is not a token") as caught:
            token_of_environment({"PLEXSPACES_TOKEN_FILE": str(file)})
        assert token[10:40] not in str(caught.value)


class TestKept:
    def test_credentials_when_kept_then_they_are_found_for_their_node_alone(
        self, token: str, tmp_path: Path
    ) -> None:
        """With the files of TLS; the file and its directory are for their owner alone."""
        tls = ClientTls(tmp_path / 'ca "1".pem', tmp_path / "ü.pem", tmp_path / "key.pem")
        path = keep(f"https://{NODE}", Credentials(token, tls))
        other = keep("127.0.0.1:9000", Credentials(new_secret()))
        assert (
            path == other == credentials_file() == tmp_path / ".config/plexspaces/credentials.toml"
        )
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert credentials_of(NODE) == Credentials(token, tls)
        assert credentials_of(NODE.upper()) == Credentials(token, tls)
        assert credentials_of("node.example:9001") == Credentials()
        assert credentials_of(NODE, {"PLEXSPACES_TOKEN": token, "HOME": "/none"}).token == token
        assert token not in repr(credentials_of(NODE))
        assert forget(NODE)
        assert not forget(NODE)
        assert credentials_of(NODE) == Credentials()
        assert credentials_of("127.0.0.1:9000").token

    def test_file_when_others_may_read_it_or_it_is_none_then_it_is_refused(
        self, token: str
    ) -> None:
        """Nothing is sent by a client that cannot keep a secret."""
        path = keep(NODE, Credentials(token))
        path.chmod(0o640)
        if path.stat().st_uid:
            with pytest.raises(InvalidArgument, match="can be read or written by others"):
                credentials_of(NODE)
        path.chmod(0o604)
        with pytest.raises(InvalidArgument, match="can be read or written by others"):
            credentials_of(NODE)
        path.chmod(0o600)
        for text in ("[nodes", "nodes = 1", "[nodes]\na = 1", token):
            path.write_text(text)
            with pytest.raises(InvalidArgument, match="not what plexspaces login writes") as caught:
                credentials_of(NODE)
            assert token[10:40] not in str(caught.value)


def test_build_when_the_environment_has_a_token_then_compilers_do_not_inherit_it(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run code of packages that nobody has read."""
    monkeypatch.setenv("PLEXSPACES_TOKEN", token)
    monkeypatch.setenv("PLEXSPACES_TOKEN_FILE", "/run/token")
    assert not [name for name in BuildEnvironment.here().variables if "TOKEN" in name]


class TestWay:
    def test_token_when_others_could_read_it_on_its_way_then_it_is_not_sent(
        self, token: str
    ) -> None:
        """Over TLS, to this host and by a socket it is."""
        with pytest.raises(InvalidArgument, match=r"is not sent to node\.example:9000") as caught:
            way_to(NODE, token=token)
        assert caught.value.hint is not None
        assert "https://node.example:9000" in caught.value.hint
        assert way_to(f"https://{NODE}", token=token) == Way(NODE, NODE, ClientTls(), token)
        assert way_to("localhost:9000", token=token).token == token
        assert way_to("[::1]:9000", token=token).token == token
        assert way_to("unix:/run/a b%/node.sock", token=token) == Way(
            "unix:/run/a b%/node.sock", "unix:/run/a%20b%25/node.sock", None, token
        )
        assert token not in repr(way_to("localhost:9000", token=token))

    def test_node_of_this_host_when_a_notice_tells_its_sockets_then_by_them(
        self, token: str, tmp_path: Path
    ) -> None:
        """Not if TLS is asked for, nor for an address that merely looks like it."""
        notice = Notice("127.0.0.1:8080", "/data/node.sock", "/data/http.sock")
        with posted("127.0.0.1:9000", notice):
            assert way_to("localhost:9000").target == "unix:/data/node.sock"
            assert http_address("localhost:9000") == "unix:/data/http.sock"
            assert http_address("localhost:9000", tls=True) == "127.0.0.1:8080"
            assert way_to("https://localhost:9000").target == "localhost:9000"
            assert way_to("localhost:9001").target == "localhost:9001"
            assert http_address("localhost:9001") is None
        assert way_to("localhost:9000").target == "localhost:9000"
        assert http_address(f"unix:{tmp_path}/node.sock") is None

    def test_client_when_made_then_its_token_is_looked_for_when_it_is_opened(
        self, token: str
    ) -> None:
        """So that its errors come where it is used."""
        client = NodeClient(NODE, token=token)
        assert token not in repr(client)
        assert NodeClient("127.0.0.1:9000").tls is None
