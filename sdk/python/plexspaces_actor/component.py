"""Connects an application's actor to the contract `plexspaces:application/actor`.

Imported only by the module that `plexspaces build` writes, while the component is made: its
bindings exist nowhere else. Everything that goes to the host is made valid here, because a value
that the host cannot take, or an exception that leaves an export, ends the instance.
"""

from __future__ import annotations

import linecache
import logging
import os
import sys
import traceback
from types import ModuleType

from componentize_py_types import Err  # type: ignore[import-not-found]
from wit_world import exports  # type: ignore[import-not-found]
from wit_world.imports import keyvalue as wit_keyvalue  # type: ignore[import-not-found]
from wit_world.imports import logging as wit_logging
from wit_world.imports import messaging as wit_messaging
from wit_world.imports.types import ActorError  # type: ignore[import-not-found]

try:
    from wit_world.imports import http as wit_http
except ImportError:
    # The build gives it to actors that use `fetch_sync`: others run on nodes that do not know it.
    wit_http = None

from . import _host
from ._actor import Actor, contract_of, describe, find_actor
from ._errors import ActorFailure, KeyValueError
from ._host import Pairs

_log = logging.getLogger("plexspaces")


def bind(module: ModuleType) -> type:
    """Return the class that exports the one actor of `module`; raises `DefinitionError`."""
    definition = find_actor(module)
    contract_of(definition)
    _host.install(WitHost())
    forward_log()
    keep_source_lines(os.path.dirname(module.__file__ or ""))
    stage = Stage(definition)

    # The runtime creates a new object of this class for every call; the lasting state is in
    # `stage`.
    class Bound(exports.Actor):  # type: ignore[misc]
        def init(self, initial_state: bytes) -> None:
            stage.init(initial_state)

        def handle_message(self, sender: str, msg_type: str, payload: bytes) -> bytes:
            return stage.handle_message(sender, msg_type, payload)

        def snapshot_state(self) -> bytes:
            return stage.snapshot_state()

        def shutdown(self) -> None:
            stage.shutdown()

    return Bound


class Stage:
    """The one actor of an instance, and its last good snapshot."""

    def __init__(self, definition: type[Actor]) -> None:
        self._definition = definition
        self._actor: Actor | None = None
        self._saved = b""

    def init(self, state: bytes) -> None:
        """Create the actor; every failure becomes the error text of the contract."""
        try:
            actor = self._definition()
            if state:
                actor.restore(state)
            actor.start()
        except (Exception, SystemExit) as exc:  # noqa: BLE001  (would end the instance)
            _log.exception("the actor did not start")
            raise Err(_text(describe(exc))) from None
        self._actor, self._saved = actor, state

    def handle_message(self, sender: str, message_type: str, payload: bytes) -> bytes:
        """Pass a message on; every failure becomes the error record of the contract."""
        try:
            if self._actor is None:
                raise ActorFailure("wrong-state", "the actor was not initialised")
            return self._actor.receive(message_type, payload, sender=sender)
        except ActorFailure as failure:
            record = ActorError(
                _text(failure.code), _text(failure.message), bool(failure.retryable)
            )
            raise Err(record) from None

    def snapshot_state(self) -> bytes:
        """Return the state.

        The contract has no error here: if the actor fails, its last good state is returned and the
        log says so, which is better than losing the instance.
        """
        try:
            if self._actor is not None:
                self._saved = bytes(self._actor.snapshot())
        except (Exception, SystemExit):  # noqa: BLE001  (would end the instance)
            _log.exception("the state could not be saved; the one before it is kept")
        return self._saved

    def shutdown(self) -> None:
        """Call the actor's last method; exceptions are logged."""
        try:
            if self._actor is not None:
                self._actor.shutdown()
        except (Exception, SystemExit):  # noqa: BLE001  (would end the instance)
            _log.exception("the actor failed in shutdown")


