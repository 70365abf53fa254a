"""The agent's end of the link: dials the node, serves its requests, dials again when it breaks.

The main thread reads frames and never runs guest code; the actor's thread and the output thread
write frames, one at a time. What the actor asks of the node waits on the actor's thread for the
answer that the main thread reads.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from time import monotonic, perf_counter_ns, time_ns
from types import TracebackType

from plexspaces_node.agent.actor import Actor, Outlets
from plexspaces_node.agent.command import CommandRuntime, component_entry, module_entry
from plexspaces_node.agent.host import Host
from plexspaces_node.agent.memory import Memory, of_process
from plexspaces_node.agent.output import Output
from plexspaces_node.agent.room import Room
from plexspaces_node.agent.runtime import ActorRuntime, Runtime, Settings
from plexspaces_node.agent.wasm import Engine, WasmError
from plexspaces_node.artifact import ACTOR, COMMAND, ENGINE, MAX_MESSAGE_LIMIT_BYTES
from plexspaces_node.errors import ActorError, Internal, PlexSpacesError, WrongState
from plexspaces_node.wire import link
from plexspaces_node.wire.link import Answer, FrameBuffer, FromAgent, FromNode, LinkFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, Self
else:
    Protocol = object

_READ_BYTES = 256 * 1024
_SHUT_RDWR = 2
"""`socket.SHUT_RDWR`: the module is long to import, and only some links are sockets."""
_REDIAL_S = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
_LOST = LinkFailure("platform", "unavailable", "the node is not reachable", None, True)
_LATE = LinkFailure("platform", "deadline_exceeded", "no answer within the time given")


class Stream(Protocol):
    """A connection to the node: what a socket is, and a guest's serial port is made."""

    def recv(self, bufsize: int, /) -> bytes:
        """Wait for bytes and return them, b"" at the end of the stream; raises `OSError`."""

    def sendall(self, data: bytes, /) -> None:
        """Send everything; blocks while the node does not read. Raises `OSError`."""

    def shutdown(self, how: int, /) -> None:
        """End the stream in both directions, so that `recv` on another thread returns."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


Dial = Callable[[], Stream]
"""Opens a new connection to the node, or raises `OSError`."""
Prepare = Callable[[str], None]
"""Makes the artifact at a path readable, or raises a `PlexSpacesError`."""


class Surroundings:
    """What the agent asks of the machine it runs in.

    Attributes:
        prepare: called with an artifact's path before it is loaded.
        measure: says how much memory is in use, or raises `Unavailable`.
        wake: is told the node's time, in nanoseconds since the epoch, and fresh random bytes, at
            every welcome: until then a machine may be one of many that are alike.
    """

    def __init__(
        self,
        *,
        prepare: Prepare | None = None,
        measure: Callable[[], Memory] = of_process,
        wake: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.prepare = prepare
        self.measure = measure
        self.wake = wake


PROCESS = Surroundings()
"""Of an agent that is a process like any other."""


class _Connection:
    """The present connection, if any; frames sent without one are dropped."""

    def __init__(self) -> None:
        self._socket: Stream | None = None
        self._lock = threading.Lock()

    def use(self, opened: Stream | None) -> None:
        with self._lock:
            self._socket = opened

    def close(self) -> None:
        """Wake the reader with an end of stream."""
        with self._lock:
            if self._socket is not None:
                self._socket.shutdown(_SHUT_RDWR)

    def send(self, frame: FromAgent) -> bool:
        """Send a frame; blocks while the node does not read. False when it cannot arrive."""
        data = link.encode(frame)
        with self._lock:
            if self._socket is None:
                return False
            try:
                self._socket.sendall(data)
            except OSError:
                # The reader sees the same break and dials again.
                return False
        return True


class NodeServices:
    """What the actor may ask of the node, over the link."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[threading.Event, list[Answer]]] = {}

    def log(self, stream: str, level: str, message: str) -> None:
        self._connection.send(link.Log(stream, level, message, time_ns()))

    def get(self, key: str, timeout_ns: int) -> Answer:
        return self._request(timeout_ns, lambda id: link.Get(id, key))

    def put(self, key: str, value: bytes | None, timeout_ns: int) -> Answer:
        return self._request(timeout_ns, lambda id: link.Put(id, key, value))

    def tell(self, to: str, msg_type: str, payload: bytes, timeout_ns: int) -> Answer:
        return self._request(timeout_ns, lambda id: link.Tell(id, to, msg_type, payload))

    def ask(self, to: str, msg_type: str, payload: bytes, timeout_ns: int) -> Answer:
        return self._request(timeout_ns, lambda id: link.Ask(id, to, msg_type, payload, timeout_ns))

    def answered(self, answer: Answer) -> None:
        """Hand an answer to whoever waits for it; one that comes too late is dropped."""
        waiting = self._waiting.get(answer.id)
        if waiting is not None:
            event, answers = waiting
            answers.append(answer)
            event.set()

    def lost(self) -> None:
        """Answer everything that waits: the connection is gone."""
        for request_id in list(self._waiting):
            self.answered(Answer(request_id, None, _LOST))

    def _request(self, timeout_ns: int, frame: Callable[[int], FromAgent]) -> Answer:
        request_id = next(self._ids)
        event, answers = threading.Event(), list[Answer]()
        self._waiting[request_id] = (event, answers)
        try:
            if not self._connection.send(frame(request_id)):
                return Answer(request_id, None, _LOST)
            if not event.wait(timeout_ns / 1e9):
                return Answer(request_id, None, _LATE)
            return answers[0]
        finally:
            del self._waiting[request_id]


