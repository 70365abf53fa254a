"""What node and agent both know of an artifact: its kinds, what runs it, how long a message may be.

Apart from `model`, which offers these names too, because the agent pays for what it imports with
every start of a machine.
"""

from __future__ import annotations

ENGINE = "wasmtime 48.0.8"
"""What compiles and runs artifacts, as agent/Cargo.lock has it."""

ENGINE_REVISION = 1
"""Raised whenever agent/src/settings.rs, or a feature of wasmtime in agent/Cargo.toml and
agent/compile/Cargo.toml, changes: part of the key of compiled artifacts."""

DEFAULT_MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
MAX_MESSAGE_LIMIT_BYTES = 256 * 1024 * 1024
"""What a node can be told to take; a message is in memory as a whole wherever it passes."""

ACTOR = "actor"
"""The kind of a component that exports the actor contract."""
COMMAND = "command"
"""The kind of a core module with `_start`: WASI preview 1."""
COMMAND_COMPONENT = "command-component"
"""The kind of a component that exports `wasi:cli/run`: WASI 0.2 or 0.3."""
