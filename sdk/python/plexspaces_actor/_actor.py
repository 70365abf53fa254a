"""The actor: handlers by message type, and state that survives.

Knows nothing of WebAssembly; `plexspaces_actor.component` connects an actor to the contract.
"""

from __future__ import annotations

import copy
import inspect
import logging
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from . import _late
from ._errors import ActorFailure, DefinitionError
from ._payload import BadValue, check, convert, decode, encode, from_json, to_json

F = TypeVar("F", bound=Callable[..., object])
_log = logging.getLogger("plexspaces")
_MARK = "__plexspaces_message_type__"
_CONTRACT = "__plexspaces_contract__"


def handler(message_type: str) -> Callable[[F], F]:
    """Make a method of an `Actor` answer messages of this type.

    The method takes no argument, or one annotated argument: the payload.
    """
    if not isinstance(message_type, str) or not message_type:
        raise DefinitionError('write @handler("message-type"), with the type of the message')

    def mark(method: F) -> F:
        setattr(method, _MARK, message_type)
        return method

    return mark


class Actor:
    """An instance of an application; it handles one message at a time.

    Public annotated attributes with JSON types are its state: each instance starts with its own
    copy of the defaults, and after a restart with the last values. Attributes that begin with an
    underscore, and those without an annotation, are not saved.

    Override `snapshot` and `restore` together to store the state in another form.
    """

    _sender: str = ""

    def __new__(cls, *args: object, **kwargs: object) -> typing.Self:
        self = super().__new__(cls)
        for name in contract_of(cls).state:
            if hasattr(cls, name):
                # A copy: a list written as the default must not be shared between instances.
                setattr(self, name, copy.deepcopy(getattr(cls, name)))
        return self

    @property
    def sender(self) -> str:
        """Name of the application that sent the current message; empty for a client."""
        return self._sender

    def start(self) -> None:
        """Override to act once per instance, after its state was restored.

        If it raises, the deploy fails with that message.
        """

    def shutdown(self) -> None:
        """Override to act when the instance is stopped cleanly; this is its last call."""

    def snapshot(self) -> bytes:
        """Return the state; empty for an actor without state."""
        names = contract_of(type(self)).state
        return to_json({n: getattr(self, n) for n in names if hasattr(self, n)}) if names else b""

    def restore(self, state: bytes) -> None:
        """Restore what `snapshot` returned, perhaps in an earlier version of the application.

        Attributes that are no longer declared are dropped, new ones keep their defaults. Raises
        ValueError if a value does not match its annotation.
        """
        kinds = contract_of(type(self)).state
        try:
            values = convert(from_json(state), dict[str, Any])
            kept = {n: convert(value, kinds[n], n) for n, value in values.items() if n in kinds}
        except BadValue as exc:
            raise ValueError(f"the saved state does not fit: {exc}") from None
        for name, value in kept.items():
            setattr(self, name, value)

    def receive(self, message_type: str, payload: bytes, *, sender: str = "") -> bytes:
        """Handle one message from the node, and return the reply.

        Raises only `ActorFailure`: any other exception of a handler is logged with its traceback
        and becomes the code ``exception``.
        """
        entry = contract_of(type(self)).handlers.get(message_type)
        if entry is None:
            raise ActorFailure("unknown-message", self._unknown(message_type))
        self._sender = sender
        try:
            return encode(getattr(self, entry.method)(*entry.arguments(payload)))
        except ActorFailure:
            raise
        except MemoryError:
            # The instance may be broken, so it ends, and the node creates a new one.
            raise
        except (Exception, SystemExit) as exc:
            _explain(exc)
            _log_unhandled(message_type, exc)
            raise ActorFailure("exception", describe(exc)) from exc
        finally:
            self._sender = ""

    def _unknown(self, message_type: str) -> str:
        known = ", ".join(sorted(contract_of(type(self)).handlers)) or "none"
        return f"{type(self).__name__} does not know {message_type!r}; it knows: {known}"


def _log_unhandled(message_type: str, exc: BaseException) -> None:
    cause = exc.__traceback__.tb_next if exc.__traceback__ else None
    _log.error("%r was not handled", message_type, exc_info=(type(exc), exc, cause))