class AgentServer:
    """Serves one node on one link for the life of the machine.

    With `patience_s` the agent ends when its node has not been reachable for so many seconds.
    """

    def __init__(
        self,
        vm_id: str,
        dial: Dial,
        *,
        around: Surroundings = PROCESS,
        patience_s: float | None = None,
    ) -> None:
        self._patience_s = patience_s
        self._around = around
        self._vm_id = vm_id
        self._dial = dial
        self._connection = _Connection()
        self._services = NodeServices(self._connection)
        self._output = Output(self._wrote)
        self._message_limit = MAX_MESSAGE_LIMIT_BYTES
        self._application = ""
        self._actor: Actor | None = None
        self._stopped = threading.Event()
        # Here rather than at the load: a guest that is copied has it already.
        self._engine = Engine()

    def run(self) -> None:
        """Serve until the node has stopped this agent; blocks. Survives any number of breaks."""
        attempt = 0
        reached_s = monotonic()
        while not self._stopped.wait(_REDIAL_S[min(attempt, len(_REDIAL_S) - 1)]):
            attempt += 1
            if self._patience_s is not None and monotonic() - reached_s > self._patience_s:
                return
            try:
                opened = self._dial()
            except OSError:
                continue
            with opened:
                if self._serve(opened):
                    attempt = 0
                    reached_s = monotonic()
            self._connection.use(None)
            self._services.lost()

    def _serve(self, opened: Stream) -> bool:
        self._connection.use(opened)
        hello = link.Hello(link.GENERATION, self._vm_id, ENGINE, self._application)
        self._connection.send(hello)
        buffer = FrameBuffer(link.frame_limit(MAX_MESSAGE_LIMIT_BYTES))
        welcomed = False
        while not self._stopped.is_set():
            try:
                data = opened.recv(_READ_BYTES)
                bodies = buffer.feed(data)
                for body in bodies:
                    frame = link.decode_from_node(body)
                    self._dispatch(frame)
                    welcomed = True
            except (OSError, link.LinkBroken):
                break
            if not data:
                break
        return welcomed

    def _dispatch(self, frame: FromNode) -> None:
        match frame:
            case link.Invoke():
                self._invoke(frame)
            case link.Answer():
                self._services.answered(frame)
            case link.Cancel():
                if self._actor:
                    self._actor.cancel(frame.id)
            case link.Load():
                self._load(frame)
            case link.Stop():
                self._stop(frame)
            case link.Measure():
                self._say_memory(frame)
            case link.Welcome():
                self._welcome(frame)

    def _welcome(self, frame: link.Welcome) -> None:
        if frame.refused:
            raise link.LinkBroken(frame.refused)
        self._message_limit = frame.message_limit
        if self._around.wake is not None:
            self._around.wake(frame.time_ns, frame.seed)
        if self._actor:
            self._actor.resend_state()

    def _invoke(self, frame: link.Invoke) -> None:
        try:
            if self._actor is None:
                raise WrongState("no application is loaded here")
            self._actor.post(frame)
        except PlexSpacesError as error:
            self._connection.send(link.Reply(frame.id, b"", link.failure_of(error), 0, 0, 0))

    def _load(self, frame: link.Load) -> None:
        if self._actor is not None:
            error = WrongState(f"the machine already runs {self._application!r}")
            self._connection.send(link.Failed(frame.id, link.failure_of(error)))
            return
        begin = perf_counter_ns()
        try:
            runtime = self._runtime(frame)
        except PlexSpacesError as failure:
            self._connection.send(link.Failed(frame.id, link.failure_of(failure)))
            return
        load_ns = perf_counter_ns() - begin
        outlets = Outlets(
            reply=self._reply,
            state=self._state,
            complain=lambda line: self._services.log("agent", "warn", line),
        )
        actor = Actor(
            runtime,
            outlets,
            mailbox=frame.mailbox,
            snapshot_interval_ns=frame.snapshot_interval_ns,
        )

        def started(init_ns: int, error: ActorError | PlexSpacesError | None) -> None:
            if error is None:
                self._connection.send(link.Loaded(frame.id, load_ns, init_ns))
            else:
                self._connection.send(link.Failed(frame.id, link.failure_of(error)))

        self._actor, self._application = actor, frame.application
        actor.start(frame.state, frame.timeout_ns, started)

    def _state(self, state: bytes) -> None:
        self._connection.send(link.State(state))

    def _reply(self, reply: link.Reply) -> None:
        self._connection.send(reply)

    def _runtime(self, frame: link.Load) -> Runtime:
        if self._around.prepare is not None:
            self._around.prepare(frame.path)
        try:
            return self._open(frame)
        except WasmError as error:
            raise Internal(f"the compiled artifact does not load: {error}") from error

    def _open(self, frame: link.Load) -> Runtime:
        engine = self._engine
        room = Room(self._around.measure)
        settings = Settings(
            application=frame.application,
            env=frame.env,
            memory_bytes=frame.memory_bytes,
            message_limit=self._message_limit,
            room=room,
        )
        if frame.kind == ACTOR:
            host = Host(self._services, self._message_limit, room=room)
            return ActorRuntime(engine, frame.path, settings, host, output=self._output)
        load = module_entry if frame.kind == COMMAND else component_entry
        entry = load(engine, frame.path)
        return CommandRuntime(engine, entry, settings, name=frame.application, output=self._output)

    def _stop(self, frame: link.Stop) -> None:
        def goodbye() -> None:
            self._output.drain()
            self._connection.send(link.Stopped(frame.id))
            self._stopped.set()
            self._connection.close()

        if self._actor is None:
            goodbye()
        else:
            self._actor.stop(frame.timeout_ns, goodbye)

    def _say_memory(self, frame: link.Measure) -> None:
        try:
            self._connection.send(link.Measured(frame.id, *self._around.measure()[:4]))
        except PlexSpacesError as error:
            self._connection.send(link.Failed(frame.id, link.failure_of(error)))

    def _wrote(self, stream: str, line: str) -> None:
        self._services.log(stream, "info" if stream == "stdout" else "warn", line)
