"""A node of a cluster as a user starts it: a process of its own, which is killed and paused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from support.cluster.network import Host
from support.patience import patient

from plexspaces_node import NodeClient
from plexspaces_node.config import CLUSTER_TOKEN_VARIABLE as VARIABLE
from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.programs import cache_home

CLUSTER = "shop"
ROUTES_PORT = 9400
_START_S = 90.0
"""For a node to serve; the first one waits for its NATS server to elect itself."""
_STOP_S = 60.0
_TESTS = Path(__file__).parents[2]


class ClusterNode:
    """One node, on a host of its own, or on this one at a loopback address of its own.

    Attributes:
        id: its name in the cluster.
        address: the host that other nodes reach it at.
        data_dir: what it keeps; removed by whoever made the directory above.
    """

    def __init__(
        self,
        id: str,
        data_dir: Path,
        *,
        address: str,
        host: Host | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Set it up without a process; `settings` by their keys, as `node.grace_s`."""
        self.id = id
        self.data_dir = data_dir
        self.address = address
        self.host = host
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: set[int] = set()

    def __repr__(self) -> str:
        return f"<ClusterNode {self.id} {'up' if self.is_up else 'down'}>"

    @property
    def route(self) -> str:
        """HOST:PORT of its NATS server for others."""
        return f"{self.address}:{ROUTES_PORT}"

    @property
    def is_up(self) -> bool:
        """Whether its process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def target(self) -> str:
        """Its address for clients: a unix socket, which no partition of a network cuts."""
        return f"unix:{self.data_dir / 'node.sock'}"

    @property
    def http_socket(self) -> Path:
        return self.data_dir / "http.sock"

    @property
    def http_address(self) -> str:
        """HOST:PORT of its HTTP port, on its own host."""
        return f"{self._loopback}:8080"

    @property
    def token(self) -> str:
        """The token of its cluster, once it has been started."""
        return (self.data_dir / "cluster" / "token").read_text().strip()

    def client(self) -> NodeClient:
        """Return a client of it, not connected yet."""
        return NodeClient(self.target)

    def start(self, *flags: str, token: str = "") -> None:
        """Start its process; `serving` waits for it."""
        assert not self.is_up
        argv = [
            *(sys.executable, "-m", "plexspaces_node.cli.main", "start-node", "--node-id", self.id),
            *("--address", f"{self._loopback}:9000"),
            *("--isolation", "process", "--data-dir", str(self.data_dir), *flags),
        ]
        argv = self.host.argv(*argv) if self.host else ["setpriv", "--pdeathsig", "KILL", *argv]
        self._paused.clear()
        with self.log.open("ab") as log:
            log.write(f"--- {' '.join(argv)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                argv, env=self.environment(token), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def serving(self) -> None:
        """Wait until it answers; raises `Unavailable`, with its log, if it ended instead."""
        async with asyncio.timeout(patient(_START_S)):
            while not await self.answers():
                if not self.is_up:
                    raise Unavailable(f"the node {self.id} has ended: {self.log_tail()}")
                await asyncio.sleep(0.05)

    async def answers(self, *, within_s: float = 2.0) -> bool:
        """Return whether it answers a call."""
        try:
            async with self.client() as client:
                await client.inspect_node(timeout_s=within_s)
        except PlexSpacesError:
            return False
        return True

    def kill(self) -> None:
        """End its process at once, and nothing else."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(patient(_STOP_S))
            self._paused.clear()

    def crash(self) -> None:
        """End everything that runs for it at once, as when its host loses its power."""
        servers = self.servers()
        self.kill()
        if self.host is not None:
            self.host.kill_all()
            return
        for pid in servers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def stop(self) -> int:
        """End it in good order, as Ctrl-C does; return its exit status."""
        assert self._process is not None
        self.resume()
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, patient(_STOP_S))
        except subprocess.TimeoutExpired:
            raise Unavailable(f"the node {self.id} does not end: {self.log_tail()}") from None

    def servers(self) -> list[int]:
        """Return the processes of its NATS server."""
        found = []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            with suppress(OSError):
                words = (path / "cmdline").read_bytes().split(b"\0")
                is_server = words[0].rpartition(b"/")[2] == b"nats-server"
                if is_server and any(os.fsencode(self.data_dir) + b"/" in word for word in words):
                    found.append(int(path.name))
        return found

    def kill_server(self) -> None:
        """End its NATS server at once; its node is to start another."""
        for pid in self.servers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._paused -= self._paused - {self.pid}

    def pause(self, *, node: bool = True, server: bool = True) -> None:
        """Let it, its NATS server or both not go on, until `resume`."""
        pids = [*([self.pid] if node else []), *(self.servers() if server else [])]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._paused.add(pid)

    def resume(self) -> None:
        """Let go on what was paused."""
        for pid in self._paused:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._paused.clear()

    def processes(self) -> list[int]:
        """Return what runs on its own host."""
        assert self.host is not None
        return self.host.processes()

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines of its log, and of its NATS servers'."""
        return "\n".join(
            line
            for path in (self.log, *sorted((self.data_dir / "nats").rglob("*.log")))
            if path.exists()
            for line in path.read_text(errors="replace").splitlines()[-lines:]
        )

    @property
    def _loopback(self) -> str:
        # Of its own: what a node writes about itself is named after its address, and so all have
        # the usual ports.
        return f"127.91.0.{self.host.address.rpartition('.')[2]}" if self.host else self.address

    def environment(self, token: str = "") -> dict[str, str]:
        """Return what its processes have for an environment: nothing of this machine's settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PLEXSPACES_", "XDG_"))}
        given = {
            "http.address": self.http_address,
            "node.grace_s": 5,
            "limits.snapshot_interval_s": 0.2,
            **self._settings,
        }
        named = {
            "PLEXSPACES_" + key.replace(".", "_").upper(): str(value)
            for key, value in given.items()
        }
        if token:
            named[VARIABLE] = token
        path = os.pathsep.join(str(_TESTS.parent / one) for one in ("src", "sdk/python", "tests"))
        home = self.data_dir.with_name(f"{self.data_dir.name}.home")
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(cache_home()), "PYTHONPATH": path}
        return {**kept, **own, **named}
