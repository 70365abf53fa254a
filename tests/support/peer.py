"""The node's end of a link, bare: enough to drive a real agent in tests."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from pathlib import Path
from time import time_ns
from typing import Self, TypeVar

from support.patience import patient

from plexspaces_node.wire import link

_F = TypeVar("_F", bound=link.Frame)

SECOND_NS = 1_000_000_000
MESSAGE_LIMIT = 1024 * 1024
MEMORY_BYTES = 64 * 1024 * 1024


class NodeEnd:
    """Speaks frames with an agent, wherever it runs.

    Attributes:
        slowness: how many times slower than the host itself the agent's machine is.
        host_answers: what each kind of host call is answered with.
        seen: the frames that came while another was waited for.
    """

    def __init__(self, *, slowness: float = 1.0) -> None:
        self.slowness = slowness
        self.host_answers: dict[type[link.Frame], link.Answer] = {}
        self.seen: list[link.FromAgent] = []
        self._ids = itertools.count(1)

    def seconds(self, seconds: float) -> float:
        """Return how long to wait for what takes so many seconds on an ordinary machine."""
        return patient(seconds) * self.slowness

    def welcome(self, connection: socket.socket) -> link.Hello:
        """Take a connection, welcome its agent, and return the agent's hello."""
        self._connection = connection
        self._connection.settimeout(self.seconds(20))
        self._buffer = link.FrameBuffer(link.frame_limit(2 * MESSAGE_LIMIT))
        self._frames: list[link.FromAgent] = []
        hello = self.receive(link.Hello)
        now_ns = time_ns()
        self.send(link.Welcome(link.GENERATION, "node-test", MESSAGE_LIMIT, time_ns=now_ns))
        return hello

    def forget(self) -> None:
        """Begin a new case: what was seen and the answers of before are gone."""
        self.host_answers.clear()
        self.seen.clear()

    def shown(self, artifact: Path) -> str:
        """Return the path at which the agent finds an artifact."""
        return str(artifact)

    def drop(self) -> None:
        """Break the connection."""
        self._connection.close()

    def send(self, frame: link.FromNode) -> None:
        """Send one frame."""
        self._connection.sendall(link.encode(frame))

    def receive(self, kind: type[_F]) -> _F:
        """Return the next frame of a kind; answers host calls and keeps the others in `seen`."""
        while True:
            while not self._frames:
                data = self._connection.recv(1 << 20)
                if not data:
                    raise EOFError("the agent closed the link")
                self._frames += [link.decode_from_agent(body) for body in self._buffer.feed(data)]
            frame = self._frames.pop(0)
            if isinstance(frame, kind):
                return frame
            self.seen.append(frame)
            if isinstance(frame, link.Ask | link.Tell | link.Get | link.Put):
                answer = self.host_answers.get(type(frame), link.Answer(0, None))
                self.send(link.Answer(frame.id, answer.payload, answer.failure))

    def load(
        self,
        artifact: Path,
        *,
        kind: str = "actor",
        state: bytes = b"",
        timeout_ns: int | None = None,
        snapshot_interval_ns: int = 3600 * SECOND_NS,
        mailbox: int = 16,
        memory_bytes: int = MEMORY_BYTES,
    ) -> link.Loaded | link.Failed:
        """Load an artifact and return the agent's answer."""
        self.send(
            link.Load(
                id=next(self._ids),
                application="app",
                path=self.shown(artifact),
                kind=kind,
                env={"GREETING": "hello"},
                memory_bytes=memory_bytes,
                state=state,
                timeout_ns=timeout_ns or int(self.seconds(5) * SECOND_NS),
                mailbox=mailbox,
                snapshot_interval_ns=snapshot_interval_ns,
            )
        )
        answer = self.receive(link.Frame)
        while not isinstance(answer, link.Loaded | link.Failed):
            answer = self.receive(link.Frame)
        return answer

    def post(self, msg_type: str, payload: bytes = b"", *, timeout_s: float | None = None) -> int:
        """Send a message, which has 5 s unless told otherwise, and return its id."""
        request_id = next(self._ids)
        timeout_ns = int((timeout_s or self.seconds(5)) * SECOND_NS)
        self.send(link.Invoke(request_id, "tester", msg_type, payload, timeout_ns))
        return request_id

    def invoke(
        self, msg_type: str, payload: bytes = b"", *, timeout_s: float | None = None
    ) -> link.Reply:
        """Send a message and return its reply."""
        request_id = self.post(msg_type, payload, timeout_s=timeout_s)
        while True:
            reply = self.receive(link.Reply)
            if reply.id == request_id:
                return reply

    def stop(self) -> None:
        """Stop the agent in good order and wait for its machine to end."""
        request_id = next(self._ids)
        self.send(link.Stop(request_id, int(self.seconds(5) * SECOND_NS)))
        assert self.receive(link.Stopped).id == request_id
        self.ended()

    def ended(self) -> None:
        """Wait for the agent's end after its goodbye; fail if that was not in good order."""
        raise NotImplementedError

    def of(self, kind: type[_F]) -> list[_F]:
        """Return what was seen of a kind while waiting for something else."""
        return [frame for frame in self.seen if isinstance(frame, kind)]


class Peer(NodeEnd):
    """Starts an agent in a process, and ends it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._path = directory / "link.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(1)
        self._listener.settimeout(self.seconds(20))
        argv = [sys.executable, "-m", "plexspaces_node.agent", "--vm-id", "vm-test"]
        self.process = subprocess.Popen([*argv, "--link", str(self._path)])
        self.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self._connection.close()
        self._listener.close()

    def accept(self) -> link.Hello:
        """Take the agent's next connection, welcome it, and return its hello."""
        connection, _ = self._listener.accept()
        return self.welcome(connection)

    def ended(self) -> None:
        assert self.process.wait(self.seconds(10)) == 0
