"""Values across the boundary between Python and a component, and calls both ways.

wasmtime's own Python conversion makes one ctypes object per byte of a `list<u8>` and asks for
the type of every value on every call: 118 ms for an echo of 100 kB where this file takes under
10, and 150 µs for one of 100 bytes where this takes about 30 (WASM.md). It reaches
below wasmtime's public Python API, which is why pyproject.toml pins the exact version and
`tests/integration/test_agent_boundary.py` covers every shape.

A C value names its own kind, so lifting needs no types. Lowering goes by the Python value: str,
bytes, bool, int (as u32), `Ok`, `Err`, `Optional` and `Record`. Lists are of u8 only: the
contract has no other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from wasmtime import Store, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime.component import Func, LinkerInstance

_VALUE = ffi.wasmtime_component_val_t
_VALUE_BYTES = ctypes.sizeof(_VALUE)
_OF = _VALUE.of.offset
_NAME = ffi.wasm_byte_vec_t

_BOOL = ffi.WASMTIME_COMPONENT_BOOL.value
_U8 = ffi.WASMTIME_COMPONENT_U8.value
_U32 = ffi.WASMTIME_COMPONENT_U32.value
_STRING = ffi.WASMTIME_COMPONENT_STRING.value
_LIST = ffi.WASMTIME_COMPONENT_LIST.value
_RECORD = ffi.WASMTIME_COMPONENT_RECORD.value
_ENUM = ffi.WASMTIME_COMPONENT_ENUM.value
_OPTION = ffi.WASMTIME_COMPONENT_OPTION.value
_RESULT = ffi.WASMTIME_COMPONENT_RESULT.value
_U8_KIND = bytes([_U8])


@dataclass(frozen=True, slots=True)
class Ok:
    """The ok case of a result; value None for `result<_, E>`."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Err:
    """The error case of a result."""

    value: Any


@dataclass(frozen=True, slots=True)
class Optional:
    """An option; value None is its none case."""

    value: Any


@dataclass(frozen=True, slots=True)
class Record:
    """A record: its fields in the order the contract declares them."""

    fields: tuple[tuple[str, Any], ...]


def lift(value: Any) -> Any:
    """Return the Python value of a C value, which stays its owner's to delete.

    A record becomes a dict, an enum its name, an option its value or None, a result `Ok` or `Err`.
    """
    kind = value.kind
    of = value.of
    if kind == _LIST:
        items = of.list
        size = items.size
        # One copy of the whole array, then every _VALUE_BYTES-th byte: no object per element.
        return ctypes.string_at(items.data, size * _VALUE_BYTES)[_OF::_VALUE_BYTES] if size else b""
    if kind == _STRING:
        return _lift_name(of.string)
    if kind == _RESULT:
        result = of.result
        inner = lift(result.val.contents) if result.val else None
        return Ok(inner) if result.is_ok else Err(inner)
    if kind == _RECORD:
        entries = of.record
        return {
            _lift_name(entries.data[i].name): lift(entries.data[i].val) for i in range(entries.size)
        }
    if kind == _U32:
        return of.u32
    if kind == _BOOL:
        return of.boolean
    if kind == _ENUM:
        return _lift_name(of.enumeration)
    if kind == _OPTION:
        return lift(of.option.contents) if of.option else None
    raise TypeError(f"no value of kind {kind} in the actor contract")


def lower(python: Any, value: Any) -> None:
    """Write a Python value into a C value, which then owns copies of everything."""
    of = value.of
    if isinstance(python, bytes):
        _lower_bytes(python, value)
    elif isinstance(python, str):
        of.string = _lower_name(python)
        value.kind = _STRING
    elif isinstance(python, bool):
        of.boolean = python
        value.kind = _BOOL
    elif isinstance(python, int):
        of.u32 = python
        value.kind = _U32
    elif isinstance(python, Ok | Err):
        of.result.val = None if python.value is None else _boxed(python.value)
        of.result.is_ok = isinstance(python, Ok)
        value.kind = _RESULT
    elif isinstance(python, Optional):
        of.option = None if python.value is None else _boxed(python.value)
        value.kind = _OPTION
    elif isinstance(python, Record):
        _lower_record(python, value)
    else:
        raise TypeError(f"no {type(python).__name__} in the actor contract")


