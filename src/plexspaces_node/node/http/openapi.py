"""The control API's description: an OpenAPI 3.1 document made from the contract, and a page."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from plexspaces_node import __version__
from plexspaces_node.node.access.identity import Scope
from plexspaces_node.node.access.policy import INVOKE, RULES
from plexspaces_node.node.http.routes import ROUTES, Route
from plexspaces_node.node.http.transcode import is_map

_PROBLEM = {
    "description": "An error (RFC 9457).",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "hint": {"type": "string"},
        "retryable": {"type": "boolean"},
    },
    "required": ["type", "title", "status", "detail", "code", "retryable"],
}
_SIGNED = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
_UNSIGNED = (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
_STREAMED = {"VmConsole": ("application/octet-stream",)}
"""What a stream of replies is, if not JSON objects: one a line, or each an event."""
_LINES = ("application/x-ndjson", "text/event-stream")


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM_SCHEMA}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    message = {**_MESSAGE, "description": _needed(INVOKE)}
    paths["/apps/{name}/{type}"] = {"post": message}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PlexSpaces node",
            "version": __version__,
            "description": "Deploys WebAssembly applications, one VM each, and passes messages.",
        },
        "paths": paths,
        # The empty one: while a node has no tokens, and by its unix socket, nobody needs one.
        "security": [{"token": []}, {}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def page() -> str:
    """Return the document as a page that needs no script."""
    rows = "".join(
        f"<tr><td><code>{escape(method.upper())}</code></td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation['summary'])}</td></tr>"
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    )
    return _PAGE.format(version=escape(__version__), rows=rows)


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    request, response = route.descriptor.input_type, route.descriptor.output_type
    fields = request.fields_by_name
    if route.rpc == "UploadArtifact":
        # The rest of what is sent is the body.
        fields = request.nested_types_by_name["Header"].fields_by_name
    operation: dict[str, Any] = {
        "operationId": route.rpc,
        "summary": route.summary,
        "description": _needed(route.verb),
        "parameters": [
            _parameter(name, fields[field], "path")
            for name, field in route.parameters.items()
            if field in fields
        ]
        + [_parameter(name, fields[name], "query") for name in route.query],
        "responses": {
            str(route.status): {"description": "Success."},
            "4XX": _PROBLEM,
            "5XX": _PROBLEM,
        },
    }
    if route.rpc == "UploadArtifact":
        operation["requestBody"] = {
            "required": True,
            "content": {"application/wasm": _ANY_BYTES, "application/octet-stream": _ANY_BYTES},
        }
    if route.method == "POST":
        schema = _schema(request, schemas, left_out=set(route.parameters.values()))
        operation["requestBody"] = {
            "required": route.has_body,
            "content": {"application/json": {"schema": schema}},
        }
    if route.status != 204:
        told = (route.answer and response.fields_by_name[route.answer].message_type) or response
        is_stream = route.descriptor.server_streaming and not route.answer
        kinds = _STREAMED.get(route.rpc, _LINES) if is_stream else ("application/json",)
        schema = {"type": "string"} if is_stream else _reference(told, schemas)
        content = {kind: {"schema": schema} for kind in kinds}
        operation["responses"][str(route.status)]["content"] = content
    return operation


def _needed(verb: str) -> str:
    scopes = RULES[verb].scopes
    if scopes is None:
        return "Needs no token."
    if scopes == frozenset(Scope):
        return "Needs a token of any scope."
    *others, last = sorted(scopes)
    named = f"{', '.join(others)} or {last}" if others else last
    return f"Needs a token with the scope {named}."


def _parameter(name: str, field: FieldDescriptor, place: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": _scalar(field),
    }


def _reference(message: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    name = message.full_name.removeprefix("plexspaces.node.v1.")
    if name not in schemas:
        # First the name, for a message may hold one of its own kind.
        schemas[name] = {}
        schemas[name] = _schema(message, schemas)
    return {"$ref": f"#/components/schemas/{name}"}


def _schema(
    message: Descriptor, schemas: dict[str, Any], *, left_out: set[str] | None = None
) -> dict[str, Any]:
    properties = {
        field.name: _property(field, schemas)
        for field in message.fields
        if field.name not in (left_out or ())
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _property(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None and is_map(field):
        value = field.message_type.fields_by_name["value"]
        return {"type": "object", "additionalProperties": _scalar(value)}
    one = _reference(field.message_type, schemas) if field.message_type else _scalar(field)
    return {"type": "array", "items": one} if field.is_repeated else one


def _scalar(field: FieldDescriptor) -> dict[str, Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"type": "boolean"}
    if field.cpp_type in _SIGNED:
        return {"type": "integer"}
    if field.cpp_type in _UNSIGNED:
        most = 2**32 if field.cpp_type == FieldDescriptor.CPPTYPE_UINT32 else 2**64
        return {"type": "integer", "minimum": 0, "maximum": most - 1}
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return {"type": "number"}
    return {"type": "string"}


_ANY_BYTES = {"schema": {"type": "string", "format": "binary"}}
_MESSAGE = {
    "operationId": "SendMessage",
    "summary": "Send a message: the body is its payload, the response body is the reply.",
    "parameters": [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("name", "type")
    ],
    "requestBody": {"content": {"application/octet-stream": _ANY_BYTES}},
    "responses": {
        "200": {
            "description": "The reply; Server-Timing shows where its time went.",
            "content": {
                "application/json": {"schema": {}},
                "text/plain": {"schema": {"type": "string"}},
                "application/octet-stream": _ANY_BYTES,
            },
        },
        "422": _PROBLEM,
        "4XX": _PROBLEM,
        "5XX": _PROBLEM,
    },
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>PlexSpaces node API</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
td {{ padding: .3rem .8rem .3rem 0; vertical-align: top }}
</style></head><body>
<h1>PlexSpaces node {version}</h1>
<p>OpenAPI description: <a href="/openapi.json">/openapi.json</a></p>
<table>{rows}</table>
<p>An HTTP component answers any method below <code>/apps/NAME/</code> and at the host
<code>NAME.localhost</code>.</p>
</body></html>
"""
