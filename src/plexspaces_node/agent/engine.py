"""The wasmtime engine's settings, equal wherever an artifact is compiled or loaded.

A compiled artifact is refused by an engine with other settings, so this is the only file that
makes an `Engine`. Change anything here and raise `model.ENGINE_REVISION`: the cache of compiled
artifacts is keyed by it.
"""

from __future__ import annotations

import platform

from wasmtime import Config, Engine

WASM_STACK_BYTES = 1024 * 1024
"""Twice wasmtime's default: CPython inside WebAssembly recurses deeply."""


def make_engine(*, parallel: bool = False) -> Engine:
    """Return an engine for the baseline of this machine's architecture.

    The baseline, and not this very CPU: what was compiled for one CPU model's extensions is
    refused on another, and a guest's CPU is not its host's.
    """
    config = Config()
    config.target = f"{platform.machine()}-unknown-linux-gnu"
    config.epoch_interruption = True
    config.max_wasm_stack = WASM_STACK_BYTES
    config.wasm_threads = False
    config.parallel_compilation = parallel
    return Engine(config)
