"""Running an artifact: one wasmtime Store per actor instance, thrown away after a trap.

Two ways, one interface: `ComponentRuntime` keeps an instance of an actor component between
messages, `CommandRuntime` makes a new instance of a WASI command for each. Both turn whatever the
guest does into a reply, an `ActorError` or `DeadlineExceeded`, and measure the time inside it.
Blocking, for one thread at a time; the thread must not be the main one, since wasmtime's signal
handling and Python's do not mix there.
"""

from __future__ import annotations

import os
from time import monotonic_ns, perf_counter_ns
from typing import Any, Protocol

from wasmtime import Engine, ExitTrap, Func, Linker, Module, Store, Trap, WasiConfig, WasmtimeError
from wasmtime.component import Component

from plexspaces_node.agent import contract
from plexspaces_node.agent.boundary import ComponentFunction, Err
from plexspaces_node.agent.host import Host
from plexspaces_node.agent.output import Output
from plexspaces_node.agent.watchdog import Watchdog
from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    DeadlineExceeded,
    PlexSpacesError,
)
from plexspaces_node.wire.link import STATE_LIMIT_BYTES

_FUNCTION_PARAMETERS = {"init": 1, "handle-message": 3, "snapshot-state": 0, "shutdown": 0}

_TRAPS = (
    ("unreachable", "unreachable", "the actor panicked, aborted or ran out of its memory"),
    ("call stack exhausted", "stack-overflow", "the actor recursed too deeply"),
    ("out of bounds memory access", "memory-out-of-bounds", "the actor read or wrote outside"),
    ("integer divide by zero", "divide-by-zero", "the actor divided by zero"),
    ("indirect call", "bad-call", "the actor called what is no function"),
)
"""What a trap's text contains, its code for programs, and what it means."""

