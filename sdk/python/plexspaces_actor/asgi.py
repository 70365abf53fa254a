"""Serves an ASGI application behind `wasi:http/handler`.

Imported only by the module that `plexspaces build` writes for a project with ``server.py``. The
host calls it once per instance; the response's body goes out as the application sends it, and no
faster than the client takes it.

The loop of the bindings has no timers: they are added here, so that `asyncio.sleep` and
`asyncio.wait_for` work.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextvars import Context
from types import ModuleType
from typing import Any
from urllib.parse import unquote_to_bytes

import componentize_py_async_support as support  # type: ignore[import-not-found]
import wit_world  # type: ignore[import-not-found]
from componentize_py_types import Ok  # type: ignore[import-not-found]
from wit_world import exports
from wit_world.imports import monotonic_clock as clock  # type: ignore[import-not-found]
from wit_world.imports import wasi_http_types as http

from . import _host
from ._errors import DefinitionError
from .component import WitHost, forward_log, keep_source_lines

Event = dict[str, Any]
Application = Callable[
    [Event, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]
]

READ_BYTES = 64 * 1024
"""How much of a request's body is taken at once."""
_NANOSECONDS = 1_000_000_000
_FAILED = b"Internal Server Error\n"

_log = logging.getLogger("plexspaces")


def bind(module: ModuleType) -> type:
    """Return the class that serves the `app` of `module`; raises `DefinitionError`."""
    application: Any = getattr(module, "app", None)
    if not callable(application):
        raise DefinitionError(
            "server.py has no ASGI application: write async def app(scope, receive, send)"
        )
    _host.install(WitHost())
    forward_log()
    keep_source_lines(os.path.dirname(module.__file__ or ""))
    _add_timers()

    class Bound(exports.Handler):  # type: ignore[misc]
        async def handle(self, request: Any) -> Any:
            return await Exchange(application).run(request)

    return Bound


class Exchange:
    """One request and its response, in ASGI's events."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._body: Any = None
        self._complete = False
        self._start: Event | None = None
        self._started = asyncio.Event()
        self._writer: Any = None

    async def run(self, request: Any) -> Any:
        """Call the application and return the response once it has begun.

        The application goes on while the response is on its way. If it fails before it has sent
        anything, the response has the status 500.
        """
        scope = _scope(request)
        _, consumed = wit_world.result_unit_wasi_http_types_error_code_future(lambda: Ok(None))
        self._body, _ = http.Request.consume_body(request, consumed)
        self._writer, body = wit_world.byte_stream()
        support.spawn(self._call(scope))
        await self._started.wait()
        start = self._start or {"status": 500, "headers": [(b"content-type", b"text/plain")]}
        headers = http.Fields.from_list(
            [(name.decode("latin-1"), value) for name, value in start.get("headers", ())]
        )
        _, end = wit_world.result_option_wasi_http_types_fields_wasi_http_types_error_code_future(
            lambda: Ok(None)
        )
        response, _ = http.Response.new(headers, body, end)
        response.set_status_code(start["status"])
        return response

    async def _call(self, scope: Event) -> None:
        with self._writer:
            try:
                await self._application(scope, self._receive, self._send)
            except Exception:  # noqa: BLE001  (would end the instance)
                _log.exception("the request failed")
            if not self._started.is_set():
                self._started.set()
                await self._writer.write_all(_FAILED)

    async def _receive(self) -> Event:
        if self._complete:
            return {"type": "http.disconnect"}
        part = b""
        while not part and not self._body.writer_dropped:
            part = await self._body.read(READ_BYTES)
        self._complete = self._body.writer_dropped
        return {"type": "http.request", "body": part, "more_body": not self._complete}

    async def _send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            if self._start is not None:
                raise RuntimeError("the response has begun already")
            self._start = event
        elif event["type"] == "http.response.body":
            if self._start is None:
                raise RuntimeError("http.response.start comes before http.response.body")
            self._started.set()
            if body := bytes(event.get("body", b"")):
                await self._writer.write_all(body)
            if self._writer.reader_dropped:
                raise OSError("the client has gone")
        else:
            raise RuntimeError(f"{event['type']} is not part of HTTP")


def _scope(request: Any) -> Event:
    path, _, query = (request.get_path_with_query() or "/").partition("?")
    authority = request.get_authority() or "localhost"
    fields = request.get_headers().copy_all()
    headers = [(name.lower().encode("latin-1"), value) for name, value in fields]
    if not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", authority.encode()))
    secure = isinstance(request.get_scheme(), http.Scheme_Https)
    host, _, port = authority.rpartition(":")
    server = (host, int(port)) if host and port.isdecimal() else (authority, 443 if secure else 80)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": _method(request.get_method()),
        "scheme": "https" if secure else "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": server,
    }


def _method(method: Any) -> str:
    if isinstance(method, http.Method_Other):
        return str(method.value)
    return type(method).__name__.removeprefix("Method_").upper()


class _Timer(asyncio.TimerHandle):
    """A call in the future, which waits with the host's clock."""

    async def wait(self, delay_s: float) -> None:
        await clock.wait_for(max(0, round(delay_s * _NANOSECONDS)))
        if not self.cancelled():
            self._run()


def _add_timers() -> None:
    def time(_loop: Any) -> float:
        return float(clock.now()) / _NANOSECONDS

    def call_later(
        loop: Any, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> _Timer:
        timer = _Timer(time(loop) + delay, callback, args, loop, context)
        support.spawn(timer.wait(delay))
        return timer

    def call_at(
        loop: Any, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> _Timer:
        return call_later(loop, when - time(loop), callback, *args, context=context)

    loop = support._Loop
    loop.time, loop.call_later, loop.call_at = time, call_later, call_at
    loop._timer_handle_cancelled = lambda _loop, _handle: None
