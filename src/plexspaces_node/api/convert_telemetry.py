"""Activity, traces and advice from proto to records, whose fields have the same names."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.telemetry import SpanKind

_R = TypeVar("_R")

_KINDS = {
    number: SpanKind(name.removeprefix("KIND_").lower()) for name, number in pb.Span.Kind.items()
}


def record(kind: type[_R], message: Message) -> _R:
    """Return the record of a message.

    A kind of span that only a later version knows is unspecified.
    """
    hints = _hints(cast(Hashable, kind))
    return kind(**{name: _value(hint, message, name) for name, hint in hints.items()})


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, message: Message, name: str) -> Any:
    value = getattr(message, name)
    if get_origin(hint) is tuple:
        each, _ = get_args(hint)
        return tuple(_one(each, one) for one in value)
    if NoneType in get_args(hint):
        if not message.HasField(name):
            return None
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    return _one(hint, value)


def _one(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return record(hint, value)
    return _KINDS.get(value, SpanKind.UNSPECIFIED) if hint is SpanKind else value