_LOGS_HINT = "see what it wrote with: plexspaces logs NAME"


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

        Raises `ActorFailed` (the instance lives on), or `ActorTrapped` or `DeadlineExceeded`
        (it does not).
        """

    def snapshot(self, deadline_ns: int) -> bytes:
        """Return the state; raises as `handle` does."""

    def shutdown(self, deadline_ns: int) -> None:
        """Give the instance its last call; raises as `handle` does."""


class Settings:
    """What bounds a guest, fixed for the life of the machine."""

    def __init__(self, *, env: dict[str, str], memory_bytes: int, message_limit: int) -> None:
        self.env = env
        self.memory_bytes = memory_bytes
        self.message_limit = message_limit

    def store(self, engine: Engine, wasi: WasiConfig) -> Store:
        """Return a store bounded by these settings.

        The memory bound holds for each linear memory, of which components have one in practice;
        the machine's own memory bounds their sum.
        """
        store = Store(engine)
        store.set_limits(
            memory_size=self.memory_bytes,
            table_elements=1_000_000,
            instances=256,
            tables=256,
            memories=16,
        )
        # Without a WASI context the first WASI call would abort the whole process.
        store.set_wasi(wasi)
        return store


class ComponentRuntime:
    """An actor component with one live instance."""

    stateful = True

    def __init__(
        self, engine: Engine, path: str, settings: Settings, host: Host, *, output: Output
    ) -> None:
        """Load the compiled artifact at `path` by mapping it; blocks for about a millisecond."""
        self.measured = Measured()
        self.alive = False
        self._engine = engine
        self._component = Component.deserialize_file(engine, path)
        self._settings = settings
        self._host = host
        self._output = output
        self._linker, self._keep = host.linker(engine)
        self._watchdog = Watchdog(engine)
        self._store: Store | None = None
        self._functions: dict[str, ComponentFunction] = {}

    def start(self, state: bytes, deadline_ns: int) -> None:
        self.alive = False
        self._functions = {}
        if self._store is not None:
            self._store.close()
        wasi = WasiConfig()
        wasi.stdout_file = self._output.stdout_path
        wasi.stderr_file = self._output.stderr_path
        wasi.env = self._settings.env.items()
        self._store = store = self._settings.store(self._engine, wasi)
        try:
            with self._watchdog.deadline(store, deadline_ns):
                instance = self._linker.instantiate(store, self._component)
        except WasmtimeError as error:
            raise explain(error, self._output, "starting the actor") from error
        actor = instance.get_export_index(store, contract.ACTOR)
        for name, parameters in _FUNCTION_PARAMETERS.items():
            index = instance.get_export_index(store, name, actor)
            function = instance.get_func(store, index) if index else None
            if function is None:
                raise ActorFailed(f"the component has no function {name}", code="no-entry")
            self._functions[name] = ComponentFunction(store, function, parameters)
        self.alive = True
        answer = self._call("init", deadline_ns, state)
        if isinstance(answer, Err):
            self.alive = False
            raise ActorFailed(f"init: {answer.value}", code="init")

    def handle(self, sender: str, msg_type: str, payload: bytes, deadline_ns: int) -> bytes:
        answer = self._call("handle-message", deadline_ns, sender, msg_type, payload)
        if isinstance(answer, Err):
            record = answer.value
            raise ActorFailed(record["message"], code=record["code"], retryable=record["retryable"])
        return _checked_reply(answer.value, self._settings.message_limit)

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
        except WasmtimeError as error:
            self.alive = False
            raise explain(error, self._output, name) from error
        finally:
            self.measured.wait_ns = host.waited_ns
            self.measured.compute_ns = max(0, function.elapsed_ns - host.waited_ns)


class CommandRuntime:
    """A WASI command: a new instance for each message, and so no state."""

    stateful = False

    def __init__(
        self, engine: Engine, path: str, settings: Settings, *, name: str, output: Output
    ) -> None:
        """Load the compiled artifact at `path` by mapping it; `name` becomes argv[0]."""
        self.measured = Measured()
        self.alive = False
        self._engine = engine
        self._module = Module.deserialize_file(engine, path)
        self._settings = settings
        self._name = name
        self._output = output
        self._linker = Linker(engine)
        self._linker.define_wasi()
        self._watchdog = Watchdog(engine)
        # Files in memory: the guest is given them by path, and truncating is cheaper than making.
        self._stdin = os.memfd_create("stdin", os.MFD_CLOEXEC)
        self._stdout = os.memfd_create("stdout", os.MFD_CLOEXEC)

    def start(self, state: bytes, deadline_ns: int) -> None:
        del state, deadline_ns
        self.alive = True

    def handle(self, sender: str, msg_type: str, payload: bytes, deadline_ns: int) -> bytes:
        os.ftruncate(self._stdin, 0)
        os.pwrite(self._stdin, payload, 0)
        os.ftruncate(self._stdout, 0)
        self.measured.compute_ns = self.measured.wait_ns = 0
        store = self._settings.store(self._engine, self._wasi(sender, msg_type))
        try:
            self._run(store, deadline_ns)
        finally:
            store.close()
        return self._reply()

    def snapshot(self, deadline_ns: int) -> bytes:
        del deadline_ns
        return b""

    def shutdown(self, deadline_ns: int) -> None:
        del deadline_ns

    def _wasi(self, sender: str, msg_type: str) -> WasiConfig:
        wasi = WasiConfig()
        wasi.argv = [self._name]
        wasi.env = {
            **self._settings.env,
            "PLEXSPACES_MESSAGE_TYPE": msg_type,
            "PLEXSPACES_SENDER": sender,
        }.items()
        wasi.stdin_file = f"/proc/self/fd/{self._stdin}"
        wasi.stdout_file = f"/proc/self/fd/{self._stdout}"
        wasi.stderr_file = self._output.stderr_path
        return wasi

    def _run(self, store: Store, deadline_ns: int) -> None:
        begin = 0
        try:
            with self._watchdog.deadline(store, deadline_ns):
                instance = self._linker.instantiate(store, self._module)
                entry = instance.exports(store)["_start"]
                assert isinstance(entry, Func)
                begin = perf_counter_ns()
                entry(store)
        except ExitTrap as end:
            if end.code != 0:
                said = self._output.drain()
                raise ActorFailed(
                    said[-1] if said else f"the command ended with status {end.code}",
                    code=f"exit-{end.code}",
                    hint=_LOGS_HINT,
                ) from end
        except (Trap, WasmtimeError) as error:
            raise explain(error, self._output, "_start") from error
        finally:
            if begin:
                self.measured.compute_ns = perf_counter_ns() - begin

    def _reply(self) -> bytes:
        limit = self._settings.message_limit
        reply = os.pread(self._stdout, limit + 1, 0)
        return _checked_reply(reply, limit)


def explain(error: Exception, output: Output, during: str) -> PlexSpacesError | ActorError:
    """Say what ended a guest, with its own last words where it left any."""
    text = str(error)
    said = output.drain()
    words = f"; it last wrote: {said[-1]}" if said else ""
    if "wasm trap: interrupt" in text:
        return DeadlineExceeded(
            f"{during}: no answer within the time given; the actor was interrupted{words}",
            hint="give it more time, for example: plexspaces invoke NAME --timeout 60",
        )
    if "fuel allocated for hostcalls" in text:
        return ActorFailed(f"{during}: the reply is too large to carry", code="reply-too-large")
    for part, code, meaning in _TRAPS:
        if part in text:
            return ActorTrapped(
                f"{during}: trap: {part}: {meaning}{words}", code=code, hint=_LOGS_HINT
            )
    cause = [line.strip() for line in text.splitlines() if line.strip()][-1:] or ["unknown"]
    return ActorTrapped(f"{during}: {cause[0]}{words}", code="trap", hint=_LOGS_HINT)


def in_time(timeout_ns: int) -> int:
    """Return the deadline that lies `timeout_ns` ahead on the monotonic clock."""
    return monotonic_ns() + timeout_ns


def _checked_reply(reply: bytes, limit: int) -> bytes:
    if len(reply) > limit:
        raise ActorFailed(
            f"a reply of {len(reply)} bytes or more is over the limit of {limit}",
            code="reply-too-large",
            hint="raise [limits] message_bytes, or answer in parts",
        )
    return reply
