"""The node's end of a link, bare: enough to drive a real agent in tests."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import Self, TypeVar

from support.patience import patient

from plexspaces_node.info import LogLine
from plexspaces_node.link import frames as link
from plexspaces_node.model import ArtifactKind
from plexspaces_node.node.applications.instance import KINDS
from plexspaces_node.node.machines.log_lines import LEVELS, STREAMS
from plexspaces_node.programs import agent_program

_F = TypeVar("_F", bound=link.AgentFrame)

SECOND_NS = 1_000_000_000
MESSAGE_LIMIT = 1024 * 1024
MEMORY_BYTES = 64 * 1024 * 1024
HOST_CALLS = (link.Ask, link.Tell, link.Get, link.Put, link.Delete)

PLATFORM, ACTOR, TRAP = (
    link.Failure.ORIGIN_PLATFORM,
    link.Failure.ORIGIN_ACTOR,
    link.Failure.ORIGIN_TRAP,
)

NOT_ALLOWED = link.Failure(origin=ACTOR, code="http-request-denied")
"""The answer to every HTTP request of an application."""


@dataclass(frozen=True)
class Given:
    """What a host call is answered with: a value, None where there is none, or a failure."""

    payload: bytes | None = None
    failure: link.Failure | None = None


@dataclass(frozen=True)
class Replied:
    """A reply with its body."""

    id: int
    payload: bytes
    failure: link.Failure | None
    compute_ns: int
    wait_ns: int
    queue_ns: int


def refused(code: str, message: str) -> Given:
    """Return the answer to a host call that the platform does not do."""
    return Given(failure=link.Failure(origin=PLATFORM, code=code, message=message))


class NodeEnd:
    """Speaks frames with an agent, wherever it runs.

    Attributes:
        slowness: how many times slower than the host itself the agent's machine is.
        host_answers: what each kind of host call is answered with.
        seen: the frames that came while another was waited for, with their bodies.
    """

    def __init__(self, *, slowness: float = 1.0) -> None:
        self.slowness = slowness
        self.host_answers: dict[type[link.HostCall], Given] = {}
        self.seen: list[tuple[link.AgentFrame, link.Body]] = []
        self._ids = itertools.count(1)

    def seconds(self, seconds: float) -> float:
        """Return how long to wait for what takes so many seconds on an ordinary machine."""
        return patient(seconds) * self.slowness

    def welcome(self, connection: socket.socket, *, limit: int = MESSAGE_LIMIT) -> link.Hello:
        """Take a connection, welcome its agent, and return the agent's hello."""
        self._connection = connection
        self._connection.settimeout(self.seconds(20))
        self._reader = link.FrameReader.of_agent(max(limit, 2 * MESSAGE_LIMIT))
        self._frames: list[tuple[link.AgentFrame, link.Body]] = []
        hello, _ = self.receive(link.Hello)
        self.send(
            link.Welcome(
                generation=link.GENERATION,
                node_id="node-test",
                message_limit=limit,
                time_unix_ns=time_ns(),
            )
        )
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

    def send(self, frame: link.NodeFrame, body: link.Body = b"") -> None:
        """Send one frame."""
        self._connection.sendall(link.head_of(frame, len(body)))
        if body:
            # Not an empty one: the agent may have read its last frame, and be gone.
            self._connection.sendall(body)

    def receive(self, *kinds: type[_F]) -> tuple[_F, link.Body]:
        """Return the next frame of a kind, and its body; the others are kept in `seen`.

        Host calls are answered, HTTP requests refused, and parts of a snapshot kept.
        """
        while True:
            while not self._frames:
                count = self._connection.recv_into(self._reader.room())
                if not count:
                    raise EOFError("the agent closed the link")
                self._frames += self._reader.filled(count)
            frame, body = self._frames.pop(0)
            if isinstance(frame, kinds):
                return frame, body
            self.seen.append((frame, body))
            if isinstance(frame, HOST_CALLS):
                self._answer(frame)
            elif isinstance(frame, link.Fetch):
                self.send(link.Answer(id=frame.id, failure=NOT_ALLOWED))
            elif isinstance(frame, link.Snapshot):
                self.send(link.Kept(id=frame.id, bytes=frame.offset + len(body)))

    def _answer(self, call: link.HostCall) -> None:
        given = self.host_answers.get(type(call), Given())
        found = given.payload is not None
        answer = link.Answer(id=call.id, found=found, failure=given.failure)
        self.send(answer, given.payload or b"")

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
        args: tuple[str, ...] = (),
        concurrency: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> link.Loaded | link.Failed:
        """Load an artifact and return the agent's answer."""
        for at in range(0, len(state), link.PART_BYTES):
            self.send(link.State(), state[at : at + link.PART_BYTES])
        self.send(
            link.Load(
                id=next(self._ids),
                application="app",
                path=self.shown(artifact),
                kind=KINDS[ArtifactKind(kind)],
                env={"GREETING": "hello", **(env or {})},
                args=args,
                memory_bytes=memory_bytes,
                state_bytes=len(state),
                timeout_ns=timeout_ns or int(self.seconds(5) * SECOND_NS),
                mailbox=mailbox,
                snapshot_interval_ns=snapshot_interval_ns,
                concurrency=concurrency,
                vcpus=1,
            )
        )
        answer, _ = self.receive(link.Loaded, link.Failed)
        assert isinstance(answer, link.Loaded | link.Failed)
        return answer

    def post(
        self,
        msg_type: str,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        traceparent: str = "",
        request: link.RequestHead | None = None,
    ) -> int:
        """Send a message, which has 5 s unless told otherwise, and return its id."""
        invoke = link.Invoke(
            id=next(self._ids),
            sender="tester",
            type=msg_type,
            timeout_ns=int((timeout_s or self.seconds(5)) * SECOND_NS),
            traceparent=traceparent,
            request=request,
        )
        self.send(invoke, payload)
        return invoke.id

    def reply(self) -> Replied:
        """Return the next reply."""
        frame, body = self.receive(link.Reply)
        failure = frame.failure if frame.HasField("failure") else None
        times = (frame.compute_ns, frame.wait_ns, frame.queue_ns)
        return Replied(frame.id, bytes(body), failure, *times)

    def invoke(
        self,
        msg_type: str,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        traceparent: str = "",
    ) -> Replied:
        """Send a message and return its reply."""
        request_id = self.post(msg_type, payload, timeout_s=timeout_s, traceparent=traceparent)
        while True:
            reply = self.reply()
            if reply.id == request_id:
                return reply

    def stop(self) -> None:
        """Stop the agent in good order and wait for its machine to end."""
        request_id = next(self._ids)
        self.send(link.Stop(id=request_id, timeout_ns=int(self.seconds(5) * SECOND_NS)))
        assert self.receive(link.Stopped)[0].id == request_id
        self.ended()

    def ended(self) -> None:
        """Wait for the agent's end after its goodbye; fail if that was not in good order."""
        raise NotImplementedError

    def of(self, kind: type[_F]) -> list[_F]:
        """Return what was seen of a kind while waiting for something else."""
        return [frame for frame, _ in self.seen if isinstance(frame, kind)]

    def bodies(self, kind: type[link.AgentFrame]) -> list[bytes]:
        """Return the bodies of what was seen of a kind."""
        return [bytes(body) for frame, body in self.seen if isinstance(frame, kind)]

    def states(self) -> list[bytes]:
        """Return the snapshots that were seen whole."""
        states, parts = [], bytearray()
        for frame, body in self.seen:
            if isinstance(frame, link.Snapshot):
                assert frame.offset in (0, len(parts))
                del parts[frame.offset :]
                parts += body
                if frame.last:
                    states.append(bytes(parts))
        return states

    def saved(self) -> bytes:
        """Take what the actor hands over until a snapshot is whole, and return that."""
        while not any(part.last for part in self.of(link.Snapshot)):
            self.invoke("e")
        # Only a frame after its acknowledgement tells that the agent has read that.
        self.invoke("e")
        return self.states()[-1]

    def lines(self) -> list[LogLine]:
        """Return the lines of the log that were seen."""
        return [
            LogLine(
                line.time_unix_ns,
                STREAMS[line.stream],
                LEVELS[line.level],
                line.message,
                line.trace_id,
            )
            for frame in self.of(link.Log)
            for line in frame.lines
        ]


class Peer(NodeEnd):
    """Starts an agent in a process, and ends it."""

    def __init__(
        self, directory: Path, *, memory_mib: int | None = None, limit: int = MESSAGE_LIMIT
    ) -> None:
        super().__init__()
        self._limit = limit
        self._path = directory / "link.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(1)
        self._listener.settimeout(self.seconds(20))
        argv = [str(agent_program()), "--vm-id", "vm-test", "--link", str(self._path)]
        if memory_mib is not None:
            argv += ["--memory-mib", str(memory_mib)]
        self.process = subprocess.Popen(argv)
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
        return self.welcome(connection, limit=self._limit)

    def shown(self, artifact: Path) -> str:
        # An agent sees nothing but the directory of its link.
        there = self._path.with_name(artifact.name)
        if there != artifact:
            shutil.copyfile(artifact, there)
        return str(there)

    def ended(self) -> None:
        assert self.process.wait(self.seconds(10)) == 0
