"""The NATS server beside the node: found, started, started again when it dies, ended with the node.

The kernel kills it when the node's process ends, however that happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported
from plexspaces_node.node.nats.server_files import APP_USER, SYSTEM_USER, ServerFiles
from plexspaces_node.tasks import cancel
from plexspaces_node.vm.host.process import HostProcess, signal_name

_log = logging.getLogger(__name__)

PROGRAM = "nats-server"
INSTALL = "pip install 'plexspaces-node[cluster]'"

MEMORY_LIMIT = "40MiB"
"""From where on the server's runtime collects garbage harder (GOMEMLIMIT)."""

PAUSES_S = (0.2, 5.0)
"""Before the server is started again: the first and the longest, each twice the one before."""

STEADY_S = 30.0
"""After so long a run the next pause is the first one again."""

TERM_S = 5.0
"""How long it may take to end by itself: it hands over what it leads."""

# Told before anything else, so that it cannot outlive a node that dies at once.
_LAUNCH = """
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_TAIL_BYTES = 16 * 1024
_FAULT = re.compile(r"(?:\[(?:FTL|ERR)\] |^panic: |^nats-server: )(.+)")


def find_program() -> Path:
    """Return the nats-server: beside this Python, where its wheel puts it, or on the path.

    Raises `Unsupported` if there is none.
    """
    beside = Path(sys.executable).with_name(PROGRAM)
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(PROGRAM)
    if found is None:
        raise Unsupported(
            "a cluster needs the program nats-server, which is not installed", hint=INSTALL
        )
    return Path(found)


class Server:
    """A server and its supervision; use `opened`. Belongs to the event loop it was opened in."""

    def __init__(self, files: ServerFiles, program: Path, routes: Sequence[str]) -> None:
        self.files = files
        self.client_port = free_port()
        self._program = program
        self._routes = tuple(routes)
        self._process: HostProcess | None = None
        self._has_answered = False
        self._is_stale = False

    def __repr__(self) -> str:
        return f"<Server {self.files.name} {self._process}>"

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, files: ServerFiles, routes: Sequence[str], *, program: Path | None = None
    ) -> AsyncIterator[Server]:
        """Start a server, and again whenever it ends; end it at the end.

        It does not answer yet. Raises `Unsupported` without the program, `InvalidArgument` for
        files that cannot be written.
        """
        server = cls(files, program or find_program(), routes)
        files.lay_out()
        server._start()
        task = asyncio.create_task(server._keep(), name=f"nats-server {files.name}")
        try:
            yield server
        finally:
            await cancel(task)
            await server._end()

    @property
    def url(self) -> str:
        """Where its clients connect, on this host."""
        return f"nats://127.0.0.1:{self.client_port}"

    @property
    def pid(self) -> int:
        """Its process, 0 while there is none."""
        running = self._process is not None and not self._process.ended
        return self._process.identity.pid if running and self._process is not None else 0

    @property
    def routes(self) -> tuple[str, ...]:
        """Where it looks for other servers."""
        return self._routes

    def user(self, *, is_system: bool = False) -> tuple[str, str]:
        """Return the user of its applications or of its administration, and the password."""
        name = SYSTEM_USER if is_system else APP_USER
        return name, self.files.password(name)

    def set_routes(self, routes: Sequence[str]) -> None:
        """Look for these servers from now on; raises `InvalidArgument` for what is no route."""
        if tuple(routes) == self._routes:
            return
        self.files.write_config(self.client_port, routes)
        self._routes = tuple(routes)
        self._is_stale = True
        self._reload()

    def answers(self) -> None:
        """Take note that the server has answered; called each time it does so anew."""
        self._has_answered = True
        self._reload()

    def _reload(self) -> None:
        # Before it answers the signal would end it.
        if self._is_stale and self._has_answered and (pid := self.pid):
            self._is_stale = False
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    def _start(self) -> None:
        self.files.write_config(self.client_port, self._routes)
        self._has_answered = self._is_stale = False
        self.files.output.unlink(missing_ok=True)
        me, files = str(os.getpid()), self.files
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, me]
        self._process = HostProcess.spawn(
            [*launch, str(self._program), "-c", str(files.config)],
            marks=(str(files.config),),
            env={"GOMEMLIMIT": MEMORY_LIMIT, "PATH": os.environ.get("PATH", "")},
            cwd=files.directory,
            output=files.output,
            alone=True,
        )

    async def _keep(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), PAUSES_S[0]
        while True:
            started_s = loop.time()
            if self._process is not None:
                status = await self._process.wait()
                _log.warning(
                    "the NATS server has ended (%s) and is started again: %s",
                    *(_shown(status), _last_words(self.files)),
                )
            if loop.time() - started_s > STEADY_S:
                pause_s = PAUSES_S[0]
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])
            # Somebody else may have taken the port meanwhile.
            self.client_port = free_port()
            try:
                self._start()
            except (OSError, InvalidArgument) as error:
                self._process = None
                _log.warning("the NATS server cannot be started: %s", error)

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        if not await process.ended_within(TERM_S):
            try:
                await process.kill()
            except Unavailable as error:
                _log.warning("the NATS server: %s", error)


def free_port() -> int:
    """Return a port of the loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _shown(status: int | None) -> str:
    if status is None:
        return "without a status"
    return signal_name(-status) if status < 0 else f"status {status}"


def _last_words(files: ServerFiles) -> str:
    """Return the last error that it has told, or where to look."""
    for path in (files.output, files.log):
        with suppress(OSError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
            for line in reversed(lines):
                if found := _FAULT.search(line):
                    return found[1]
    return f"see {files.log}"