def _lift_name(name: Any) -> str:
    return ctypes.string_at(name.data, name.size).decode() if name.size else ""


def _lower_name(text: str) -> Any:
    data = text.encode()
    name = _NAME()
    image = (ffi.wasm_byte_t * len(data)).from_buffer_copy(data)
    ffi.wasm_byte_vec_new(ctypes.byref(name), len(data), image)
    return name


def _lower_bytes(data: bytes, value: Any) -> None:
    size = len(data)
    items = ffi.wasmtime_component_vallist_t()
    ffi.wasmtime_component_vallist_new_uninit(ctypes.byref(items), size)
    if size:
        image = bytearray(size * _VALUE_BYTES)
        image[0::_VALUE_BYTES] = _U8_KIND * size
        image[_OF::_VALUE_BYTES] = data
        ctypes.memmove(items.data, (ctypes.c_char * len(image)).from_buffer(image), len(image))
    value.of.list = items
    value.kind = _LIST


def _lower_record(record: Record, value: Any) -> None:
    entries = ffi.wasmtime_component_valrecord_t()
    ffi.wasmtime_component_valrecord_new_uninit(ctypes.byref(entries), len(record.fields))
    for i, (name, field) in enumerate(record.fields):
        entries.data[i].name = _lower_name(name)
        lower(field, entries.data[i].val)
    value.of.record = entries
    value.kind = _RECORD


def _boxed(python: Any) -> Any:
    inner = _VALUE()
    lower(python, inner)
    return ffi.wasmtime_component_val_new(ctypes.byref(inner))


class ComponentFunction:
    """An exported function of one instance, with its call frame made once.

    For one caller at a time: the frame is reused. Blocks for as long as the guest runs, with the
    interpreter's lock released.
    """

    def __init__(self, store: Store, function: Func, parameters: int) -> None:
        self._store = store
        self._function = function._func
        self._count = parameters
        self._parameters = (_VALUE * parameters)()
        self._has_result = function.type(store).result is not None
        self.elapsed_ns = 0

    def __call__(self, *arguments: Any) -> Any:
        """Call the guest; return its lifted result, or None when it has none.

        Afterwards `elapsed_ns` is the wall time inside the guest, conversions by this file not
        counted. Raises `WasmtimeError` for a trap, after which the store is lost.
        """
        if len(arguments) != self._count:
            raise TypeError(f"{len(arguments)} arguments for {self._count} parameters")
        parameters = self._parameters
        result = _VALUE()
        lowered = 0
        try:
            for argument in arguments:
                lower(argument, parameters[lowered])
                lowered += 1
            begin = perf_counter_ns()
            error = ffi.wasmtime_component_func_call(
                ctypes.byref(self._function),
                self._store._context(),
                parameters,
                lowered,
                ctypes.byref(result) if self._has_result else None,
                1 if self._has_result else 0,
            )
            self.elapsed_ns = perf_counter_ns() - begin
        finally:
            for i in range(lowered):
                ffi.wasmtime_component_val_delete(ctypes.byref(parameters[i]))
        if error:
            raise WasmtimeError._from_ptr(error)
        if not self._has_result:
            return None
        try:
            return lift(result)
        finally:
            ffi.wasmtime_component_val_delete(ctypes.byref(result))


HostFunction = Callable[..., Any]

_NO_FINALIZER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(0)


def define(instance: LinkerInstance, name: str, function: HostFunction) -> object:
    """Define a host function for guests; return what must be kept alive as long as the linker.

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
            refusal = WasmtimeError(f"host function {name} failed: {error!r}")
            return ctypes.cast(refusal._consume(), ctypes.c_void_p).value or 0
        return 0

    callback = ffi.wasmtime_component_func_callback_t(call)
    encoded = name.encode()
    error = ffi.wasmtime_component_linker_instance_add_func(
        instance.ptr(),
        ctypes.create_string_buffer(encoded),
        len(encoded),
        callback,
        None,
        _NO_FINALIZER,
    )
    if error:
        raise WasmtimeError._from_ptr(error)
    return callback
