"""The Python SDK outside a component: what an application's own unit tests rely on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plexspaces_actor import (
    Actor,
    ActorFailure,
    DefinitionError,
    KeyValueError,
    ask,
    handler,
    keyvalue,
    log,
    tell,
    testing,
)
from plexspaces_actor._actor import find_actor
from plexspaces_actor._payload import MAX_DEPTH, BadValue, check, decode, encode, from_json
from plexspaces_actor.fetch import FetchError, fetch_sync


@dataclass
class Point:
    x: int
    y: float = 0.0

    def __post_init__(self) -> None:
        if self.x > 1000:
            raise ValueError("x is too far")


@dataclass
class Shape:
    name: str
    points: list[Point]
    parent: Shape | None = None
    tags: dict[str, str] = field(default_factory=dict)


class Counter(Actor):
    """An actor with one handler of each kind."""

    count: int = 0
    seen: list[str] = []  # noqa: RUF012  (the SDK copies it)
    origin: Point | None = None
    limit: ClassVar[int] = 3
    _cache: object = None
    started = False

    def start(self) -> None:
        self.started = True

    @handler("add")
    def add(self, amount: int) -> int:
        self.count += amount
        self.seen.append(self.sender)
        return self.count

    @handler("echo")
    def echo(self, data: bytes) -> bytes:
        return data

    @handler("upper")
    def upper(self, text: str) -> str:
        return text.upper()

    @handler("move")
    def move(self, point: Point) -> Point:
        self.origin = Point(point.x + 1, point.y)
        return self.origin

    @handler("forget")
    def forget(self) -> None:
        self.count = 0

    @handler("fail")
    def fail(self, code: str) -> None:
        raise ActorFailure(code, "as asked", retryable=True)

    @handler("break")
    def break_(self) -> None:
        self.count = 7
        raise RuntimeError("it broke")

    @handler("leave")
    def leave(self) -> None:
        raise SystemExit(3)

    @handler("import")
    def import_(self) -> None:
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    @handler("nan")
    def nan(self) -> float:
        return float("nan")


def failure(message_type: str, payload: bytes = b"") -> ActorFailure:
    with pytest.raises(ActorFailure) as error:
        Counter().receive(message_type, payload)
    return error.value


# ---- payloads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "kind", "value"),
    [
        (b"\x00\xff", bytes, b"\x00\xff"),
        ("é".encode(), str, "é"),
        (b"", str, ""),
        (b"", type(None), None),
        (b"", int | None, None),
        (b"null", int | None, None),
        (b" 7\n", int, 7),
        (b"7", float, 7.0),
        (b"true", bool, True),
        (b'{"a":[1,"b",null]}', dict, {"a": [1, "b", None]}),
        (b'{"a":1}', Any, {"a": 1}),
        (b"[1,2]", list[int], [1, 2]),
        (b"[1,2]", tuple[int, ...], (1, 2)),
        (b'[1,"a"]', tuple[int, str], (1, "a")),
        (b'["a"]', list[int | str], ["a"]),
        (b'"a"', Literal["a", "b"] | int, "a"),
        (b'{"x":1}', Point, Point(1)),
        (
            b'{"name":"s","points":[{"x":1,"y":2}],"parent":{"name":"p","points":[]}}',
            Shape,
            Shape("s", [Point(1, 2.0)], Shape("p", [])),
        ),
    ],
)
def test_decode_with_a_fitting_payload_gives_the_typed_value(
    payload: bytes, kind: Any, value: object
) -> None:
    """Each kind of annotation reads its form of payload, into values of exactly that type."""
    check(kind)
    decoded = decode(payload, kind)

    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("payload", "kind", "said"),
    [
        (b"", int, "the payload is empty"),
        (b"{", dict, "not JSON"),
        (b"\xff", str, "not UTF-8"),
        (b"\xff", dict, "not UTF-8"),
        (b"NaN", float, "NaN is not a number"),
        (b"true", int, "expected int, not true"),
        (b"1", bool, "expected bool, not 1"),
        (b"1.5", int, "expected int, not 1.5"),
        (b"1" + b"0" * 400, float, "too large"),
        (b"[1]", dict[str, int], "expected an object, not"),
        (b"{}", list[int], "expected a list, not {}"),
        (b"[1]", tuple[int, int], "a list of 2"),
        (b'{"a":["b"]}', dict[str, list[int]], r"a\[0\]: expected int, not \"b\""),
        (b"[]", Point, "expected an object for Point"),
        (b"{}", Point, "field 'x' of Point is missing"),
        (b'{"x":1,"z":1}', Point, "Point has no field 'z'"),
        (b'{"x":1001}', Point, "x is too far"),
        (b'{"name":"s","points":[{"x":"1"}]}', Shape, r"points\[0\]\.x: expected int"),
        (b'"c"', Literal["a", "b"] | int, "expected one of"),
        (b'"' + b"x" * 99 + b'"', int, r"x\.\.\.$"),
    ],
)
def test_decode_with_another_payload_names_the_place(payload: bytes, kind: Any, said: str) -> None:
    """A payload that does not fit is refused, saying where and what was there."""
    with pytest.raises(BadValue, match=said):
        decode(payload, kind)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 500_000,
        b"[" * 500_000 + b"]" * 500_000,
        b'{"a":' * 150_000,
        b"[" * 201 + b'"' + b'\\"' * 400_000,
        b"[" * 201 + b'"\\"' * 250_000 + b"\\",
    ],
)
def test_decode_with_deep_json_refuses_it_unparsed(payload: bytes) -> None:
    """JSON nested deeper than the bound, closed or not, never reaches the recursive parser."""
    with pytest.raises(BadValue, match=f"deeper than {MAX_DEPTH}"):
        from_json(payload)


def test_decode_with_many_brackets_that_are_not_deep_takes_it() -> None:
    """Long lists, and brackets inside strings, do not count as depth."""
    assert len(from_json(b"[" + b",".join([b'{"a":[]}'] * 1000) + b"]")) == 1000
    assert from_json(b'["' + b"[{" * 1000 + b'\\"", 1]')[1] == 1
    assert from_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (None, b""),
        (b"\x00", b"\x00"),
        (bytearray(b"a"), b"a"),
        ("é", "é".encode()),
        (5, b"5"),
        (True, b"true"),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ([Point(1)], b'[{"x":1,"y":0.0}]'),
        ("", b""),
    ],
)
def test_encode_follows_the_value(value: object, payload: bytes) -> None:
    """Replies are bytes as they are, text as UTF-8, None as nothing, all else as compact JSON."""
    assert encode(value) == payload


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


# How fast a busy machine draws examples says nothing about the SDK.
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_json))
def test_encode_then_decode_gives_the_value_back(value: list[Any]) -> None:
    """Whatever JSON can say survives the way there and back."""
    assert decode(encode(value), list[Any]) == value


@pytest.mark.parametrize(
    "kind", [set, object(), list[set[int]], dict[int, str], bytes | int, list[bytes], complex]
)
def test_check_with_a_type_that_cannot_be_read_refuses(kind: Any) -> None:
    """Types that no payload can be read as are refused when the application is built."""
    with pytest.raises(TypeError, match="cannot be read"):
        check(kind)


# ---- the actor ------------------------------------------------------------------------------


def test_receive_with_a_known_message_calls_its_handler() -> None:
    """Payload and reply are converted by the annotations; the sender is known meanwhile."""
    actor = Counter()

    assert actor.receive("add", b"2", sender="other") == b"2"
    assert actor.receive("add", b"3") == b"5"
    assert actor.receive("upper", b"abc") == b"ABC"
    assert actor.receive("echo", bytes(range(256))) == bytes(range(256))
    assert actor.receive("move", b'{"x":1}') == b'{"x":2,"y":0.0}'
    assert actor.receive("forget", b"ignored") == b""
    assert actor.seen == ["other", ""]
    assert actor.sender == ""


def test_receive_with_an_unknown_message_lists_the_known_ones() -> None:
    """The error record names the message and what the actor does handle."""
    error = failure("sum")

    assert error.code == "unknown-message"
    assert "'sum'" in error.message
    assert "add, break, echo" in error.message


def test_receive_with_a_bad_payload_says_what_was_wrong() -> None:
    """A payload of another shape becomes the code bad-payload with the place in it."""
    error = failure("move", b'{"x":"1"}')

    assert (error.code, error.message) == ("bad-payload", 'move: x: expected int, not "1"')


def test_receive_when_the_handler_fails_passes_its_record_on() -> None:
    """ActorFailure is the answer itself, and is not logged as a fault."""
    error = failure("fail", b"not-found")

    assert (error.code, error.message, error.retryable) == ("not-found", "as asked", True)
    assert str(error) == "not-found: as asked"


@pytest.mark.parametrize(
    ("message_type", "said"),
    [
        ("break", "RuntimeError: it broke"),
        ("leave", "SystemExit: 3"),
        ("nan", "ValueError: Out of range float values"),
    ],
)
def test_receive_when_the_handler_raises_answers_and_logs_the_traceback(
    message_type: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any exception, sys.exit included, becomes a record; the traceback is in the log."""
    error = failure(message_type)

    assert error.code == "exception"
    assert error.message.startswith(said)
    assert not error.retryable
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Traceback" in caplog.text
    assert said in caplog.text


