"""Messages of the gRPC contract as JSON, under the names that the contract gives.

Numbers are JSON numbers, also those of 64 bits; bytes are base64. In an answer a field that has no
value is there with its default, but for a message, which is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from plexspaces_node.errors import InvalidArgument

_M = TypeVar("_M", bound=Message)
_ENCODER = msgspec.json.Encoder()

_SCALARS: Mapping[int, Any] = {
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_INT32: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)],
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_UINT32: Annotated[int, msgspec.Meta(ge=0, lt=2**32)],
    FieldDescriptor.CPPTYPE_UINT64: Annotated[int, msgspec.Meta(ge=0)],
    FieldDescriptor.CPPTYPE_FLOAT: float,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
}


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as `line` takes it; bytes stay bytes, of which that makes base64."""
    fields: Iterable[Any] = message.DESCRIPTOR.fields
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in fields
        if not field.has_presence or message.HasField(field.name)
    }


def line(value: object) -> bytes:
    """Return JSON that ends its line, for terminals and for streams of lines."""
    return _ENCODER.encode_lines((value,))


def from_json(
    kind: type[_M],
    body: bytes | bytearray | memoryview = b"",
    parameters: Mapping[str, object] | None = None,
) -> _M:
    """Return the message of a body, a JSON object or nothing, and of a request's parameters.

    Parameters are text, of which numbers are made where the contract has them. Raises
    `InvalidArgument` for what the contract does not have, before more of the body is read, and
    for a parameter that is in the body too.
    """
    parameters = parameters or {}
    shape = _shape(kind.DESCRIPTOR)
    try:
        members = _members(msgspec.json.decode(body, type=shape) if body else shape())
        if twice := sorted(members.keys() & parameters.keys()):
            raise InvalidArgument(f"{twice[0]!r} is in the body, and in the path or query too")
        members |= _members(msgspec.convert(parameters, shape, strict=False))
        return kind(**members)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the request is not valid: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from error
    except (ValueError, UnicodeEncodeError) as error:
        # A number of more than 64 bits, or text that is no Unicode.
        raise InvalidArgument(f"the request is not valid: {error}") from error


def is_map(field: FieldDescriptor) -> bool:
    """Tell whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _members(value: Any) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return members


@cache
def _shape(message: Descriptor) -> Any:
    """Return the type of what JSON may say of a message: no other members, each optional."""
    fields = [
        (field.name, _type(field) | msgspec.UnsetType, msgspec.UNSET) for field in message.fields
    ]
    return msgspec.defstruct(message.name, fields, forbid_unknown_fields=True)


def _type(field: FieldDescriptor) -> Any:
    if field.message_type is not None and is_map(field):
        entry = field.message_type.fields_by_name
        return dict[_type(entry["key"]), _type(entry["value"])]  # type: ignore[misc]
    one: Any = _SCALARS.get(field.cpp_type)
    if field.message_type is not None:
        one = _shape(field.message_type)
    elif field.enum_type is not None:
        one = Literal[tuple(value.name for value in field.enum_type.values)]
    elif field.type == FieldDescriptor.TYPE_BYTES:
        one = bytes
    return list[one] if field.is_repeated else one


def _value(field: FieldDescriptor, value: Any) -> Any:
    if is_map(field):
        return dict(value)
    if field.is_repeated:
        return [_one(field, each) for each in value]
    return _one(field, value)


def _one(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
