"""What an actor may ask of its host: logging, keyvalue and messaging.

The host functions of the contract, each a request to the node over the link. Time spent here is
the actor waiting, not computing: it is counted in `waited_ns` and subtracted by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns, perf_counter_ns

from plexspaces_node.agent import contract
from plexspaces_node.agent.boundary import Err, Ok, Optional, Record, callback
from plexspaces_node.agent.memory import of_process
from plexspaces_node.agent.room import Room
from plexspaces_node.agent.wasm import ComponentLinker, Engine
from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.wire.link import (
    CODE_BYTES,
    TEXT_BYTES,
    Answer,
    LinkFailure,
    cut,
    failure_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

_KEY_CHARACTERS = 512
_KEY_TOO_LONG = f"a key is at most {_KEY_CHARACTERS} bytes long"


class Services(Protocol):
    """What the link offers a host function; each call blocks until the node has answered.

    A lost link answers with the platform failure `unavailable`, a `timeout_ns` that passes with
    `deadline_exceeded`.
    """

    def log(self, stream: str, level: str, message: str) -> None:
        """Send a line of the log; does not wait for the node."""

    def get(self, key: str, timeout_ns: int) -> Answer:
        """Read a key."""

    def put(self, key: str, value: bytes | None, timeout_ns: int) -> Answer:
        """Write a key, or delete it."""

    def tell(self, to: str, msg_type: str, payload: bytes, timeout_ns: int) -> Answer:
        """Queue a message with another application."""

    def ask(self, to: str, msg_type: str, payload: bytes, timeout_ns: int) -> Answer:
        """Send a message to another application and wait for its reply."""


class Host:
    """The host side of one actor: its functions and the time it spent waiting in them."""

    def __init__(self, services: Services, message_limit: int, *, room: Room | None = None) -> None:
        self._services = services
        self._room = room or Room(of_process)
        self._message_limit = message_limit
        self.waited_ns = 0
        self.deadline_ns = 0
        """Of the call at hand, on the monotonic clock: no host call waits beyond it."""

    def linker(self, engine: Engine) -> ComponentLinker:
        """Return a linker with WASI and the contract."""
        linker = ComponentLinker(engine)
        for interface, functions in self._interfaces().items():
            timed = {
                name: callback(name, self._timed(function)) for name, function in functions.items()
            }
            linker.define(interface, timed)
        return linker

    def _interfaces(self) -> dict[str, dict[str, Callable[..., Any]]]:
        return {
            contract.TYPES: {},
            contract.LOGGING: {"log": self._log},
            contract.KEYVALUE: {"get": self._get, "put": self._put, "delete": self._delete},
            contract.MESSAGING: {"tell": self._tell, "ask": self._ask},
        }

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begin = perf_counter_ns()
            try:
                return function(*arguments)
            finally:
                self.waited_ns += perf_counter_ns() - begin

        return call

    def _left_ns(self) -> int:
        return max(0, self.deadline_ns - monotonic_ns())

    def _log(self, level: str, message: str) -> None:
        self._services.log("log", level, cut(message, TEXT_BYTES))

    def _get(self, key: str) -> Ok | Err:
        if len(key) > _KEY_CHARACTERS:
            return Err(_KEY_TOO_LONG)
        answer = self._services.get(key, self._left_ns())
        failure = answer.failure or self._no_room(answer)
        return Err(failure.message) if failure else Ok(Optional(answer.payload))

    def _put(self, key: str, value: bytes) -> Ok | Err:
        return self._write(key, value)

    def _delete(self, key: str) -> Ok | Err:
        return self._write(key, None)

    def _write(self, key: str, value: bytes | None) -> Ok | Err:
        if len(key) > _KEY_CHARACTERS:
            return Err(_KEY_TOO_LONG)
        if value is not None and len(value) > self._message_limit:
            return Err(f"a value of {len(value)} bytes is over the limit of {self._message_limit}")
        answer = self._services.put(key, value, self._left_ns())
        return Err(answer.failure.message) if answer.failure else Ok()

    def _tell(self, to: str, msg_type: str, payload: bytes) -> Ok | Err:
        refused = self._too_long(to, msg_type, payload)
        if refused:
            return refused
        answer = self._services.tell(to, msg_type, payload, self._left_ns())
        return Err(_record(answer.failure)) if answer.failure else Ok()

    def _ask(self, to: str, msg_type: str, payload: bytes, timeout_ms: int) -> Ok | Err:
        refused = self._too_long(to, msg_type, payload)
        if refused:
            return refused
        timeout_ns = min(timeout_ms * 1_000_000, self._left_ns())
        answer = self._services.ask(to, msg_type, payload, timeout_ns)
        failure = answer.failure or self._no_room(answer)
        return Err(_record(failure)) if failure else Ok(answer.payload or b"")

    def _no_room(self, answer: Answer) -> LinkFailure | None:
        try:
            self._room.check(len(answer.payload or b""))
        except ResourceExhausted as error:
            return failure_of(error)
        return None

    def _too_long(self, to: str, msg_type: str, payload: bytes) -> Err | None:
        message = f"a message of {len(payload)} bytes is over the limit of {self._message_limit}"
        if len(to) > CODE_BYTES or len(msg_type) > CODE_BYTES:
            message = f"the name or the type of a message is over the limit of {CODE_BYTES} bytes"
        elif len(payload) <= self._message_limit:
            return None
        return Err(_record(LinkFailure("platform", "invalid_argument", message)))


def _record(failure: LinkFailure) -> Record:
    # WIT names are written with dashes; the contract promises `call-cycle`, `not-found` and so on.
    code = failure.code.replace("_", "-") if failure.origin == "platform" else failure.code
    return Record((("code", code), ("message", failure.message), ("retryable", failure.retryable)))