def test_receive_after_a_handler_raised_goes_on() -> None:
    """The instance and its state outlive an exception."""
    actor = Counter()
    with pytest.raises(ActorFailure):
        actor.receive("break", b"")

    assert actor.receive("add", b"1") == b"8"


def test_receive_when_an_import_fails_says_what_helps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The most common surprise in a component is explained in the log."""
    failure("import")

    assert "pip install --target vendor nowhere" in caplog.text


def test_state_of_two_instances_is_not_shared() -> None:
    """A list written as a default belongs to each instance alone."""
    one, two = Counter(), Counter()
    one.seen.append("x")

    assert two.seen == []
    assert Counter.seen == []


def test_state_after_a_restart_is_what_it_was() -> None:
    """Annotated public attributes survive with their types; others begin anew."""
    actor = Counter()
    actor.receive("add", b"5", sender="me")
    actor.move(Point(1))
    actor._cache = object()

    again = testing.restarted(actor)

    assert (again.count, again.seen, again.origin) == (5, ["me"], Point(2))
    assert again._cache is None
    assert again.started
    assert actor.snapshot() == b'{"count":5,"seen":["me"],"origin":{"x":2,"y":0.0}}'


def test_restore_from_an_earlier_version_takes_what_still_exists() -> None:
    """Attributes that are gone are dropped, new ones keep their defaults."""
    actor = Counter()
    actor.restore(b'{"count":4,"gone":true}')

    assert (actor.count, actor.seen) == (4, [])
    assert not hasattr(actor, "gone")


def test_restore_with_a_value_of_another_type_changes_nothing() -> None:
    """A snapshot that does not fit is refused as a whole, with the attribute named."""
    actor = Counter()

    with pytest.raises(ValueError, match="saved state does not fit: count: expected int"):
        actor.restore(b'{"seen":["x"],"count":"many"}')

    assert actor.seen == []


def test_snapshot_of_an_actor_without_state_is_empty() -> None:
    """An actor with nothing to keep is started anew each time."""

    class Stateless(Actor):
        @handler("ping")
        def ping(self) -> str:
            return "pong"

    assert Stateless().snapshot() == b""


def test_snapshot_overridden_may_keep_any_type() -> None:
    """With snapshot and restore of its own, an actor's attributes need not be JSON."""

    class Packed(Actor):
        values: set[int] = set()  # noqa: RUF012  (the SDK copies it)

        def snapshot(self) -> bytes:
            return bytes(sorted(self.values))

        def restore(self, state: bytes) -> None:
            self.values = set(state)

    actor = Packed()
    actor.values.update({3, 1})

    assert testing.restarted(actor).values == {1, 3}