@dataclass(frozen=True, slots=True)
class Entry:
    """One handler: the method's name, and the type of its argument unless it takes none."""

    method: str
    takes_payload: bool
    kind: Any

    def arguments(self, payload: bytes) -> tuple[Any, ...]:
        """Return the method's arguments; raises `ActorFailure`."""
        if not self.takes_payload:
            return ()
        try:
            return (decode(payload, self.kind),)
        except BadValue as exc:
            raise ActorFailure("bad-payload", f"{self.method}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Contract:
    """What an actor class declares: handlers by message type, types of the state by name."""

    handlers: Mapping[str, Entry]
    state: Mapping[str, Any]


def contract_of(cls: type[Actor]) -> Contract:
    """Read and check a class, once; raises `DefinitionError` with the place in its source."""
    known = vars(cls).get(_CONTRACT)
    if isinstance(known, Contract):
        return known
    contract = Contract(_handlers(cls), _state(cls))
    setattr(cls, _CONTRACT, contract)
    return contract


def _handlers(cls: type[Actor]) -> dict[str, Entry]:
    handlers: dict[str, Entry] = {}
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        message_type = getattr(method, _MARK, None)
        if message_type is None:
            continue
        if message_type in handlers:
            raise DefinitionError(f"{_place(method)}: a second handler for {message_type!r}")
        handlers[message_type] = _entry(name, method)
    return handlers


def find_actor(module: ModuleType) -> type[Actor]:
    """Return the one subclass of `Actor` in a module's names; raises `DefinitionError`."""
    found = {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Actor) and value is not Actor
    }
    if len(found) == 1:
        return found.pop()
    if not found:
        raise DefinitionError("app.py defines no actor: write `class NAME(Actor): ...` in it")
    names = ", ".join(sorted(cls.__name__ for cls in found))
    raise DefinitionError(f"app.py defines {len(found)} actors ({names}): it must define one")


def describe(exc: BaseException) -> str:
    """Return an exception in one line: its type and its message."""
    said = str(exc)
    return f"{type(exc).__name__}: {said}" if said else type(exc).__name__


def _entry(name: str, method: Callable[..., object]) -> Entry:
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        raise DefinitionError(f"{_place(method)}: handler {name!r} must be a plain function")
    parameters = list(inspect.signature(method).parameters.values())[1:]
    if not parameters:
        return Entry(name, takes_payload=False, kind=None)
    if len(parameters) > 1 or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise DefinitionError(f"{_place(method)}: handler {name!r} takes one argument, the payload")
    if parameters[0].annotation is inspect.Parameter.empty:
        raise DefinitionError(
            f"{_place(method)}: handler {name!r} needs a type for {parameters[0].name!r}: "
            "bytes, str, dict, a dataclass, ..."
        )
    try:
        kind = typing.get_type_hints(method)[parameters[0].name]
        check(kind)
    except (TypeError, NameError) as exc:
        raise DefinitionError(f"{_place(method)}: handler {name!r}: {exc}") from exc
    return Entry(name, takes_payload=True, kind=kind)


def _state(cls: type[Actor]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls)
    except (TypeError, NameError) as exc:
        raise DefinitionError(f"the annotations of {cls.__name__}: {exc}") from exc
    kept = {
        name: kind
        for name, kind in hints.items()
        if not name.startswith("_") and typing.get_origin(kind) is not ClassVar
    }
    for name in kept:
        if name in vars(Actor):
            raise DefinitionError(f"{cls.__name__}.{name}: the name is taken by the SDK")
    if cls.snapshot is not Actor.snapshot and cls.restore is not Actor.restore:
        return kept
    for name, kind in kept.items():
        try:
            check(kind, nested=True)
        except TypeError as exc:
            raise DefinitionError(
                f"{cls.__name__}.{name}: {exc}; begin its name with an underscore if it is not "
                "state, or override snapshot and restore"
            ) from exc
    return kept


def _place(method: Callable[..., object]) -> str:
    code = inspect.unwrap(method).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _explain(exc: BaseException) -> None:
    if isinstance(exc, ImportError):
        _late.explain(exc)
