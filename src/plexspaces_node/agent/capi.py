"""The part of wasmtime's C API that the agent calls, declared for ctypes.

Importing the `wasmtime` package declares all of the API, some two thousand names: 40 ms of every
agent's start, and sixteen times that in an emulated guest. This file declares the sixty functions
that are used and finds the package's library itself. `tests/unit/test_capi.py` holds every
declaration against the package's own, whose version pyproject.toml pins.

Pointers to what only wasmtime looks into are plain addresses. Functions that can fail return the
address of an error or None; `agent.wasm` turns those into exceptions.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from ctypes import POINTER, Structure, Union, c_bool, c_int64, c_size_t, c_uint8, c_uint32, c_uint64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIBRARY = f"wasmtime/linux-{os.uname().machine}/_libwasmtime.so"


def _open() -> ctypes.CDLL:
    for directory in sys.path:
        path = os.path.join(directory, _LIBRARY)
        if os.path.exists(path):
            return ctypes.CDLL(path)
    raise ImportError(f"no {_LIBRARY} on the path: pip install --force-reinstall plexspaces-node")


library = _open()


def _declare(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    declared[name] = function
    return function  # type: ignore[no-any-return]


declared: dict[str, Any] = {}
"""Every function declared here, by its name in C."""

_Address = ctypes.c_void_p


# ---- values of components ------------------------------------------------------------------


class Bytes(Structure):
    """`wasm_byte_vec_t`, which is a name and a string too."""

    _fields_ = (("size", c_size_t), ("data", _Address))


class Value(Structure):
    """`wasmtime_component_val_t`."""


class Values(Structure):
    """`wasmtime_component_vallist_t`."""

    _fields_ = (("size", c_size_t), ("data", POINTER(Value)))


class Field(Structure):
    """`wasmtime_component_valrecord_entry_t`."""


class Fields(Structure):
    """`wasmtime_component_valrecord_t`."""

    _fields_ = (("size", c_size_t), ("data", POINTER(Field)))


class Result(Structure):
    """`wasmtime_component_valresult_t`."""

    _fields_ = (("is_ok", c_bool), ("val", POINTER(Value)))


class Of(Union):
    """The kinds of value that the contract has; `other` is as long as the longest there is."""

    _fields_ = (
        ("boolean", c_bool),
        ("u32", c_uint32),
        ("string", Bytes),
        ("list", Values),
        ("record", Fields),
        ("enumeration", Bytes),
        ("option", POINTER(Value)),
        ("result", Result),
        ("other", c_uint64 * 3),
    )


Value._fields_ = (("kind", c_uint8), ("of", Of))
Field._fields_ = (("name", Bytes), ("val", Value))

BOOL, U8, U32, STRING, LIST, RECORD, ENUM, OPTION, RESULT = 0, 2, 6, 12, 13, 14, 17, 18, 19
"""What `Value.kind` says."""


# ---- handles that are kept by value --------------------------------------------------------


class ComponentInstance(Structure):
    """`wasmtime_component_instance_t`."""

    _fields_ = (("store", c_uint64), ("_private", c_uint32))


class ComponentFunction(Structure):
    """`wasmtime_component_func_t`."""

    _fields_ = (
        ("store", c_uint64),
        ("_private1", c_uint64),
        ("_private2", c_uint64),
        ("_private3", _Address),
    )


class Instance(Structure):
    """`wasmtime_instance_t`."""

    _fields_ = (("store", c_uint64), ("_private", c_size_t))


class Function(Structure):
    """`wasmtime_func_t`."""

    _fields_ = (("store", c_uint64), ("_private", _Address))


class Extern(Structure):
    """`wasmtime_extern_t`, of which only functions are looked into."""

    _fields_ = (("kind", c_uint8), ("function", Function), ("_other", c_uint64))


EXTERN_FUNCTION = 0
"""What `Extern.kind` says of a function."""

HostFunction = ctypes.CFUNCTYPE(
    c_size_t,
    *(_Address, _Address, _Address),
    *(POINTER(Value), c_size_t, POINTER(Value), c_size_t),
)
"""`wasmtime_component_func_callback_t`."""
Finalizer = ctypes.CFUNCTYPE(None, _Address)
NO_FINALIZER = Finalizer(0)


# ---- functions, under their names without the prefix ---------------------------------------

config_new = _declare("wasm_config_new", _Address)
config_setters = {
    name: _declare(f"wasmtime_config_{name}_set", result, _Address, kind)
    for name, result, kind in (
        ("target", _Address, _Address),
        ("epoch_interruption", None, c_bool),
        ("max_wasm_stack", None, c_size_t),
        ("wasm_threads", None, c_bool),
        ("parallel_compilation", None, c_bool),
    )
}
"""What sets each of `codegen.SETTINGS`."""
engine_new = _declare("wasm_engine_new_with_config", _Address, _Address)
increment_epoch = _declare("wasmtime_engine_increment_epoch", None, _Address)

error_new = _declare("wasmtime_error_new", _Address, _Address)
error_message = _declare("wasmtime_error_message", None, _Address, POINTER(Bytes))
error_exit_status = _declare("wasmtime_error_exit_status", c_bool, _Address, POINTER(ctypes.c_int))
error_delete = _declare("wasmtime_error_delete", None, _Address)
trap_message = _declare("wasm_trap_message", None, _Address, POINTER(Bytes))
trap_delete = _declare("wasm_trap_delete", None, _Address)
bytes_new = _declare("wasm_byte_vec_new", None, POINTER(Bytes), c_size_t, _Address)
bytes_delete = _declare("wasm_byte_vec_delete", None, POINTER(Bytes))

store_new = _declare("wasmtime_store_new", _Address, _Address, _Address, Finalizer)
store_context = _declare("wasmtime_store_context", _Address, _Address)
store_limiter = _declare(
    "wasmtime_store_limiter", None, _Address, *(c_int64, c_int64, c_int64, c_int64, c_int64)
)
store_delete = _declare("wasmtime_store_delete", None, _Address)
set_epoch_deadline = _declare("wasmtime_context_set_epoch_deadline", None, _Address, c_uint64)
set_wasi = _declare("wasmtime_context_set_wasi", _Address, _Address, _Address)

wasi_new = _declare("wasi_config_new", _Address)
wasi_set_argv = _declare("wasi_config_set_argv", c_bool, _Address, c_size_t, _Address)
wasi_set_env = _declare("wasi_config_set_env", c_bool, _Address, c_size_t, _Address, _Address)
wasi_set_stdin = _declare("wasi_config_set_stdin_file", c_bool, _Address, _Address)
wasi_set_stdout = _declare("wasi_config_set_stdout_file", c_bool, _Address, _Address)
wasi_set_stderr = _declare("wasi_config_set_stderr_file", c_bool, _Address, _Address)

component_load = _declare(
    "wasmtime_component_deserialize_file", _Address, _Address, _Address, POINTER(_Address)
)
component_type = _declare("wasmtime_component_type", _Address, _Address)
component_type_delete = _declare("wasmtime_component_type_delete", None, _Address)
component_type_export = _declare(
    "wasmtime_component_type_export_nth",
    c_bool,
    *(_Address, _Address, c_size_t, POINTER(_Address), POINTER(c_size_t), POINTER(_Address)),
)
component_extern_delete = _declare("wasmtime_component_extern_delete", None, _Address)
component_linker_new = _declare("wasmtime_component_linker_new", _Address, _Address)
component_add_wasi = _declare("wasmtime_component_linker_add_wasip2", _Address, _Address)
component_linker_root = _declare("wasmtime_component_linker_root", _Address, _Address)
component_add_instance = _declare(
    "wasmtime_component_linker_instance_add_instance",
    _Address,
    *(_Address, _Address, c_size_t, POINTER(_Address)),
)
component_add_function = _declare(
    "wasmtime_component_linker_instance_add_func",
    _Address,
    *(_Address, _Address, c_size_t, HostFunction, _Address, Finalizer),
)
linker_instance_delete = _declare("wasmtime_component_linker_instance_delete", None, _Address)
component_instantiate = _declare(
    "wasmtime_component_linker_instantiate",
    _Address,
    *(_Address, _Address, _Address, POINTER(ComponentInstance)),
)
component_export_index = _declare(
    "wasmtime_component_instance_get_export_index",
    _Address,
    *(POINTER(ComponentInstance), _Address, _Address, _Address, c_size_t),
)
export_index_delete = _declare("wasmtime_component_export_index_delete", None, _Address)
component_function = _declare(
    "wasmtime_component_instance_get_func",
    c_bool,
    *(POINTER(ComponentInstance), _Address, _Address, POINTER(ComponentFunction)),
)
component_call = _declare(
    "wasmtime_component_func_call",
    _Address,
    *(POINTER(ComponentFunction), _Address),
    *(POINTER(Value), c_size_t, POINTER(Value), c_size_t),
)
value_new = _declare("wasmtime_component_val_new", POINTER(Value), POINTER(Value))
value_delete = _declare("wasmtime_component_val_delete", None, POINTER(Value))
values_new = _declare("wasmtime_component_vallist_new_uninit", None, POINTER(Values), c_size_t)
fields_new = _declare("wasmtime_component_valrecord_new_uninit", None, POINTER(Fields), c_size_t)

module_load = _declare(
    "wasmtime_module_deserialize_file", _Address, _Address, _Address, POINTER(_Address)
)
linker_new = _declare("wasmtime_linker_new", _Address, _Address)
linker_define_wasi = _declare("wasmtime_linker_define_wasi", _Address, _Address)
instantiate = _declare(
    "wasmtime_linker_instantiate",
    _Address,
    *(_Address, _Address, _Address, POINTER(Instance), POINTER(_Address)),
)
instance_export = _declare(
    "wasmtime_instance_export_get",
    c_bool,
    *(_Address, POINTER(Instance), _Address, c_size_t, POINTER(Extern)),
)
call = _declare(
    "wasmtime_func_call",
    _Address,
    *(_Address, POINTER(Function)),
    *(_Address, c_size_t, _Address, c_size_t, POINTER(_Address)),
)
