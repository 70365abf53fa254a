"""The names of the actor contract, as `wit/application.wit` spells them."""

from __future__ import annotations

from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

PACKAGE: Final = "plexspaces:application"
VERSION: Final = "0.1.0"


def interface(name: str) -> str:
    """Return the full name of an interface of the contract."""
    return f"{PACKAGE}/{name}@{VERSION}"


ACTOR: Final = interface("actor")
_ACTOR_ERROR: Final = "record { code: string, message: string, retryable: bool }"
ACTOR_FUNCTIONS: Final[Mapping[str, str]] = {
    "init": "func(list<u8>) -> result<_, string>",
    "handle-message": f"func(string, string, list<u8>) -> result<list<u8>, {_ACTOR_ERROR}>",
    "snapshot-state": "func() -> list<u8>",
    "shutdown": "func()",
}
"""What an actor exports, and the types as `signature.spelled` spells them."""

LOGGING: Final = interface("logging")
KEYVALUE: Final = interface("keyvalue")
MESSAGING: Final = interface("messaging")
TYPES: Final = interface("types")
HOST_INTERFACES: Final = frozenset({LOGGING, KEYVALUE, MESSAGING, TYPES})

CLI_RUN: Final = "wasi:cli/run@0.2."
"""What a WASI 0.2 command exports, whatever the patch version."""

WASI_PREVIEW1: Final = "wasi_snapshot_preview1"
WASI_OFFERED: Final = (
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
)
"""What wasmtime's `add_wasip2` defines. Nothing is preopened and no address may be reached."""
WASI_VERSION: Final = "@0.2."
