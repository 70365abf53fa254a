"""The node's end of a link, bare: enough to drive a real agent process in tests."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self, TypeVar

from plexspaces_node.wire import link

_F = TypeVar("_F", bound=link.Frame)

SECOND_NS = 1_000_000_000
MESSAGE_LIMIT = 1024 * 1024
MEMORY_BYTES = 64 * 1024 * 1024


class Peer:
    """Starts an agent, speaks frames with it, and ends it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "link.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(1)
        self._listener.settimeout(20)
        self._ids = itertools.count(1)
        argv = [sys.executable, "-m", "plexspaces_node.agent", "--vm-id", "vm-test"]
        self.process = subprocess.Popen([*argv, "--link", str(self._path)])
        self.host_answers: dict[type[link.Frame], link.Answer] = {}
        self.seen: list[link.FromAgent] = []
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
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(20)
        self._buffer = link.FrameBuffer(link.frame_limit(2 * MESSAGE_LIMIT))
        self._frames: list[link.FromAgent] = []
        hello = self.receive(link.Hello)
        self.send(link.Welcome(link.GENERATION, "node-test", MESSAGE_LIMIT))
        return hello

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
        timeout_ns: int = 5 * SECOND_NS,
        snapshot_interval_ns: int = 3600 * SECOND_NS,
        mailbox: int = 16,
        memory_bytes: int = MEMORY_BYTES,
    ) -> link.Loaded | link.Failed:
        """Load an artifact and return the agent's answer."""
        self.send(
            link.Load(
                id=next(self._ids),
                application="app",
                path=str(artifact),
                kind=kind,
                env={"GREETING": "hello"},
                memory_bytes=memory_bytes,
                state=state,
                timeout_ns=timeout_ns,
                mailbox=mailbox,
                snapshot_interval_ns=snapshot_interval_ns,
            )
        )
        answer = self.receive(link.Frame)
        while not isinstance(answer, link.Loaded | link.Failed):
            answer = self.receive(link.Frame)
        return answer

    def post(self, msg_type: str, payload: bytes = b"", *, timeout_s: float = 5.0) -> int:
        """Send a message and return its id."""
        request_id = next(self._ids)
        self.send(link.Invoke(request_id, "tester", msg_type, payload, int(timeout_s * SECOND_NS)))
        return request_id

    def invoke(self, msg_type: str, payload: bytes = b"", *, timeout_s: float = 5.0) -> link.Reply:
        """Send a message and return its reply."""
        request_id = self.post(msg_type, payload, timeout_s=timeout_s)
        while True:
            reply = self.receive(link.Reply)
            if reply.id == request_id:
                return reply

    def stop(self) -> None:
        """Stop the agent in good order and wait for its process."""
        request_id = next(self._ids)
        self.send(link.Stop(request_id, 5 * SECOND_NS))
        assert self.receive(link.Stopped).id == request_id
        assert self.process.wait(10) == 0

    def rss_bytes(self) -> int:
        """Return the memory the agent holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def of(self, kind: type[_F]) -> list[_F]:
        """Return what was seen of a kind while waiting for something else."""
        return [frame for frame in self.seen if isinstance(frame, kind)]
