"""Gives a Python component what componentize-py does not: freed bytes, and room beside its memory.

Its runtime copies every `list<u8>` that goes to the host into memory of its own and keeps that
(componentize-py 0.25.1; texts and lists of anything else it frees): what an actor returns, and what
it hands over in a call, as a value to keep or a message to send. An actor that sends a kilobyte
would be full after some hundred thousand messages, and one with a megabyte of state after as many
snapshots as megabytes it has.

What is kept for imports that come late (`python.library`) would take megabytes of every instance's
memory, if it were part of what the interpreter is frozen with.

The component gets one core module more, `memory.wat`, which frees bytes with the
component's own `free`, and has what is kept as a segment of data that no memory begins with. It is
led to from two places:

- For each exported function the component says what is called when the host has read the result;
  that becomes a function of ours.
- Imported functions are called through a table, since what lowers them needs the memory of those
  that call. Ours is instantiated after the table was filled, and puts itself in.

A call of `get` with a key of a form that nobody uses is answered with a part of what is kept.

Nobody else can free the same bytes: the runtime keeps no pointer to them, and Python has never
seen the copy. After a trap nothing is freed, and the instance is never entered again.
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
"""What the module imports, by the names componentize-py links its libraries by."""
_POSTS = {f"cabi_post_{ACTOR}#handle-message", f"cabi_post_{ACTOR}#snapshot-state"}
_CALLS = {
    "get": f"{CONTRACT}/keyvalue@{VERSION}",
    "put": f"{CONTRACT}/keyvalue@{VERSION}",
    "tell": f"{CONTRACT}/messaging@{VERSION}",
    "ask": f"{CONTRACT}/messaging@{VERSION}",
}
"""The functions of the contract that are called another way, and their interfaces."""
_TABLE = "$imports"
"""The table of imported functions, beside which each is by its number, where it is filled."""

_DATA = 11
_PASSIVE = b"\x01\x01"
"""One segment, which is copied only where a function says so."""

_UNKNOWN = "componentize-py made a component of a form that is not known"


def keeping(component: bytes, kept: bytes) -> bytes:
    """Return the component, which componentize-py made, freeing what it hands out and with `kept`.

    Raises `Internal` when it has not the form that is known.
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
    """Return which core instances the module is given."""
    linked = _linked(form)
    calls = [at for at, one in enumerate(form.instances) if _TABLE in one.bundled]
    actors = {one.name: one.instance for part in posts for one in part.functions}
    if not (set(_LIBRARIES) <= set(linked) and actors.keys() >= _POSTS and len(calls) == 1):
        raise Internal(_UNKNOWN)
    [actor] = {actors[name] for name in _POSTS}
    return {**{name: linked[name] for name in _LIBRARIES}, "actor": actor, "calls": calls[0]}


def _linked(form: ComponentForm) -> dict[str, int]:
    """Return the core instances by the names they are given under; the last such is the whole."""
    return {name: index for one in form.instances for name, index in one.given.items()}


def _slots(form: ComponentForm) -> dict[str, str]:
    """Return the number in the table of each function that is called another way."""
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
