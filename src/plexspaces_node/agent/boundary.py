"""Values across the boundary between Python and a component, and calls both ways.

wasmtime's own Python conversion makes one ctypes object per byte of a `list<u8>` and asks for
the type of every value on every call: 118 ms for an echo of 100 kB where this file takes under
10, and 150 µs for one of 100 bytes where this takes about 30 (WASM.md). It reaches
below wasmtime's public Python API, which is why pyproject.toml pins the exact version and
`tests/integration/test_agent.py` covers every shape.

A C value names its own kind, so lifting needs no types. Lowering goes by the Python value: str,
bytes, bool, int (as u32), `Ok`, `Err`, `Optional` and `Record`. Lists are of u8 only: the
contract has no other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref
from time import perf_counter_ns

from plexspaces_node.agent import capi
from plexspaces_node.agent.capi import Value
from plexspaces_node.agent.wasm import Store, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    HostFunction = Callable[..., Any]

_VALUE_BYTES = ctypes.sizeof(Value)
_OF = Value.of.offset
_U8_KIND = bytes([capi.U8])

_view_of = ctypes.pythonapi.PyMemoryView_FromMemory
_view_of.restype = ctypes.py_object
_view_of.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_WRITABLE = 0x200


class Ok:
    """The ok case of a result; value None for `result<_, E>`."""

    __slots__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value


class Err:
    """The error case of a result."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Optional:
    """An option; value None is its none case."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Record:
    """A record: its fields in the order the contract declares them."""

    __slots__ = ("fields",)

    def __init__(self, fields: tuple[tuple[str, Any], ...]) -> None:
        self.fields = fields


def lift(value: Any) -> Any:
    """Return the Python value of a C value, which stays its owner's to delete.

    A record becomes a dict, an enum its name, an option its value or None, a result `Ok` or `Err`.
    """
    kind = value.kind
    of = value.of
    if kind == capi.LIST:
        items = of.list
        size = items.size
        # Every _VALUE_BYTES-th byte: no object per element, and no copy of the long array.
        return _bytes_at(items, size)[_OF::_VALUE_BYTES].tobytes() if size else b""
    if kind == capi.STRING:
        return _lift_name(of.string)
    if kind == capi.RESULT:
        result = of.result
        inner = lift(result.val.contents) if result.val else None
        return Ok(inner) if result.is_ok else Err(inner)
    if kind == capi.RECORD:
        entries = of.record
        return {
            _lift_name(entries.data[i].name): lift(entries.data[i].val) for i in range(entries.size)
        }
    if kind == capi.U32:
        return of.u32
    if kind == capi.BOOL:
        return of.boolean
    if kind == capi.ENUM:
        return _lift_name(of.enumeration)
    if kind == capi.OPTION:
        return lift(of.option.contents) if of.option else None
    raise TypeError(f"no value of kind {kind} in the actor contract")


def lower(python: Any, value: Any) -> None:
    """Write a Python value into a C value, which then owns copies of everything."""
    of = value.of
    if isinstance(python, bytes):
        _lower_bytes(python, value)
    elif isinstance(python, str):
        of.string = _lower_name(python)
        value.kind = capi.STRING
    elif isinstance(python, bool):
        of.boolean = python
        value.kind = capi.BOOL
    elif isinstance(python, int):
        of.u32 = python
        value.kind = capi.U32
    elif isinstance(python, Ok | Err):
        of.result.val = None if python.value is None else _boxed(python.value)
        of.result.is_ok = isinstance(python, Ok)
        value.kind = capi.RESULT
    elif isinstance(python, Optional):
        of.option = None if python.value is None else _boxed(python.value)
        value.kind = capi.OPTION
    elif isinstance(python, Record):
        _lower_record(python, value)
    else:
        raise TypeError(f"no {type(python).__name__} in the actor contract")


def _lift_name(name: Any) -> str:
    return ctypes.string_at(name.data, name.size).decode() if name.size else ""


def _lower_name(text: str) -> Any:
    data = text.encode()
    name = capi.Bytes()
    capi.bytes_new(byref(name), len(data), data)
    return name


def _lower_bytes(data: bytes, value: Any) -> None:
    size = len(data)
    items = capi.Values()
    capi.values_new(byref(items), size)
    if size:
        image = _bytes_at(items, size)
        image[::_VALUE_BYTES] = _U8_KIND * size
        image[_OF::_VALUE_BYTES] = data
    value.of.list = items
    value.kind = capi.LIST


def _bytes_at(items: Any, size: int) -> Any:
    """Return a view of the memory of so many values: it owns nothing."""
    return _view_of(ctypes.addressof(items.data.contents), size * _VALUE_BYTES, _WRITABLE)


def _lower_record(record: Record, value: Any) -> None:
    entries = capi.Fields()
    capi.fields_new(byref(entries), len(record.fields))
    for i, (name, field) in enumerate(record.fields):
        entries.data[i].name = _lower_name(name)
        lower(field, entries.data[i].val)
    value.of.record = entries
    value.kind = capi.RECORD


def _boxed(python: Any) -> Any:
    inner = Value()
    lower(python, inner)
    return capi.value_new(byref(inner))


class ComponentFunction:
    """An exported function of one instance, with its call frame made once.

    For one caller at a time: the frame is reused. Blocks for as long as the guest runs, with the
    interpreter's lock released.
    """

    def __init__(
        self,
        store: Store,
        function: capi.ComponentFunction,
        parameters: int,
        *,
        has_result: bool = True,
    ) -> None:
        """Take a function and what the contract says of it."""
        self._store = store
        self._function = function
        self._count = parameters
        self._parameters = (Value * parameters)()
        self._has_result = has_result
        self.elapsed_ns = 0

    def __call__(self, *arguments: Any) -> Any:
        """Call the guest; return its lifted result, or None when it has none.

        Afterwards `elapsed_ns` is the wall time inside the guest, conversions by this file not
        counted. Raises `WasmError` for a trap, after which the store is lost.
        """
        if len(arguments) != self._count:
            raise TypeError(f"{len(arguments)} arguments for {self._count} parameters")
        parameters = self._parameters
        result = Value()
        lowered = 0
        try:
            for argument in arguments:
                lower(argument, parameters[lowered])
                lowered += 1
            begin = perf_counter_ns()
            error = capi.component_call(
                byref(self._function),
                self._store.context,
                parameters,
                lowered,
                byref(result) if self._has_result else None,
                1 if self._has_result else 0,
            )
            self.elapsed_ns = perf_counter_ns() - begin
        finally:
            for i in range(lowered):
                capi.value_delete(byref(parameters[i]))
        check(error)
        if not self._has_result:
            return None
        try:
            return lift(result)
        finally:
            capi.value_delete(byref(result))


def callback(name: str, function: HostFunction) -> Any:
    """Return what a `ComponentLinker` takes as the host function `name`.

    The function gets lifted arguments and returns what `lower` takes, or None when the contract
    has no result. Whatever it raises, even `SystemExit`, becomes a trap of the guest: an exception
    that left a callback would end the process.
    """

    def call(  # the signature is wasmtime's
        _data: Any,
        _context: Any,
        _type: Any,
        arguments: Any,
        count: int,
        results: Any,
        _results: int,
    ) -> int:
        try:
            answer = function(*(lift(arguments[i]) for i in range(count)))
            if answer is not None:
                lower(answer, results[0])
        except BaseException as error:  # noqa: BLE001 - see the docstring
            refusal = f"host function {name} failed: {error!r}".replace("\0", "?")
            return capi.error_new(refusal.encode()) or 0
        return 0

    return capi.HostFunction(call)
