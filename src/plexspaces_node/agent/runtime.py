"""Running an artifact: one wasmtime Store per actor instance, thrown away after a trap.

`Runtime` is the one interface. `ActorRuntime`, here, keeps an instance of an actor component
between messages; `agent.command` makes a new instance of a WASI command for each. All turn
whatever the guest does into a reply, an `ActorError` or `DeadlineExceeded`, and measure the time
inside it.
Blocking, for one thread at a time; the thread must not be the main one, since wasmtime's signal
handling and Python's do not mix there.
"""

from __future__ import annotations

from time import monotonic_ns

from plexspaces_node.agent import contract
from plexspaces_node.agent.boundary import ComponentFunction, Err
from plexspaces_node.agent.host import Host
from plexspaces_node.agent.memory import of_process
from plexspaces_node.agent.output import Output
from plexspaces_node.agent.room import Room
from plexspaces_node.agent.wasm import Component, Engine, Store, Wasi, WasmError
from plexspaces_node.agent.watchdog import Watchdog
from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    DeadlineExceeded,
    PlexSpacesError,
)
from plexspaces_node.wire.link import STATE_LIMIT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

_FUNCTIONS = {
    "init": (1, True),
    "handle-message": (3, True),
    "snapshot-state": (0, True),
    "shutdown": (0, False),
}
"""Of each function: how many parameters, and whether it has a result."""

_TRAPS = (
    ("unreachable", "unreachable", "the actor panicked, aborted or ran out of its memory"),
    ("call stack exhausted", "stack-overflow", "the actor recursed too deeply"),
    ("out of bounds memory access", "memory-out-of-bounds", "the actor read or wrote outside"),
    ("integer divide by zero", "divide-by-zero", "the actor divided by zero"),
    ("indirect call", "bad-call", "the actor called what is no function"),
)
"""What a trap's text contains, its code for programs, and what it means."""

_PAGE_BYTES, _MIB = 64 * 1024, 1024 * 1024
_TOO_SMALL = "memory minimum size of "
"""Before the number of pages, in the text of what does not fit into its memory from the start."""

_RAN_OUT = ("MemoryError", "out of memory", "memory allocation of ")
"""What the last words of a language's runtime hold when it was refused memory."""

MORE_MEMORY_HINT = "deploy it with more memory than it has: --memory MIB"
_STARTING, _INIT = "starting the actor", "init"


class Measured:
    """How long the last call took: inside the guest's own code, and in its host calls."""

    __slots__ = ("compute_ns", "wait_ns")

    def __init__(self) -> None:
        self.compute_ns = 0
        self.wait_ns = 0


class Runtime(Protocol):
    """An artifact that can answer messages. Deadlines are on the monotonic clock."""

    measured: Measured
    stateful: bool
    """Whether `snapshot` can ever return anything."""
    alive: bool
    """Whether there is an instance; False after a trap, until `start`."""

    def start(self, state: bytes, deadline_ns: int) -> None:
        """Make a new instance from a snapshot, b"" for none; throws the present one away.

        Raises `ActorFailed` with what `init` said, `ActorTrapped` or `DeadlineExceeded`.
        """

    def handle(self, sender: str, msg_type: str, payload: bytes, deadline_ns: int) -> bytes:
        """Hand over one message and return the reply.

        Raises `ActorFailed`, or `ResourceExhausted` without the memory to hand it over (the
        instance lives on), or `ActorTrapped` or `DeadlineExceeded` (it does not).
        """

    def snapshot(self, deadline_ns: int) -> bytes:
        """Return the state; raises as `handle` does."""

    def shutdown(self, deadline_ns: int) -> None:
        """Give the instance its last call; raises as `handle` does."""


class Settings:
    """What bounds a guest, fixed for the life of the machine."""

    def __init__(
        self,
        *,
        application: str,
        env: dict[str, str],
        memory_bytes: int,
        message_limit: int,
        room: Room | None = None,
    ) -> None:
        self.application = application
        self.env = env
        self.room = room or Room(of_process)
        self.memory_bytes = memory_bytes
        self.message_limit = message_limit

    def store(self, engine: Engine, wasi: Wasi) -> Store:
        """Return a store bounded by these settings.

        The memory bound holds for each linear memory, of which components have one in practice;
        the machine's own memory bounds their sum.
        """
        store = Store(engine)
        store.limit(memory_bytes=self.memory_bytes, table_elements=1_000_000, instances=256)
        store.set_wasi(wasi)
        return store

    @property
    def logs_hint(self) -> str:
        """Say how to see what the guest wrote."""
        return f"see what it wrote with: plexspaces logs {self.application}"


