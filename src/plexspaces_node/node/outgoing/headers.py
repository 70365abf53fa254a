"""The head of a request as it is sent, and the headers of a response as an application gets them.

What belongs to one connection (RFC 9110, 7.6.1) goes no further, in either direction.
"""

from __future__ import annotations

from collections.abc import Collection

import h11

from plexspaces_node.node.outgoing.call import CallFailed, Code, Headers, Request
from plexspaces_node.node.outgoing.connector import Destination

OF_A_CONNECTION = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The node's business, in a request.
_OWN = frozenset({b"host", b"expect", b"content-length"})
_WITH_A_BODY = frozenset({"POST", "PUT", "PATCH"})


def passed_on(headers: Headers, *, without: Collection[bytes] = ()) -> list[tuple[bytes, bytes]]:
    """Return the headers that are not those of a connection, nor among `without`."""
    gone = OF_A_CONNECTION | named_by_connection(headers) | frozenset(without)
    return [(name, value) for name, value in headers if name.lower() not in gone]


def named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Return the names, in lower case, that the Connection headers add to those of a connection."""
    return frozenset(
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    )


def head_of(request: Request, destination: Destination) -> h11.Request:
    """Return the head to send for a request; raises `CallFailed` for one that is not valid."""
    path = request.path or "/"
    if request.method.upper() == "CONNECT":
        raise CallFailed(Code.REQUEST_DENIED, "CONNECT is not allowed")
    if not path.startswith("/") and (request.method, path) != ("OPTIONS", "*"):
        raise CallFailed(Code.PROTOCOL_ERROR, "the path of the request does not begin with /")
    headers = [(b"host", destination.authority.encode()), *passed_on(request.headers, without=_OWN)]
    headers += _framing(request)
    try:
        return h11.Request(method=request.method, target=path, headers=headers)
    except (h11.LocalProtocolError, UnicodeError) as error:
        raise CallFailed(Code.PROTOCOL_ERROR, f"the request is not valid HTTP: {error}") from error


def _framing(request: Request) -> list[tuple[bytes, bytes]]:
    """Return the header that says how long the body is."""
    told = {value for name, value in request.headers if name.lower() == b"content-length"}
    if request.length is None:
        if told:
            # It is held to it: more or less is an error.
            return [(b"content-length", value) for value in told]
        return [(b"transfer-encoding", b"chunked")]
    if told - {str(request.length).encode()} and request.method != "HEAD":
        raise CallFailed(Code.PROTOCOL_ERROR, "the body is not as long as Content-Length says")
    if request.length or request.method in _WITH_A_BODY:
        return [(b"content-length", str(request.length).encode())]
    return []
