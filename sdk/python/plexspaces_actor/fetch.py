"""HTTP requests: the node makes them.

Only to hosts that ``plexspaces deploy --allow-host`` names. Redirects are not followed: a response
is returned as it is. `fetch` is for HTTP components, projects with ``server.py``; `fetch_sync` for
actors, which handle one message at a time and wait.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from . import _host
from ._errors import ActorFailure

try:
    import componentize_py_async_support as support  # type: ignore[import-not-found]
    import wit_world  # type: ignore[import-not-found]
    from componentize_py_types import Err, Ok  # type: ignore[import-not-found]
    from wit_world.imports import client  # type: ignore[import-not-found]
    from wit_world.imports import wasi_http_types as http
except ImportError:
    # In the application's own tests: they put something else in the place of `fetch`.
    client = None

_LONGEST_MS = 2**32 - 1
_READ_BYTES = 64 * 1024
_NANOSECONDS = 1_000_000_000


class FetchError(OSError):
    """A request that the node did not make, or that had no response.

    Attributes:
        code: the name of wasi:http's error-code, such as ``http-request-denied``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Response:
    """A response whose body is still on its way.

    Attributes:
        status: the status, such as 200.
        headers: names, in lower case, and values.
    """

    def __init__(self, status: int, headers: list[tuple[str, str]], body: Any, end: Any) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._end = end

    def header(self, name: str) -> str | None:
        """Return the first header of a name, or None."""
        return next((value for each, value in self.headers if each == name.lower()), None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises `FetchError` if it breaks off."""
        while not self._body.writer_dropped:
            if part := await self._body.read(_READ_BYTES):
                yield bytes(part)
        end = await self._end.read()
        if (error := _error_in(end)) is not None:
            raise FetchError(f"the response broke off: {error}", error)

    async def read(self) -> bytes:
        """Return the whole body; raises `FetchError` if it breaks off."""
        return b"".join([part async for part in self])


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    timeout_s: float | None = None,
) -> Response:
    """Send a request and return its response when the head of that has arrived.

    `timeout_s` is how long that may take; the node has a limit of its own. Raises `FetchError`,
    `ValueError` for a URL that is not absolute, and `RuntimeError` outside of an HTTP component.
    """
    if client is None:
        raise RuntimeError("fetch is for HTTP components; in an actor use fetch_sync")
    parts = _absolute(url)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields = http.Fields.from_list([(name, value.encode("latin-1")) for name, value in pairs])
    writer, contents = wit_world.byte_stream() if body else (None, None)
    options = None
    if timeout_s is not None:
        options = http.RequestOptions()
        options.set_first_byte_timeout(round(timeout_s * _NANOSECONDS))
    _, trailers = wit_world.result_option_wasi_http_types_fields_wasi_http_types_error_code_future(
        lambda: Ok(None)
    )
    request, _ = http.Request.new(fields, contents, trailers, options)
    known = getattr(http, f"Method_{method.capitalize()}", None)
    request.set_method(known() if known else http.Method_Other(method))
    request.set_scheme(http.Scheme_Https() if parts.scheme == "https" else http.Scheme_Http())
    request.set_authority(parts.netloc)
    path = parts.path or "/"
    request.set_path_with_query(f"{path}?{parts.query}" if parts.query else path)
    if writer is not None:
        support.spawn(_write(writer, body))
    try:
        response = await client.send(request)
    except Err as error:
        code = _name_of(error.value)
        raise FetchError(f"{method} {parts.scheme}://{parts.netloc}: {code}", code) from None
    received = [
        (name.lower(), value.decode("latin-1")) for name, value in response.get_headers().copy_all()
    ]
    status = response.get_status_code()
    _, consumed = wit_world.result_unit_wasi_http_types_error_code_future(lambda: Ok(None))
    stream, end = http.Response.consume_body(response, consumed)
    return Response(status, received, stream, end)


@dataclass(frozen=True, slots=True)
class WholeResponse:
    """A response with its whole body.

    Attributes:
        status: the status, such as 200.
        headers: names, in lower case, and values.
    """

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """Return the first header of a name, or None."""
        return next((value for each, value in self.headers if each == name.lower()), None)


def fetch_sync(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    timeout_s: float | None = None,
) -> WholeResponse:
    """Send a request, wait for its whole response and return it: for actors.

    `timeout_s` is how long that may take; the message's own deadline holds too. The response can be
    as long as a message. Raises `FetchError`, `ValueError` for a URL that is not absolute, and
    `RuntimeError` in an HTTP component.
    """
    parts = _absolute(url)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    encoded = [(name, value.encode("latin-1")) for name, value in pairs]
    timeout_ms = 0
    if timeout_s is not None:
        timeout_ms = min(max(1, round(timeout_s * 1000)), _LONGEST_MS)
    try:
        status, received, whole = _host.current().fetch(
            method, url.partition("#")[0], encoded, body, timeout_ms
        )
    except ActorFailure as failure:
        message = f"{method} {parts.scheme}://{parts.netloc}: {failure.message}"
        raise FetchError(message, failure.code) from None
    return WholeResponse(
        status, whole, [(name.lower(), value.decode("latin-1")) for name, value in received]
    )


def _absolute(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is not an absolute URL of http or https")
    return parts


async def _write(writer: Any, body: bytes) -> None:
    with writer:
        await writer.write_all(body)


def _error_in(end: Any) -> str | None:
    """Return the error's name in what ends a body, or None."""
    value = getattr(end, "value", None)
    return _name_of(value) if type(end).__name__ == "Err" else None


def _name_of(error: Any) -> str:
    """Return the name that wasi:http has for an error."""
    name = type(error).__name__.removeprefix("ErrorCode_")
    return re.sub("(?<!^)(?=[A-Z])", "-", name).lower()
