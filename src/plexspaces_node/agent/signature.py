"""The types of a component's functions, spelled as WIT spells them, so that they can be compared.

Records are spelled out, because a name of a type is no part of it; the names of parameters are
left out, because no call uses them. Which types a function must have is not known here.
"""

from __future__ import annotations

from wasmtime.component import (
    FuncType,
    ListType,
    OptionType,
    RecordType,
    ResultType,
    TupleType,
    ValType,
)


def spelled(function: FuncType) -> str:
    """Return the type of a function, for example ``func(string) -> list<u8>``."""
    try:
        parameters = ", ".join(_value(kind) for _name, kind in function.params)
        result = function.result
        return f"func({parameters})" + (f" -> {_value(result)}" if result else "")
    except TypeError:
        # wasmtime's own Python does not know of the newest types.
        return "func of types that this version does not know"


def _value(kind: ValType) -> str:
    if isinstance(kind, ListType):
        return f"list<{_value(kind.element)}>"
    if isinstance(kind, OptionType):
        return f"option<{_value(kind.payload)}>"
    if isinstance(kind, ResultType):
        return _result(kind)
    if isinstance(kind, TupleType):
        return f"tuple<{', '.join(map(_value, kind.elements))}>"
    if isinstance(kind, RecordType):
        fields = (f"{name}: {_value(field)}" for name, field in kind.fields)
        return f"record {{ {', '.join(fields)} }}"
    # What is left is a number, a string or something the contract has none of.
    return type(kind).__name__.removesuffix("Type").lower()


def _result(kind: ResultType) -> str:
    good, bad = kind.ok, kind.err
    if bad is None:
        return f"result<{_value(good)}>" if good else "result"
    return f"result<{_value(good) if good else '_'}, {_value(bad)}>"
