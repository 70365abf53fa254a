"""Engine, stores, components and modules, as the agent needs them, on wasmtime's C API.

An object owns what it points to. Engines, linkers and artifacts live as long as the agent, which
has one of each; a `Store` is closed by whoever made it, and nothing of it may be used afterwards.
Values that cross into a component are `agent.boundary`'s.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from ctypes import byref

from plexspaces_node.agent import capi
from plexspaces_node.agent.codegen import SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class WasmError(Exception):
    """What wasmtime refused, or how a guest ended.

    Attributes:
        exit_status: a WASI program's, when it ended by itself; else None.
    """

    def __init__(self, message: str, *, exit_status: int | None = None) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def check(error: int | None, trap: int | None = None) -> None:
    """Raise `WasmError` for the address of an error or a trap, which is freed; None is none."""
    if error:
        status = ctypes.c_int(0)
        exited = capi.error_exit_status(error, byref(status))
        message = _text(capi.error_message, error)
        capi.error_delete(error)
        raise WasmError(message, exit_status=status.value if exited else None)
    if trap:
        # Its text counts the zero at its end.
        message = _text(capi.trap_message, trap).rstrip("\0")
        capi.trap_delete(trap)
        raise WasmError(message)


def _text(read: Any, source: int) -> str:
    text = capi.Bytes()
    read(source, byref(text))
    message = ctypes.string_at(text.data, text.size).decode("utf-8", "replace")
    capi.bytes_delete(byref(text))
    return message


class Engine:
    """The one engine of an agent; it loads what `agent.engine` has compiled."""

    def __init__(self) -> None:
        config = capi.config_new()
        for name, value in SETTINGS.items():
            check(capi.config_setters[name](config, _encoded(value)))
        self.pointer = capi.engine_new(config)

    def increment_epoch(self) -> None:
        """Interrupt the guests of stores whose deadline is one epoch ahead."""
        capi.increment_epoch(self.pointer)


def _encoded(value: str | bool | int) -> bytes | bool | int:
    return value.encode() if isinstance(value, str) else value


class Wasi:
    """What a guest gets from the system: its arguments, its environment and three files.

    Consumed by `Store.set_wasi`.
    """

    def __init__(self, env: Mapping[str, str], *, argv: tuple[str, ...] = ()) -> None:
        self.pointer = capi.wasi_new()
        names = [name.encode() for name in env]
        values = [value.encode() for value in env.values()]
        _accepted(capi.wasi_set_argv(self.pointer, len(argv), _texts([a.encode() for a in argv])))
        _accepted(capi.wasi_set_env(self.pointer, len(names), _texts(names), _texts(values)))

    def files(self, *, stdin: str | None = None, stdout: str, stderr: str) -> None:
        """Open the standard streams by path, stdin as an empty one when it is None.

        Raises `WasmError` when one cannot be opened.
        """
        if stdin is not None:
            _accepted(capi.wasi_set_stdin(self.pointer, stdin.encode()))
        _accepted(capi.wasi_set_stdout(self.pointer, stdout.encode()))
        _accepted(capi.wasi_set_stderr(self.pointer, stderr.encode()))


def _texts(texts: list[bytes]) -> Any:
    return (ctypes.c_char_p * len(texts))(*texts)


def _accepted(done: bool) -> None:
    if not done:
        raise WasmError("wasmtime did not take what a guest was to be given")


class Store:
    """Where instances live, for one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._pointer: int | None = capi.store_new(engine.pointer, None, capi.NO_FINALIZER)
        self.context = capi.store_context(self._pointer)

    def limit(self, *, memory_bytes: int, table_elements: int, instances: int) -> None:
        """Bound what instances can take; `memory_bytes` holds for each linear memory."""
        memories = 16
        capi.store_limiter(
            self._pointer, memory_bytes, table_elements, instances, instances, memories
        )

    def set_wasi(self, wasi: Wasi) -> None:
        """Give WASI to the guests; without it their first call would end the whole process."""
        check(capi.set_wasi(self.context, wasi.pointer))

    def set_epoch_deadline(self, epochs: int) -> None:
        """Interrupt guest code once the engine's epoch has risen so often from now."""
        capi.set_epoch_deadline(self.context, epochs)

    def close(self) -> None:
        """Free the store and everything in it; idempotent."""
        if self._pointer is not None:
            capi.store_delete(self._pointer)
            self._pointer = None


