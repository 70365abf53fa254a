"""The engine that compiles artifacts: `codegen.SETTINGS` on the `wasmtime` package's own `Engine`.

The agent makes its engine in `agent.wasm`, without that package.
"""

from __future__ import annotations

from wasmtime import Config, Engine

from plexspaces_node.agent.codegen import SETTINGS


def make_engine(*, parallel: bool = False) -> Engine:
    """Return an engine for the baseline of this machine's architecture."""
    config = Config()
    for name, value in SETTINGS.items():
        setattr(config, name, value)
    config.parallel_compilation = parallel
    return Engine(config)