class ActorRuntime:
    """An actor component with one live instance."""

    stateful = True

    def __init__(
        self, engine: Engine, path: str, settings: Settings, host: Host, *, output: Output
    ) -> None:
        """Load the compiled artifact at `path` by mapping it; blocks for about a millisecond."""
        self.measured = Measured()
        self.alive = False
        self._engine = engine
        self._component = Component(engine, path)
        self._settings = settings
        self._host = host
        self._output = output
        self._linker = host.linker(engine)
        self._watchdog = Watchdog(engine)
        self._store: Store | None = None
        self._functions: dict[str, ComponentFunction] = {}

    def start(self, state: bytes, deadline_ns: int) -> None:
        self.alive = False
        self._functions = {}
        if self._store is not None:
            self._store.close()
        # Only Go reads it: its collector does not know of the cap, and would trap at 40 % of it.
        collect_at = {"GOMEMLIMIT": str(self._settings.memory_bytes * 3 // 4)}
        wasi = Wasi(collect_at | self._settings.env)
        wasi.files(stdout=self._output.stdout_path, stderr=self._output.stderr_path)
        self._store = store = self._settings.store(self._engine, wasi)
        try:
            with self._watchdog.deadline(store, deadline_ns):
                instance = self._linker.instantiate(store, self._component)
        except WasmError as error:
            raise explain(error, self._output, _STARTING, self._settings) from error
        for name, (parameters, has_result) in _FUNCTIONS.items():
            function = instance.function(contract.ACTOR, name)
            if function is None:
                raise ActorFailed(f"the component has no function {name}", code="no-entry")
            self._functions[name] = ComponentFunction(
                store, function, parameters, has_result=has_result
            )
        self._settings.room.check(len(state))
        self.alive = True
        answer = self._call(_INIT, deadline_ns, state)
        if isinstance(answer, Err):
            self.alive = False
            raise ActorFailed(f"init: {answer.value}", code="init")

    def handle(self, sender: str, msg_type: str, payload: bytes, deadline_ns: int) -> bytes:
        self._settings.room.check(len(payload))
        answer = self._call("handle-message", deadline_ns, sender, msg_type, payload)
        if isinstance(answer, Err):
            record = answer.value
            raise ActorFailed(record["message"], code=record["code"], retryable=record["retryable"])
        return checked_reply(answer.value, self._settings.message_limit)

    def snapshot(self, deadline_ns: int) -> bytes:
        state: bytes = self._call("snapshot-state", deadline_ns)
        if len(state) > STATE_LIMIT_BYTES:
            raise ActorFailed(
                f"a snapshot of {len(state)} bytes is over the limit of {STATE_LIMIT_BYTES}",
                code="state-too-large",
                hint="keep large data in keyvalue, key by key",
            )
        return state

    def shutdown(self, deadline_ns: int) -> None:
        self._call("shutdown", deadline_ns)

    def _call(self, name: str, deadline_ns: int, *arguments: object) -> Any:
        assert self._store is not None
        host, function = self._host, self._functions[name]
        host.deadline_ns = deadline_ns
        host.waited_ns = function.elapsed_ns = 0
        try:
            with self._watchdog.deadline(self._store, deadline_ns):
                return function(*arguments)
        except WasmError as error:
            self.alive = False
            raise explain(error, self._output, name, self._settings) from error
        finally:
            self.measured.wait_ns = host.waited_ns
            self.measured.compute_ns = max(0, function.elapsed_ns - host.waited_ns)


_LAST_WORDS = ("panic:", "fatal error:", "panicked at")
"""What begins or marks the line in which a language's runtime says why it gives up."""

_PYTHON_THREW = "Python function threw"
"""The panic of Python's runtime, which says nothing: the line before it is the exception's."""


def last_words(lines: list[str]) -> str:
    """Return what a guest said of its end: the line of its panic, else the last line, else ""."""
    for i in range(len(lines) - 1, -1, -1):
        if any(mark in lines[i] for mark in _LAST_WORDS):
            # Rust puts the message on the line after the place.
            words = " ".join(lines[i : i + 2]) if lines[i].endswith(":") else lines[i]
            return lines[i - 1] if i and _PYTHON_THREW in words else words
    return lines[-1] if lines else ""


def explain(
    error: Exception, output: Output, during: str, settings: Settings
) -> PlexSpacesError | ActorError:
    """Say what ended a guest, with its own last words where it left any."""
    text = str(error)
    said = last_words(output.drain())
    words = f"; it last wrote: {said}" if said else ""
    # An application that does not come up is undone, and its log with it.
    deploying = during in (_STARTING, _INIT)
    if "wasm trap: interrupt" in text:
        less = "have it do less there, or raise [limits] deploy_timeout_s"
        return DeadlineExceeded(
            f"{during}: no answer within the time given; the actor was interrupted{words}",
            hint=less if deploying else "give it more time: --timeout SECONDS",
        )
    if "fuel allocated for hostcalls" in text:
        return ActorFailed(f"{during}: the reply is too large to carry", code="reply-too-large")
    if _TOO_SMALL in text:
        return _too_small(text, during, settings.memory_bytes)
    hint = None if deploying else settings.logs_hint
    ran_out = any(sign in said for sign in _RAN_OUT)
    for part, code, meaning in _TRAPS:
        if part in text:
            if ran_out and code == "unreachable":
                meaning, hint = "the actor ran out of memory", MORE_MEMORY_HINT
            return ActorTrapped(f"{during}: trap: {part}: {meaning}{words}", code=code, hint=hint)
    cause = [line.strip() for line in text.splitlines() if line.strip()][-1:] or ["unknown"]
    return ActorTrapped(f"{during}: {cause[0]}{words}", code="trap", hint=hint)


def _too_small(text: str, during: str, memory_bytes: int) -> ActorFailed:
    pages = text.partition(_TOO_SMALL)[2].split()[0]
    needed = -(-int(pages) * _PAGE_BYTES // _MIB)
    given = memory_bytes // _MIB
    return ActorFailed(
        f"{during}: it needs {needed} MiB of memory to begin with, and {given} MiB are left for it",
        code="too-little-memory",
        hint=f"deploy with more memory, at least {needed - given} MiB more: --memory MIB",
    )


def in_time(timeout_ns: int) -> int:
    """Return the deadline that lies `timeout_ns` ahead on the monotonic clock."""
    return monotonic_ns() + timeout_ns


def checked_reply(reply: bytes, limit: int) -> bytes:
    """Return the reply, or raise `ActorFailed` when it is over the limit."""
    if len(reply) > limit:
        raise ActorFailed(
            f"a reply of {len(reply)} bytes or more is over the limit of {limit}",
            code="reply-too-large",
            hint="raise [limits] message_bytes, or answer in parts",
        )
    return reply