class WitHost:
    """The host that uses the contract's imports."""

    def get(self, key: str) -> bytes | None:
        try:
            value: bytes | None = wit_keyvalue.get(_text(key))
        except Err as exc:
            raise KeyValueError(str(_value(exc))) from None
        return value

    def put(self, key: str, value: bytes) -> None:
        try:
            wit_keyvalue.put(_text(key), value)
        except Err as exc:
            raise KeyValueError(str(_value(exc))) from None

    def delete(self, key: str) -> None:
        try:
            wit_keyvalue.delete(_text(key))
        except Err as exc:
            raise KeyValueError(str(_value(exc))) from None

    def tell(self, to: str, message_type: str, payload: bytes) -> None:
        try:
            wit_messaging.tell(_text(to), _text(message_type), payload)
        except Err as exc:
            raise _failure(_value(exc)) from None

    def ask(self, to: str, message_type: str, payload: bytes, timeout_ms: int) -> bytes:
        try:
            reply: bytes = wit_messaging.ask(_text(to), _text(message_type), payload, timeout_ms)
        except Err as exc:
            raise _failure(_value(exc)) from None
        return reply

    def fetch(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_ms: int
    ) -> tuple[int, Pairs, bytes]:
        if wit_http is None:
            raise RuntimeError("fetch_sync is for actors whose own source has its name")
        named = [(_text(name), value) for name, value in headers]
        request = wit_http.Request(_text(method), _text(url), named, body, timeout_ms)
        try:
            response = wit_http.fetch(request)
        except Err as exc:
            raise _failure(_value(exc)) from None
        return response.status, response.headers, response.body


def read_kept(begin: int, length: int) -> bytes:
    """Return a part of the data stored in the component; see `plexspaces_actor._late`.

    The build makes `get` answer such keys itself, from the component: the host is not asked.
    """
    part: bytes = wit_keyvalue.get(f"\0\1{_five_letters(begin)}{_five_letters(length)}")
    return part


def _five_letters(number: int) -> str:
    # Six bits of each count.
    return "".join(chr(64 + (number >> shift & 63)) for shift in (24, 18, 12, 6, 0))


class HostHandler(logging.Handler):
    """Sends the records of the standard library's `logging` to the application's log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except (Exception, SystemExit):  # noqa: BLE001  (would fail the handler)
            # A line with wrong arguments must not be lost.
            text = f"{record.msg} (could not be formatted)\n{traceback.format_exc()}"
        wit_logging.log(_level(record.levelno), _text(text))


def forward_log() -> None:
    """Send what the standard library's `logging` gets to the application's log."""
    root = logging.getLogger()
    root.handlers[:] = [HostHandler()]
    root.setLevel(logging.INFO)
    _log.setLevel(logging.DEBUG)


def _level(number: int) -> object:
    levels = wit_logging.Level
    for least, level in (
        (logging.ERROR, levels.ERROR),
        (logging.WARNING, levels.WARN),
        (logging.INFO, levels.INFO),
        (logging.DEBUG, levels.DEBUG),
    ):
        if number >= least:
            return level
    return levels.TRACE


def keep_source_lines(directory: str) -> None:
    """Keep the lines of the modules below a directory, for tracebacks."""
    # The instance has no files: without this, tracebacks would not show the application's lines.
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.startswith(directory + os.sep):
            lines = linecache.getlines(file)
            # No modification time: the cache then does not look for the file.
            linecache.cache[file] = (sum(map(len, lines)), None, lines, file)


def _value(error: Err) -> object:
    # The bindings raise an exception that a variable of theirs still refers to: a cycle through the
    # traceback.
    error.with_traceback(None)
    return error.value


def _failure(record: ActorError) -> ActorFailure:
    return ActorFailure(record.code, record.message, record.retryable)


def _text(value: object) -> str:
    # A lone surrogate is legal in a Python string and cannot cross the contract.
    return str(value).encode("utf-8", "replace").decode()
