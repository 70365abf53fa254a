"""Messages of the gRPC contract as JSON, under the names that the contract gives.

Numbers are JSON numbers, also those of 64 bits; bytes are base64. A field that has no value is
there with its default, but for a message, which is left out.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from plexspaces_node.errors import InvalidArgument

_M = TypeVar("_M", bound=Message)


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as what JSON can say."""
    fields: Iterable[Any] = message.DESCRIPTOR.fields
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in fields
        if not field.has_presence or message.HasField(field.name)
    }


def from_json(kind: type[_M], members: object) -> _M:
    """Return the message that JSON describes; raises `InvalidArgument` for what it has not."""
    if not isinstance(members, dict):
        raise InvalidArgument("the body must be a JSON object")
    message = kind()
    try:
        json_format.ParseDict(members, message)
    except json_format.ParseError as error:
        raise InvalidArgument(f"the body is not a {kind.DESCRIPTOR.name}: {error}") from error
    return message


def _value(field: FieldDescriptor, value: Any) -> Any:
    if is_map(field):
        return dict(value)
    if field.is_repeated:
        return [_one(field, each) for each in value]
    return _one(field, value)


def is_map(field: FieldDescriptor) -> bool:
    """Tell whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _one(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return to_json(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
