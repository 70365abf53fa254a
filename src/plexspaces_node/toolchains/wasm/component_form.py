"""What a component instantiates and calls by which index: enough to redirect a call.

Reads core instances, and core functions as far as they come from one. Does not know what the names
mean. A component can contain others; what is in those is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.wasm_binary import number, sections, string

MODULE, INSTANCE, ALIAS, _CANONICAL = 1, 2, 6, 8
INSTANTIATE, AS_INSTANCE = 0, 0x12
CORE_FUNCTION_OF_INSTANCE = b"\x00\x00\x01"

_CORE, _OUTER = 0, 2
_LIFT, _LOWER = 0, 1
_OF_A_RESOURCE = (2, 3, 4)
_PLAIN_OPTIONS, _OPTIONS_WITH_INDEX = (0, 1, 2), (3, 4, 5)


@dataclass(frozen=True, slots=True)
class CoreInstance:
    """A core instance: either of a module, or a bundle of items of others.

    Attributes:
        given: for one of a module, the core instances it was given, by name.
        bundled: for a bundle, the index of each item in it, by name.
    """

    given: dict[str, int]
    bundled: dict[str, int]


@dataclass(frozen=True, slots=True)
class CoreFunction:
    """A core function that some core instance exports."""

    instance: int
    name: str


@dataclass(frozen=True, slots=True)
class AliasSection:
    """A section that gives indices to functions of core instances, and to nothing else."""

    start: int
    end: int
    functions: list[CoreFunction]


@dataclass
class ComponentForm:
    """A component's core instances and core functions, by their indices.

    Attributes:
        modules: how many core modules there are.
        functions: None for those that do not come from a core instance.
        last: end of the last section of core instances, after which others can follow.
    """

    modules: int = 0
    instances: list[CoreInstance] = field(default_factory=list)
    functions: list[CoreFunction | None] = field(default_factory=list)
    aliases: list[AliasSection] = field(default_factory=list)
    last: int = 0


def read_form(component: bytes) -> ComponentForm:
    """Parse the form; raises `InvalidArgument` if it is incomplete or unknown."""
    form = ComponentForm()
    for part in sections(component):
        if part.kind == MODULE:
            form.modules += 1
        elif part.kind == INSTANCE:
            form.last = part.end
            form.instances += _instances(component, part.body)
        elif part.kind == ALIAS:
            found = [alias for core, alias in _aliases(component, part.body) if core]
            form.functions += found
            functions = [alias for alias in found if alias is not None]
            if len(functions) == number(component, part.body)[0]:
                form.aliases.append(AliasSection(part.start, part.end, functions))
        elif part.kind == _CANONICAL:
            form.functions += [None] * _made(component, part.body)
    return form


def _instances(component: bytes, at: int) -> Iterator[CoreInstance]:
    count, at = number(component, at)
    for _ in range(count):
        how, at = number(component, at)
        if how == INSTANTIATE:
            _, at = number(component, at)
        items, at = number(component, at)
        named: dict[str, int] = {}
        for _ in range(items):
            name, at = string(component, at)
            named[name], at = number(component, at + 1)
        yield CoreInstance(named, {}) if how == INSTANTIATE else CoreInstance({}, named)


def _aliases(component: bytes, at: int) -> Iterator[tuple[bool, CoreFunction | None]]:
    """Yield for each alias whether it takes an index of core functions, and its name."""
    count, at = number(component, at)
    for _ in range(count):
        begin = at
        sort, at = number(component, at)
        if sort == _CORE:
            sort_of_core, at = number(component, at)
        target, at = number(component, at)
        index, at = number(component, at)
        if target == _OUTER:
            _, at = number(component, at)
            name = ""
        else:
            name, at = string(component, at)
        if component.startswith(CORE_FUNCTION_OF_INSTANCE, begin):
            yield True, CoreFunction(index, name)
        else:
            yield sort == _CORE and sort_of_core == 0, None


def _made(component: bytes, at: int) -> int:
    """Return how many core functions a section of canonical functions makes."""
    made = 0
    count, at = number(component, at)
    for _ in range(count):
        kind, at = number(component, at)
        if kind in (_LIFT, _LOWER):
            _, at = number(component, at + 1)
            at = _after_options(component, at)
        elif kind not in _OF_A_RESOURCE:
            raise InvalidArgument(f"a canonical function in it is of the kind {kind}")
        if kind != _LOWER:
            _, at = number(component, at)
        made += kind != _LIFT
    return made


def _after_options(component: bytes, at: int) -> int:
    count, at = number(component, at)
    for _ in range(count):
        option, at = number(component, at)
        if option in _OPTIONS_WITH_INDEX:
            _, at = number(component, at)
        elif option not in _PLAIN_OPTIONS:
            raise InvalidArgument(f"a canonical function in it has the option {option}")
    return at
