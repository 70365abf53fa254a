"""Adds to a Python component what componentize-py lacks: freed bytes, and data outside its memory.

Its runtime copies every `list<u8>` that goes to the host into memory of its own and keeps that
(componentize-py 0.25.1; it frees texts and other lists): what an actor returns, and what it passes
in a call, as a value to store or a message to send. An actor that sends a kilobyte would be full
after some hundred thousand messages, and one with a megabyte of state after as many snapshots as it
has megabytes.

The late imports (`python.library`) would take megabytes of every instance's memory if they were
part of what the interpreter is frozen with.

The component gets one more core module, `memory.wat`, which frees bytes with the component's own
`free`, and holds the late imports as a passive data segment. It is connected in two places:

- For each exported function the component says what is called when the host has read the result;
  that becomes a function of ours.
- Imported functions are called through a table, because what lowers them needs the memory of
  their callers. Ours is instantiated after the table was filled, and puts itself in.

A call of `get` with a key of a form that nobody uses returns a part of the late imports.

Nobody else can free the same bytes: the runtime keeps no pointer to them, and Python has never seen
the copy. After a trap nothing is freed, and the instance is never used again.
"""

from __future__ import annotations

from pathlib import Path

from plexspaces_node.errors import Internal, InvalidArgument
from plexspaces_node.toolchains.wasm.assembly import assemble
from plexspaces_node.toolchains.wasm.component_form import (
    ALIAS,
    AS_INSTANCE,
    CORE_FUNCTION_OF_INSTANCE,
    INSTANCE,
    INSTANTIATE,
    MODULE,
    AliasSection,
    ComponentForm,
    read_form,
)
from plexspaces_node.toolchains.wasm.wrap import ACTOR, CONTRACT, VERSION
from plexspaces_node.wasm_binary import HEADER_BYTES, leb, section, sections, with_size

_LIBRARIES = ("env", "libc.so")
"""The module's imports, by the names that componentize-py uses to link its libraries."""
_POSTS = {f"cabi_post_{ACTOR}#handle-message", f"cabi_post_{ACTOR}#snapshot-state"}
_CALLS = {
    "get": f"{CONTRACT}/keyvalue@{VERSION}",
    "put": f"{CONTRACT}/keyvalue@{VERSION}",
    "tell": f"{CONTRACT}/messaging@{VERSION}",
    "ask": f"{CONTRACT}/messaging@{VERSION}",
}
"""The functions of the contract that are called another way, and their interfaces."""
_TABLE = "$imports"
"""The table of imported functions, and the functions by their number in it."""

_DATA = 11
_PASSIVE = b"\x01\x01"
"""A passive segment, which is copied only when a function does so."""

_UNKNOWN = "componentize-py made a component of a form that is not known"


def keeping(component: bytes, kept: bytes) -> bytes:
    """Return the component of componentize-py with freeing and with the data `kept`.

    Raises `Internal` if it does not have the known form.
    """
    try:
        form = read_form(component)
    except InvalidArgument as exc:
        raise Internal(f"the compiler's output is not a component as known: {exc}") from exc
    posts = [part for part in form.aliases if any(one.name in _POSTS for one in part.functions)]
    arguments = _arguments(form, posts)
    parts = [component[: form.last], section(MODULE, _module(_slots(form), kept))]
    parts.append(_instance(form.modules, arguments))
    at = form.last
    for part in posts:
        parts += [component[at : part.start], _aliases(part, len(form.instances))]
        at = part.end
    return b"".join([*parts, component[at:]])


def _arguments(form: ComponentForm, posts: list[AliasSection]) -> dict[str, int]:
    """Return the core instances that the module gets."""
    linked = _linked(form)
    calls = [at for at, one in enumerate(form.instances) if _TABLE in one.bundled]
    actors = {one.name: one.instance for part in posts for one in part.functions}
    if not (set(_LIBRARIES) <= set(linked) and actors.keys() >= _POSTS and len(calls) == 1):
        raise Internal(_UNKNOWN)
    [actor] = {actors[name] for name in _POSTS}
    return {**{name: linked[name] for name in _LIBRARIES}, "actor": actor, "calls": calls[0]}


def _linked(form: ComponentForm) -> dict[str, int]:
    """Return the core instances by name; the last one of a name is the complete one."""
    return {name: index for one in form.instances for name, index in one.given.items()}


def _slots(form: ComponentForm) -> dict[str, str]:
    """Return the table number of each function that is called another way."""
    linked = _linked(form)
    slots = {}
    for name, interface in _CALLS.items():
        try:
            function = form.functions[form.instances[linked[interface]].bundled[name]]
        except LookupError as exc:
            raise Internal(_UNKNOWN) from exc
        if function is None or not function.name.isdecimal():
            raise Internal(_UNKNOWN)
        slots[name] = function.name
    return slots


def _module(slots: dict[str, str], kept: bytes) -> bytes:
    text = Path(__file__).with_name("memory.wat").read_text()
    for name, slot in slots.items():
        text = text.replace(f"{{{name}}}", slot)
    module = assemble(text)
    parts = [module[:HEADER_BYTES]]
    for part in sections(module):
        body = module[part.body : part.end]
        parts.append(section(part.kind, _PASSIVE + with_size(kept) if part.kind == _DATA else body))
    return b"".join(parts)


def _instance(module: int, arguments: dict[str, int]) -> bytes:
    body = leb(1) + bytes([INSTANTIATE]) + leb(module) + leb(len(arguments))
    for name, index in arguments.items():
        body += with_size(name.encode()) + bytes([AS_INSTANCE]) + leb(index)
    return section(INSTANCE, body)


def _aliases(part: AliasSection, ours: int) -> bytes:
    body = leb(len(part.functions))
    for function in part.functions:
        owner = ours if function.name in _POSTS else function.instance
        body += CORE_FUNCTION_OF_INSTANCE + leb(owner) + with_size(function.name.encode())
    return section(ALIAS, body)
