"""The engine's settings on which native code depends, equal wherever it is compiled or loaded.

A compiled artifact is refused by an engine with other settings: compiling (`agent.engine`) and
running (`agent.wasm`) both take them from here. Change anything and raise
`artifact.ENGINE_REVISION`: the cache of compiled artifacts is keyed by it.
"""

from __future__ import annotations

import os

WASM_STACK_BYTES = 1024 * 1024
"""Twice wasmtime's default: CPython inside WebAssembly recurses deeply."""

SETTINGS: dict[str, str | bool | int] = {
    # The baseline, and not this very CPU: what was compiled for one CPU model's extensions is
    # refused on another, and a guest's CPU is not its host's.
    "target": f"{os.uname().machine}-unknown-linux-gnu",
    "epoch_interruption": True,
    "max_wasm_stack": WASM_STACK_BYTES,
    "wasm_threads": False,
}
"""By their names in wasmtime."""