def test_handlers_are_inherited_and_overridden() -> None:
    """A subclass keeps its base's handlers and may replace one under the same name."""

    class Double(Counter):
        @handler("add")
        def add(self, amount: int) -> int:
            return super().add(amount * 2)

    assert Double().receive("add", b"2") == b"4"
    assert Double().receive("upper", b"a") == b"A"


# ---- definitions the SDK refuses ------------------------------------------------------------


def test_definition_with_two_handlers_for_a_message_is_refused() -> None:
    """Which of two handlers would be called must not be a matter of luck."""

    class Twice(Actor):
        @handler("a")
        def one(self) -> None: ...
        @handler("a")
        def two(self) -> None: ...

    with pytest.raises(DefinitionError, match=r"test_build_sdk\.py:\d+: a second handler for 'a'"):
        Twice()


def test_definition_with_an_argument_without_a_type_is_refused() -> None:
    """Without an annotation nobody knows how to read the payload."""

    class Untyped(Actor):
        @handler("a")
        def one(self, request) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(DefinitionError, match="needs a type for 'request'"):
        Untyped()


def test_definition_with_a_type_that_cannot_be_read_is_refused() -> None:
    """A handler for a type no payload has is found when the application is built."""

    class Odd(Actor):
        @handler("a")
        def one(self, request: set[int]) -> None: ...

    with pytest.raises(DefinitionError, match=r"handler 'one': set\[int\] cannot be read"):
        Odd()


def test_definition_with_too_many_arguments_is_refused() -> None:
    """A handler takes the payload and nothing else."""

    class Many(Actor):
        @handler("a")
        def one(self, a: int, b: int) -> None: ...

    with pytest.raises(DefinitionError, match="takes one argument"):
        Many()


def test_definition_with_an_async_handler_is_refused() -> None:
    """There is no event loop in an actor, so a coroutine would never run."""

    class Later(Actor):
        @handler("a")
        async def one(self) -> None: ...

    with pytest.raises(DefinitionError, match="must be a plain function"):
        Later()


