"""What the NATS server beside the node is given: its configuration, and what it shows others.

    DATA_DIR/nats/
      server.conf                 written anew before each start
      ca.pem node.pem node-key.pem  of the cluster's token, anew with each start of the node
      data/                       what JetStream keeps
      server.log                  what the server says, at most two times 1 MiB
      joining member              there once the server has begun to join, and belongs to it

Only their owner may read them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plexspaces_node.address import split_address
from plexspaces_node.certificates import CA_DAYS, make_peer_certificate
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.private_file import make_private_directory, replace

APP_USER, SYSTEM_USER = "plexspaces", "system"

_TOO_MANY_SERVERS = 10_000
_LOG_BYTES = 1024 * 1024
_MEMORY_BYTES = 64 * 1024 * 1024
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNSPECIFIED = ("0.0.0.0", "::", "[::]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """The files of one server.

    Attributes:
        name: its name in the cluster, which no other server has.
        host, route_port: where other servers reach it, and where it listens for them.
        stores: whether it keeps anything; a companion of a lone server need not.
        joins: whether it is new in a cluster that is there.
        most_bytes: how much disk it may use.
    """

    directory: Path
    name: str
    cluster: str
    token: ClusterToken = field(repr=False)
    host: str
    route_port: int
    stores: bool = True
    joins: bool = False
    most_bytes: int = 16 * 1024**3

    @property
    def config(self) -> Path:
        """The server's configuration."""
        return self.directory / "server.conf"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.directory / "server.log"

    @property
    def output(self) -> Path:
        """What it says before it has read its configuration, and when it crashes."""
        return self.directory / "output.log"

    @property
    def data(self) -> Path:
        """What JetStream keeps."""
        return self.directory / "data"

    @property
    def member(self) -> Path:
        """A file that is there once the server belongs to its cluster."""
        return self.directory / "member"

    @property
    def joining(self) -> Path:
        """A file that is there once the server has begun to join a cluster."""
        return self.directory / "joining"

    @property
    def route(self) -> str:
        """HOST:PORT where other servers reach it."""
        return joined(self.host, self.route_port)

    def password(self, user: str) -> str:
        """Return the password of a user, the same on every server of the cluster."""
        return self.token.derive(f"nats {user}").hex()

    def lay_out(self) -> None:
        """Make the directory, and the certificate of this server.

        It is made anew each time, since each node has the key that signs it. Blocks for some
        milliseconds. Raises `InvalidArgument` for a host that is none, and for a directory that
        cannot be written.
        """
        if self.host in _UNSPECIFIED:
            raise InvalidArgument(
                f"other nodes cannot reach {self.route}",
                hint="set [cluster] address to a name or an address of this host",
            )
        make_private_directory(self.directory)
        make_private_directory(self.data)
        if self.joins:
            self._forbid_founding()
        authority = self.token.authority(self.cluster)
        hosts = dict.fromkeys((self.host, "localhost", "127.0.0.1", "::1", socket.gethostname()))
        pair = make_peer_certificate(authority, self.name, hosts, days=CA_DAYS)
        for name, content in (
            ("ca.pem", authority.certificate),
            ("node.pem", pair.certificate),
            ("node-key.pem", pair.key),
        ):
            replace(self.directory / name, content)

    def _forbid_founding(self) -> None:
        """Let a server that is new in its cluster wait for those that are there, for good.

        It would vote at once otherwise, as would another new one: together they could lead a group
        of their own, and those that are there would follow it and forget everything. For this one
        the group is so large, until it hears how large it is, that no votes suffice. The file is of
        NATS (`encodePeerState` in its `raft.go`): the group's size, no names, no extension.
        """
        place = self.data / "jetstream" / "SYS" / "_js_" / "_meta_"
        place.mkdir(parents=True, exist_ok=True)
        replace(place / "peers.idx", struct.pack("<IIH", _TOO_MANY_SERVERS, 0, 0))
        replace(self.joining, b"")

    def write_config(self, client_port: int, routes: Sequence[str]) -> None:
        """Write the configuration, for clients on this port and with routes to these servers.

        Raises `InvalidArgument` for a route that is not HOST:PORT.
        """
        replace(self.config, self.config_text(client_port, routes).encode())

    def config_text(self, client_port: int, routes: Sequence[str]) -> str:
        """Return the configuration. Whatever its names are, they are texts in it."""
        # Its own too: JetStream starts only with some, and the server finds out which is its own.
        addresses = dict.fromkeys(joined(*split(route)) for route in (self.route, *routes))
        urls = [quoted(f"nats-route://{address}") for address in addresses]
        place, listen = self.directory, joined(self.host, self.route_port)
        store = (
            f"jetstream {{ store_dir: {quoted(str(self.data))}, sync_interval: always, "
            f"max_memory_store: {_MEMORY_BYTES}, max_file_store: {self.most_bytes} }}\n"
            if self.stores
            else ""
        )
        enabled = "jetstream: enabled, " if self.stores else ""
        return (
            f"server_name: {quoted(self.name)}\n"
            f'listen: "127.0.0.1:{client_port}"\n'
            f"log_file: {quoted(str(self.log))}\n"
            f"logfile_size_limit: {_LOG_BYTES}\nlogfile_max_num: 2\n"
            f"max_payload: 1048576\n"
            f"{store}"
            f"cluster {{\n"
            f"  name: {quoted(self.cluster)}\n"
            f"  listen: {quoted(listen)}\n"
            # Its clients are on this host alone.
            f"  no_advertise: true\n"
            f"  routes: [{', '.join(urls)}]\n"
            f"  tls {{ cert_file: {quoted(str(place / 'node.pem'))}, "
            f"key_file: {quoted(str(place / 'node-key.pem'))}, "
            f"ca_file: {quoted(str(place / 'ca.pem'))}, verify: true, timeout: 5 }}\n"
            f"}}\n"
            f"accounts {{\n"
            f"  APP: {{ {enabled}users: [{self._user(APP_USER)}] }}\n"
            f"  SYS: {{ users: [{self._user(SYSTEM_USER)}] }}\n"
            f"}}\n"
            f"system_account: SYS\n"
        )

    def _user(self, user: str) -> str:
        return f"{{ user: {quoted(user)}, password: {quoted(self.password(user))} }}"


def quoted(text: str) -> str:
    """Return a text as the server's configuration has it; no text ends it or is a variable in it.

    Raises `InvalidArgument` for a text with other control characters than line ends and tabs.
    """
    if any(ord(letter) < 0x20 and letter not in _ESCAPED for letter in text) or "\x7f" in text:
        raise InvalidArgument(f"{text!r} cannot be in the configuration of NATS")
    return '"' + "".join(_ESCAPED.get(letter, letter) for letter in text) + '"'


def split(route: str) -> tuple[str, int]:
    """Return host and port of a route; raises `InvalidArgument` if it is none."""
    try:
        return split_address(route)
    except ValueError as error:
        raise InvalidArgument(
            f"{route!r} is not where a NATS server is reached: {error}", hint="use HOST:PORT"
        ) from error


def joined(host: str, port: int) -> str:
    """Return HOST:PORT, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
