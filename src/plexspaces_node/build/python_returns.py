"""Frees the bytes that a Python component returned, which componentize-py does not.

Its runtime copies every `list<u8>` that leaves the component into memory of its own and keeps
that (componentize-py 0.25.1; texts and lists of anything else it frees). An actor that answers with
a kilobyte would be full after some hundred thousand messages, and one with a megabyte of state
after as many snapshots as megabytes it has.

A component says for each of its functions what is called when the host has read the result. Here
those calls are led through `wat/python_returns.wat`, which frees the bytes with the component's own
`free`. Bytes that an actor hands to the host in a call, as a value to keep or a message to send,
leave the component in another way, and stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from wasmtime import wat2wasm

from plexspaces_node.build.wrap import ACTOR
from plexspaces_node.errors import Internal, InvalidArgument
from plexspaces_node.sections import leb, number, section, sections, string, with_size

_MODULE, _INSTANCE, _ALIAS = 1, 2, 6
_INSTANTIATE, _AS_INSTANCE = 0, 0x12
_CORE_FUNCTION_OF_INSTANCE = b"\x00\x00\x01"

_NAMED = ("env", "libc.so")
"""What `wat/python_returns.wat` imports, by the names componentize-py links its libraries by."""
_POSTS = {f"cabi_post_{ACTOR}#handle-message", f"cabi_post_{ACTOR}#snapshot-state"}


@dataclass
class _Form:
    """What has to be known of a component: its counts, and where what is found by name is.

    Attributes:
        linked: core instances by the names of the libraries they are.
        last: end of the last section of core instances, after which ours can follow.
        posts: the alias sections that name a function of `_POSTS`: start, end, body made anew.
        actor: the core instance whose functions those are.
    """

    modules: int = 0
    instances: int = 0
    linked: dict[str, int] = field(default_factory=dict)
    last: int = 0
    posts: list[tuple[int, int, list[tuple[int, str]]]] = field(default_factory=list)
    actor: int = -1


def freeing_returned_bytes(component: bytes) -> bytes:
    """Return the component, which componentize-py made, with what frees the bytes it returns.

    Raises `Internal` when it has not the form that is known.
    """
    try:
        form = _form(component)
    except InvalidArgument as exc:
        raise Internal("the compiler's output is not whole WebAssembly") from exc
    named = {name for _, _, aliases in form.posts for _, name in aliases}
    if not (set(_NAMED) <= set(form.linked) and named >= _POSTS):
        raise Internal("componentize-py made a component of a form that is not known")
    parts = [component[: form.last], section(_MODULE, _freeing()), _instance(form)]
    at = form.last
    for start, end, aliases in form.posts:
        parts += [component[at:start], _aliases(aliases, form)]
        at = end
    return b"".join([*parts, component[at:]])


@cache
def _freeing() -> bytes:
    return bytes(
        wat2wasm(Path(__file__).with_name("wat").joinpath("python_returns.wat").read_text())
    )


def _form(component: bytes) -> _Form:
    form = _Form()
    for part in sections(component):
        if part.kind == _MODULE:
            form.modules += 1
        elif part.kind == _INSTANCE:
            form.last = part.end
            for arguments in _instances(component, part.body):
                form.instances += 1
                # The one that has all the libraries under their names comes last.
                form.linked.update(arguments)
        elif part.kind == _ALIAS:
            aliases = _functions(component, part.body)
            for instance, name in aliases:
                if name in _POSTS:
                    form.posts.append((part.start, part.end, aliases))
                    form.actor = instance
    return form


def _instances(component: bytes, at: int) -> Iterator[dict[str, int]]:
    """Yield for each core instance of a section which instances it was given, by their names."""
    count, at = number(component, at)
    for _ in range(count):
        instantiated = component[at] == _INSTANTIATE
        at += 1
        if instantiated:
            _, at = number(component, at)
        items, at = number(component, at)
        given: dict[str, int] = {}
        for _ in range(items):
            name, at = string(component, at)
            given[name], at = number(component, at + 1)
        yield given if instantiated else {}


def _functions(component: bytes, at: int) -> list[tuple[int, str]]:
    """Return instance and name of each alias, or nothing when not all are of core functions."""
    aliases = []
    count, at = number(component, at)
    for _ in range(count):
        if component[at : at + 3] != _CORE_FUNCTION_OF_INSTANCE:
            return []
        instance, at = number(component, at + 3)
        name, at = string(component, at)
        aliases.append((instance, name))
    return aliases


def _instance(form: _Form) -> bytes:
    arguments = [(name, form.linked[name]) for name in _NAMED] + [("actor", form.actor)]
    body = leb(1) + bytes([_INSTANTIATE]) + leb(form.modules) + leb(len(arguments))
    for name, index in arguments:
        body += with_size(name.encode()) + bytes([_AS_INSTANCE]) + leb(index)
    return section(_INSTANCE, body)


def _aliases(aliases: list[tuple[int, str]], form: _Form) -> bytes:
    body = leb(len(aliases))
    for instance, name in aliases:
        owner = form.instances if name in _POSTS else instance
        body += _CORE_FUNCTION_OF_INSTANCE + leb(owner) + with_size(name.encode())
    return section(_ALIAS, body)
