"""What node and agent both know of an artifact: its kinds, what runs it, how long a message may be.

Apart from `model`, which offers these names too, because the agent pays for what it imports with
every start of a machine.
"""

from __future__ import annotations

ENGINE = "wasmtime 50.0.1"
"""The runtime that compiles and runs artifacts; pinned in pyproject.toml, equal by test."""

ENGINE_REVISION = 1
"""Raised whenever `agent.codegen` changes a setting: part of the key of compiled artifacts."""

DEFAULT_MESSAGE_LIMIT_BYTES = 1024 * 1024
MAX_MESSAGE_LIMIT_BYTES = 2 * 1024 * 1024
"""What the runtime can carry: past about 2.8 MB a guest's `list<u8>` is refused by wasmtime."""

ACTOR = "actor"
"""The kind of a component that exports the actor contract."""
COMMAND = "command"
"""The kind of a core module with `_start`: WASI preview 1."""
COMMAND_COMPONENT = "command-component"
"""The kind of a component that exports `wasi:cli/run`: WASI 0.2."""
