"""Messages about values that an option does not take, in this program's own words."""

from __future__ import annotations

from typing import Any

from typer.exceptions import TyperException

# By the type of the library that converts values; None if the message needs its bounds.
_WANTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_parsing": "true or false",
    "greater_than_equal": "a number of at least {ge}",
    "less_than_equal": "a number of at most {le}",
}


def in_words(error: TyperException) -> str:
    """Return what was wrong: the option, what it takes and what was given, if known."""
    converted = getattr(error.__cause__, "errors", None)
    faults: list[dict[str, Any]] = converted() if callable(converted) else []
    names = getattr(getattr(error, "param", None), "opts", None)
    wanted = _WANTED.get(faults[0]["type"]) if faults else None
    if wanted is None or not names:
        return error.format_message()
    takes = wanted.format(**faults[0].get("ctx", {}))
    return f"{names[0]} takes {takes}, not {str(faults[0]['input'])[:64]!r}"