def test_definition_with_state_that_is_not_json_is_refused() -> None:
    """State that could not be saved is found when the application is built, with two ways out."""

    class Kept(Actor):
        values: set[int] = set()  # noqa: RUF012  (the SDK copies it)

    with pytest.raises(DefinitionError, match="underscore if it is not state, or override"):
        Kept()


def test_definition_with_a_name_of_the_sdk_is_refused() -> None:
    """An attribute must not hide a method the node calls."""

    class Hidden(Actor):
        start: int = 0  # type: ignore[assignment]

    with pytest.raises(DefinitionError, match="the name is taken"):
        Hidden()


def test_find_actor_with_one_in_the_module_returns_it() -> None:
    """The actor may be defined in app.py or imported into it, under any number of names."""
    module = ModuleType("app")
    vars(module).update(Actor=Actor, Counter=Counter, Alias=Counter, number=1)

    assert find_actor(module) is Counter


def test_find_actor_with_none_or_two_is_refused() -> None:
    """Which actor an application is must be clear from app.py."""

    class Other(Actor):
        pass

    module = ModuleType("app")
    vars(module).update(Actor=Actor)
    with pytest.raises(DefinitionError, match="defines no actor"):
        find_actor(module)
    vars(module).update(Counter=Counter, Other=Other)
    with pytest.raises(DefinitionError, match=r"defines 2 actors \(Counter, Other\)"):
        find_actor(module)


@pytest.mark.parametrize("wrong", ["", lambda self: None])
def test_handler_without_a_message_type_is_refused(wrong: Any) -> None:
    """The decorator without its argument is a plain error, not a handler that never fires."""
    with pytest.raises(DefinitionError, match="message-type"):
        handler(wrong)


# ---- the host -------------------------------------------------------------------------------


def test_keyvalue_in_memory_keeps_typed_values() -> None:
    """Values are written like replies and read as the type asked for."""
    with testing.memory() as host:
        keyvalue.put("point", Point(1, 2))
        keyvalue.put("text", "é")

        assert keyvalue.get("point", Point) == Point(1, 2.0)
        assert keyvalue.get("text", str) == "é"
        assert keyvalue.get("text") == "é".encode()
        assert keyvalue.get("nothing", int) is None
        with pytest.raises(KeyValueError, match="the value of 'text': not JSON"):
            keyvalue.get("text", int)
        keyvalue.delete("point")
        keyvalue.delete("point")
        assert host.values == {"text": "é".encode()}


def test_tell_in_memory_is_recorded() -> None:
    """What was told to whom can be looked at in a test."""
    with testing.memory() as host:
        tell("audit", "note", {"a": 1})

    assert host.told == [("audit", "note", b'{"a":1}')]


def test_ask_in_memory_reaches_another_actor() -> None:
    """A test puts an actor in place of the other application, and its reply comes back typed."""
    other = Counter()
    with testing.memory({"counter": other.receive}):
        assert ask("counter", "add", 3, reply=int) == 3
        assert ask("counter", "add", 3) == b"6"
        with pytest.raises(ActorFailure, match="unknown-message"):
            ask("counter", "sum")
        with pytest.raises(ActorFailure, match="bad-reply"):
            ask("counter", "add", 1, reply=Point)


def test_ask_with_no_such_application_fails() -> None:
    """Nobody of that name is an error record, as on a node."""
    with testing.memory(), pytest.raises(ActorFailure, match="not-found"):
        ask("nobody", "ping")


def test_ask_with_no_time_is_refused() -> None:
    """A timeout that could never be met is the caller's mistake."""
    with pytest.raises(ValueError, match="more than 0"):
        ask("other", "ping", timeout=0)


def test_memory_after_the_block_is_as_before() -> None:
    """A test's host does not leak into the next test."""
    with testing.memory() as outer:
        with testing.memory():
            keyvalue.put("a", 1)
        assert outer.values == {}


def test_log_outside_a_component_is_the_standard_librarys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Natively the application's log is an ordinary logger."""
    with caplog.at_level(logging.INFO):
        log.info("count is %d", 3)

    assert caplog.messages == ["count is 3"]


# ---- HTTP -----------------------------------------------------------------------------------


def test_fetch_sync_in_a_test_finds_what_the_test_provides() -> None:
    """A test says what is at a URL; all else is refused as the node would, and so is no URL."""
    with testing.memory() as host:
        host.web["http://a.example/x"] = (201, b"made")

        found = fetch_sync("http://a.example/x", method="POST", body=b"1", timeout_s=0.5)

        assert (found.status, found.body, found.header("etag")) == (201, b"made", None)
        with pytest.raises(FetchError, match=r"GET http://b\.example: ") as refused:
            fetch_sync("http://b.example/secret")
        assert refused.value.code == "http-request-denied"
        with pytest.raises(ValueError, match="not an absolute URL"):
            fetch_sync("/x")
