"""The agent's own declarations of wasmtime's C API, held against the package's."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest
from wasmtime import _bindings, _ffi

from plexspaces_node.agent import capi, codegen

STRUCTURES: dict[Any, Any] = {
    capi.Bytes: _bindings.wasm_byte_vec_t,
    capi.Value: _bindings.wasmtime_component_val_t,
    capi.Values: _bindings.wasmtime_component_vallist_t,
    capi.Of: _bindings.wasmtime_component_valunion_t,
    capi.Field: _bindings.wasmtime_component_valrecord_entry_t,
    capi.Fields: _bindings.wasmtime_component_valrecord_t,
    capi.Result: _bindings.wasmtime_component_valresult_t,
    capi.ComponentInstance: _bindings.wasmtime_component_instance_t,
    capi.ComponentFunction: _bindings.wasmtime_component_func_t,
    capi.Instance: _bindings.wasmtime_instance_t,
    capi.Function: _bindings.wasmtime_func_t,
    capi.Extern: _bindings.wasmtime_extern_t,
}
HEAVY = {"argparse", "dataclasses", "inspect", "msgspec", "pathlib", "re", "typing", "wasmtime"}


def sizes(function: object) -> list[int]:
    """Return how long a function's result and its arguments are, in bytes."""
    kinds = [function.restype, *function.argtypes]  # type: ignore[attr-defined]
    return [0 if kind is None else ctypes.sizeof(kind) for kind in kinds]


@pytest.mark.parametrize("name", capi.declared)
def test_function_when_declared_then_as_in_the_package(name: str) -> None:
    """As many arguments, each as long: a new wasmtime cannot change one unseen."""
    assert sizes(capi.declared[name]) == sizes(getattr(_bindings, f"_{name}"))


@pytest.mark.parametrize("ours", STRUCTURES, ids=lambda ours: ours.__name__)
def test_structure_when_declared_then_it_lies_in_memory_as_the_packages(ours: Any) -> None:
    """The same size and alignment, and every field of the same name in the same place."""
    theirs = STRUCTURES[ours]
    assert ctypes.sizeof(ours) == ctypes.sizeof(theirs)
    assert ctypes.alignment(ours) == ctypes.alignment(theirs)
    for name, _ in ours._fields_:
        place = getattr(theirs, name, None)
        if place is not None and not name.startswith("_"):
            ours_place = getattr(ours, name)
            assert (ours_place.offset, ours_place.size) == (place.offset, place.size)


def test_kinds_when_named_then_they_are_the_packages() -> None:
    """A value's kind is the number wasmtime writes."""
    for name in ("BOOL", "U8", "U32", "STRING", "LIST", "RECORD", "ENUM", "OPTION", "RESULT"):
        assert getattr(capi, name) == getattr(_ffi, f"WASMTIME_COMPONENT_{name}").value
    assert _ffi.WASMTIME_EXTERN_FUNC.value == capi.EXTERN_FUNCTION


def test_settings_when_applied_then_each_has_its_setter() -> None:
    """What the compiler is told the agent can be told too."""
    assert set(codegen.SETTINGS) <= set(capi.config_setters)


@pytest.mark.parametrize("entry", ["guest", "__main__"])
def test_agent_when_imported_then_nothing_heavy_is(entry: str) -> None:
    """What the agent imports is paid for at every start of a machine."""
    code = f"import sys, plexspaces_node.agent.{entry}; print(*sys.modules)"
    # Without `site`, which may import anything.
    path = f"import sys; sys.path[:] = {sys.path!r}; "
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + code], capture_output=True, check=True, text=True
    )
    assert HEAVY.isdisjoint(done.stdout.split())
