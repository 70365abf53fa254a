"""Makes an actor component from a core module, without tools of any language.

To use it, compile to a core module that follows the canonical ABI of ``wit/application.wit`` and
call `wrap` with its bytes. The module

- exports ``memory`` and the four functions of the contract under their canonical names, for
  example ``plexspaces:application/actor@0.1.0#handle-message``, and, where something must be
  freed after it, the same with ``cabi_post_`` before it;
- exports ``cabi_realloc``, or else imports ``plexspaces:arena`` and registers a block of memory
  for what the host hands over (see ``wat/actor.wat``);
- may export ``_initialize``, which is called once, before anything else and when imports work;
- may import the functions of the contract (of the module ``plexspaces:application/keyvalue@0.1.0``
  for example ``get``) and WASI preview 1 (of ``wasi_snapshot_preview1``), and nothing else.

The bindings of wit-bindgen make this from a Rust ``cdylib`` for ``wasm32-unknown-unknown`` or
``wasm32-wasip1``; its ``component-type`` section is not needed.

WASI has clocks, random numbers, the environment, sleep, stdout and stderr here, but no files and no
sockets (see ``wat/preview1.wat``).
"""

from __future__ import annotations

import re
from pathlib import Path

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.toolchains.project import digest_sources, read_sources
from plexspaces_node.toolchains.wasm.assembly import assemble
from plexspaces_node.toolchains.wasm.core_module import (
    CoreModule,
    read_core_module,
    with_distinct_imports,
)
from plexspaces_node.wasm_binary import section, sections

CONTRACT = "plexspaces:application"
VERSION = "0.1.0"
ACTOR = f"{CONTRACT}/actor@{VERSION}"
FUNCTIONS = ("init", "handle-message", "snapshot-state", "shutdown")

HTTP = f"{CONTRACT}/http@{VERSION}"
WASI = "wasi_snapshot_preview1"
ARENA = "plexspaces:arena"
_HOST = {
    f"{CONTRACT}/logging@{VERSION}": frozenset({"log"}),
    f"{CONTRACT}/keyvalue@{VERSION}": frozenset({"get", "put", "delete"}),
    f"{CONTRACT}/messaging@{VERSION}": frozenset({"tell", "ask"}),
    HTTP: frozenset({"fetch"}),
    ARENA: frozenset({"register", "mark", "release"}),
}
_GIVEN_BY = {WASI: "$wasi-trampolines", ARENA: "$arena"}

_CORE_MODULE_SECTION = 1
_REALLOC = "cabi_realloc"
_INITIALIZE = "_initialize"
_WAT = Path(__file__).with_name("wat")
_CONTRACT_NAME = re.compile(rf"{CONTRACT}/[^@]+@(?P<version>[^#]+)")
_SDK_HINT = "build it with the SDK that came with this version"
_CONTRACT_HINT = "build it with the SDK of its language; wit/application.wit is the contract"
_WASI_FUNCTION = re.compile(r'\(func \(export "(\w+)"\)')


def wrap(core: bytes, *, hint: str = _SDK_HINT) -> bytes:
    """Return the actor component of a core module; see above for its form.

    Takes some milliseconds. `hint` says how to update a module of another version of the contract.
    Raises `InvalidArgument` if the module lacks an export or imports something unknown, and
    `Internal` if it is not a complete core module.
    """
    module = read_core_module(core)
    _check_version(module, hint)
    _check(module)
    module = with_distinct_imports(module)
    return _with_module(assemble(_wrapper(module)), module.binary)


def wrapper_digest() -> str:
    """Return the SHA-256 of what affects `wrap` beside the module. Blocks."""
    return digest_sources(read_sources(_WAT), ())


def _check_version(module: CoreModule, hint: str) -> None:
    names = [*module.exports, *(entry.module for entry in module.imports)]
    foreign = {match["version"] for match in map(_CONTRACT_NAME.match, names) if match} - {VERSION}
    if foreign:
        raise InvalidArgument(
            f"the project uses {CONTRACT}@{', '.join(sorted(foreign))}, "
            f"this version supports {VERSION}",
            hint=hint,
        )


def _check(module: CoreModule) -> None:
    offered = {**_HOST, WASI: frozenset(_WASI_FUNCTION.findall(_read("preview1_trampolines.wat")))}
    for entry in module.imports:
        if entry.type is None or entry.name not in offered.get(entry.module, ()):
            raise InvalidArgument(
                f"the module imports {entry.name!r} of {entry.module!r}, which actors do not have",
                hint=_CONTRACT_HINT,
            )
    for name in ("memory", *(f"{ACTOR}#{function}" for function in FUNCTIONS)):
        if name not in module.exports:
            raise InvalidArgument(f"the module does not export {name!r}", hint=_CONTRACT_HINT)
    if _REALLOC not in module.exports and not _imports_of(module, ARENA):
        raise InvalidArgument(
            f"the module neither exports {_REALLOC!r} nor imports {ARENA!r}",
            hint="build it with the SDK of its language",
        )


def _imports_of(module: CoreModule, name: str) -> bool:
    return any(entry.module == name for entry in module.imports)


def _wrapper(module: CoreModule) -> str:
    text = _read("actor.wat")
    for place, words in _places(module).items():
        text = text.replace(f"{{{place}}}", words)
    return text


def _places(module: CoreModule) -> dict[str, str]:
    wasi = _imports_of(module, WASI)
    places = {
        "wasi-trampolines": _read("preview1_trampolines.wat") if wasi else "",
        "wasi": _read("preview1.wat") if wasi else "",
        "http": "",
        "http-lowered": "",
        "http-wanted": "",
        "http-entry": "",
        "http-given": "",
        "arguments": _arguments(module),
        "realloc": f'$main "{_REALLOC}"' if _REALLOC in module.exports else '$arena "realloc"',
        "initialize": "",
        "post-returns": "",
    }
    if _imports_of(module, HTTP):
        places.update(
            {
                "http": _read("http.wat"),
                "http-lowered": '(core func $fetch (canon lower (func $http "fetch") '
                "(memory $memory) (realloc $realloc)))",
                "http-wanted": '(import "host" "fetch" (func $fetch '
                "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))",
                "http-entry": "$fetch",
                "http-given": '(export "fetch" (func $fetch))',
            }
        )
    if _INITIALIZE in module.exports:
        places["initialize"] = f'(import "main" "{_INITIALIZE}" (func $start)) (start $start)'
    for function in FUNCTIONS:
        post = f"cabi_post_{ACTOR}#{function}"
        there = post in module.exports
        places[f"post-{function}"] = f"(post-return $post-{function})" if there else ""
        if there:
            places["post-returns"] += (
                f'(alias core export $main "{post}" (core func $post-{function}))\n'
            )
    return places


def _arguments(module: CoreModule) -> str:
    return "\n".join(
        f'(with "{name}" (instance {_GIVEN_BY.get(name.partition("#")[0], "$trampolines")}))'
        for name in sorted({entry.module for entry in module.imports})
    )


def _with_module(wrapper: bytes, core: bytes) -> bytes:
    place = next(part for part in sections(wrapper) if part.kind == _CORE_MODULE_SECTION)
    return wrapper[: place.start] + section(_CORE_MODULE_SECTION, core) + wrapper[place.end :]


def _read(name: str) -> str:
    return (_WAT / name).read_text()
