"""WASI commands: programs that are started anew for every message.

The payload is on stdin, the reply is what they write to stdout, stderr is the log. The type of the
message and its sender are in the environment. Two binary forms, one behaviour: a core module with
`_start` (WASI preview 1), and a component that exports `wasi:cli/run` (WASI 0.2).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter_ns

from plexspaces_node.agent import contract
from plexspaces_node.agent.boundary import ComponentFunction, Err
from plexspaces_node.agent.output import Output
from plexspaces_node.agent.runtime import (
    Measured,
    Settings,
    checked_reply,
    explain,
    last_words,
)
from plexspaces_node.agent.wasm import (
    Component,
    ComponentLinker,
    Engine,
    Module,
    Store,
    Wasi,
    WasmError,
)
from plexspaces_node.agent.watchdog import Watchdog
from plexspaces_node.errors import ActorFailed

Entry = Callable[[Store], Callable[[], int]]
"""Makes an instance and returns what runs it; that returns the exit status."""


def module_entry(engine: Engine, path: str) -> Entry:
    """Load a core module with `_start`; blocks for about a millisecond."""
    module = Module(engine, path)

    def instantiate(store: Store) -> Callable[[], int]:
        instance = module.instantiate(store)

        def run() -> int:
            instance.run("_start")
            return 0

        return run

    return instantiate


def component_entry(engine: Engine, path: str) -> Entry:
    """Load a component that exports `wasi:cli/run`; blocks for about a millisecond."""
    component = Component(engine, path)
    linker = ComponentLinker(engine)
    name = next(name for name in component.exports() if name.startswith(contract.CLI_RUN))

    def instantiate(store: Store) -> Callable[[], int]:
        function = linker.instantiate(store, component).function(name, "run")
        if function is None:
            raise ActorFailed(f"the component has no function run in {name}", code="no-entry")
        call = ComponentFunction(store, function, 0)
        return lambda: 1 if isinstance(call(), Err) else 0

    return instantiate


class CommandRuntime:
    """A WASI command in either form: a new instance for each message, and so no state."""

    stateful = False

    def __init__(
        self, engine: Engine, entry: Entry, settings: Settings, *, name: str, output: Output
    ) -> None:
        """Take what makes instances; `name` becomes argv[0]."""
        self.measured = Measured()
        self.alive = False
        self._engine = engine
        self._entry = entry
        self._settings = settings
        self._name = name
        self._output = output
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

    def _wasi(self, sender: str, msg_type: str) -> Wasi:
        env = {
            **self._settings.env,
            "PLEXSPACES_MESSAGE_TYPE": msg_type,
            "PLEXSPACES_SENDER": sender,
        }
        wasi = Wasi(env, argv=(self._name,))
        wasi.files(
            stdin=f"/proc/self/fd/{self._stdin}",
            stdout=f"/proc/self/fd/{self._stdout}",
            stderr=self._output.stderr_path,
        )
        return wasi

    def _run(self, store: Store, deadline_ns: int) -> None:
        begin = 0
        try:
            with self._watchdog.deadline(store, deadline_ns):
                run = self._entry(store)
                begin = perf_counter_ns()
                status = run()
        except WasmError as end:
            if end.exit_status is None:
                raise explain(end, self._output, "running the command", self._settings) from end
            status = end.exit_status
        finally:
            if begin:
                self.measured.compute_ns = perf_counter_ns() - begin
        if status != 0:
            said = last_words(self._output.drain())
            raise ActorFailed(
                said or f"the command ended with status {status}",
                code=f"exit-{status}",
                hint=self._settings.logs_hint,
            )

    def _reply(self) -> bytes:
        limit = self._settings.message_limit
        reply = os.pread(self._stdout, limit + 1, 0)
        return checked_reply(reply, limit)