class Component:
    """A compiled component, mapped from its file."""

    def __init__(self, engine: Engine, path: str) -> None:
        """Load what lies at `path`; raises `WasmError` when this engine did not compile it."""
        loaded = ctypes.c_void_p()
        check(capi.component_load(engine.pointer, path.encode(), byref(loaded)))
        self._engine = engine
        self.pointer = loaded.value

    def exports(self) -> Iterator[str]:
        """Give the names of what it exports."""
        kind = capi.component_type(self.pointer)
        name, size, item = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_void_p()
        results = (byref(name), byref(size), byref(item))
        number = 0
        try:
            while capi.component_type_export(kind, self._engine.pointer, number, *results):
                capi.component_extern_delete(item)
                yield ctypes.string_at(name.value or 0, size.value).decode()
                number += 1
        finally:
            capi.component_type_delete(kind)


class ComponentLinker:
    """What components find to import: WASI 0.2, and the host functions that are added."""

    def __init__(self, engine: Engine) -> None:
        self._pointer = capi.component_linker_new(engine.pointer)
        self._callbacks: list[object] = []
        check(capi.component_add_wasi(self._pointer))

    def define(self, interface: str, functions: Mapping[str, Any]) -> None:
        """Add an interface of callbacks, each a `capi.HostFunction`; they are kept alive."""
        root = capi.component_linker_root(self._pointer)
        instance = ctypes.c_void_p()
        try:
            name = interface.encode()
            check(capi.component_add_instance(root, name, len(name), byref(instance)))
            for function, callback in functions.items():
                name = function.encode()
                arguments = (name, len(name), callback, None, capi.NO_FINALIZER)
                self._callbacks.append(callback)
                check(capi.component_add_function(instance, *arguments))
        finally:
            if instance:
                capi.linker_instance_delete(instance)
            capi.linker_instance_delete(root)

    def instantiate(self, store: Store, component: Component) -> ComponentInstance:
        """Make an instance in a store; raises `WasmError` for a trap or an import it lacks."""
        raw = capi.ComponentInstance()
        check(
            capi.component_instantiate(self._pointer, store.context, component.pointer, byref(raw))
        )
        return ComponentInstance(store, raw)


class ComponentInstance:
    """An instance of a component, for as long as its store."""

    def __init__(self, store: Store, raw: capi.ComponentInstance) -> None:
        self._store = store
        self._raw = raw

    def function(self, interface: str, name: str) -> capi.ComponentFunction | None:
        """Return a function of an exported interface, or None when there is none."""
        inside = self._index(interface, None)
        index = self._index(name, inside) if inside else None
        found = capi.ComponentFunction()
        there = index is not None and capi.component_function(
            byref(self._raw), self._store.context, index, byref(found)
        )
        for pointer in (index, inside):
            if pointer:
                capi.export_index_delete(pointer)
        return found if there else None

    def _index(self, name: str, inside: int | None) -> int | None:
        encoded = name.encode()
        index: int | None = capi.component_export_index(
            byref(self._raw), self._store.context, inside, encoded, len(encoded)
        )
        return index


class Module:
    """A compiled core module, mapped from its file, that may import WASI preview 1."""

    def __init__(self, engine: Engine, path: str) -> None:
        """Load what lies at `path`; raises `WasmError` when this engine did not compile it."""
        loaded = ctypes.c_void_p()
        check(capi.module_load(engine.pointer, path.encode(), byref(loaded)))
        self._pointer = loaded.value
        self._linker = capi.linker_new(engine.pointer)
        check(capi.linker_define_wasi(self._linker))

    def instantiate(self, store: Store) -> ModuleInstance:
        """Make an instance in a store; raises `WasmError` for a trap or an import it lacks."""
        raw, trap = capi.Instance(), ctypes.c_void_p()
        arguments = (self._linker, store.context, self._pointer, byref(raw), byref(trap))
        check(capi.instantiate(*arguments), trap.value)
        return ModuleInstance(store, raw)


class ModuleInstance:
    """An instance of a core module, for as long as its store."""

    def __init__(self, store: Store, raw: capi.Instance) -> None:
        self._store = store
        self._raw = raw

    def run(self, name: str) -> None:
        """Call an exported function without parameters or results.

        Raises `WasmError` for a trap, for the end of a WASI program, or when there is no such
        function.
        """
        encoded, found = name.encode(), capi.Extern()
        context = self._store.context
        arguments = (context, byref(self._raw), encoded, len(encoded), byref(found))
        if not capi.instance_export(*arguments) or found.kind != capi.EXTERN_FUNCTION:
            raise WasmError(f"the module exports no function {name}")
        trap = ctypes.c_void_p()
        error = capi.call(context, byref(found.function), None, 0, None, 0, byref(trap))
        check(error, trap.value)
