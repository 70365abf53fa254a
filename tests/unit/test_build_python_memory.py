"""The component that componentize-py makes frees what it handed out, once it has been led to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.python_component import (
    COMPONENT,
    KEYVALUE,
    MESSAGING,
    REPLY_AT,
    STATE_AT,
    VALUE_AT,
    python_component,
)
from wasmtime import Engine, Store, WasmtimeError
from wasmtime.component import Component, Linker

from plexspaces_node.errors import Internal, Unsupported
from plexspaces_node.toolchains.python.memory import keeping
from plexspaces_node.toolchains.python.toolchain import PythonToolchain
from plexspaces_node.toolchains.wasm.wrap import ACTOR

CALLS = ["put", "tell", "ask"]
KEPT = bytes(range(256)) * 20
TAKEN = {"put": ("r", b"value"), "tell": ("r", "s", b"value"), "ask": ("r", "s", b"value", 7)}


class Broken(Exception):
    """What a host function raises that ends the instance."""


class Running:
    """A component with an instance.

    Attributes:
        taken: what the host's functions were called with.
        answer: makes what they return.
    """

    def __init__(self, binary: bytes) -> None:
        self.taken: list[tuple[object, ...]] = []
        self.answer: Callable[[], object] = lambda: None
        engine = Engine()
        self._store = Store(engine)
        component = Component(engine, binary)
        self._instance = self._linker(engine).instantiate(self._store, component)

    def call(self, name: str, *arguments: object) -> Any:
        """Call an exported function."""
        function = self._instance.get_func(self._store, name)
        assert function is not None
        return function(self._store, *arguments)

    def _linker(self, engine: Engine) -> Linker:
        linker = Linker(engine)
        with linker.root() as root:
            for interface, names in ((KEYVALUE, ["get", "put"]), (MESSAGING, ["tell", "ask"])):
                with root.add_instance(interface) as instance:
                    for name in names:
                        instance.add_func(name, self._called)
        return linker

    def _called(self, _store: object, *arguments: object) -> object:
        self.taken.append(arguments)
        return self.answer()


@pytest.fixture
def running() -> Running:
    """An instance of the component that frees."""
    return Running(keeping(python_component(), KEPT))


def test_component_as_it_was_made_frees_nothing() -> None:
    """The component of these tests has the fault."""
    running = Running(python_component())
    assert running.call("handle", False) == b"reply"
    assert running.call("put") is False
    assert running.call("frees") == 0


def test_reply_and_state_are_freed_once_they_are_read(running: Running) -> None:
    """What the host reads is whole, and then the component's own `free` gets its address."""
    assert running.call("handle", False) == b"reply"
    assert running.call("freed") == REPLY_AT
    assert running.call("snapshot") == b"state"
    assert (running.call("freed"), running.call("frees")) == (STATE_AT, 2)


def coded(begin: int, length: int) -> str:
    """Return the key of a part, as the SDK writes it."""
    return "\0\1" + "".join(
        chr(64 + (number >> shift & 63))
        for number in (begin, length)
        for shift in (24, 18, 12, 6, 0)
    )


@pytest.mark.parametrize(("begin", "length"), [(0, 0), (0, 8), (70, 1), (4100, 900), (5119, 1)])
def test_what_is_kept_is_read_by_parts(running: Running, begin: int, length: int) -> None:
    """Without the host, and of memory only what the part takes."""
    assert running.call("get", coded(begin, length)) == KEPT[begin : begin + length]
    assert running.taken == []


def test_part_beyond_what_is_kept_traps(running: Running) -> None:
    """Nobody asks for one, and nothing else of the component is ever shown."""
    with pytest.raises(WasmtimeError):
        running.call("get", coded(5000, 121))


@pytest.mark.parametrize(
    "key", ["", "key", "twelve bytes", "\0\1", "\1\0" + "@" * 10, "\0\1" + "@" * 11]
)
def test_every_other_key_is_the_hosts(running: Running, key: str) -> None:
    """Values of the store are asked for as before."""
    running.answer = lambda: b"stored"
    assert running.call("get", key) == b"stored"
    running.answer = lambda: None
    assert running.call("get", key) is None
    assert running.taken == [(key,), (key,)]


def test_texts_of_an_error_are_left_alone(running: Running) -> None:
    """The runtime frees them itself: freed twice they would spoil its memory."""
    assert running.call("handle", True) == "reply"
    assert running.call("frees") == 0


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("refused", [False, True], ids=["done", "refused"])
def test_bytes_handed_to_the_host_are_freed_once_when_it_returns(
    running: Running, name: str, refused: bool
) -> None:
    """The host gets all of them whole, and texts stay, whatever the host answers."""
    done = b"answer" if name == "ask" else None
    running.answer = lambda: "no" if refused else done
    assert running.call(name) is refused
    assert running.taken == [TAKEN[name]]
    assert (running.call("freed"), running.call("frees")) == (VALUE_AT, 1)


@pytest.mark.parametrize("name", CALLS)
def test_instance_whose_call_trapped_is_not_entered_again(running: Running, name: str) -> None:
    """Nothing is freed then, and nothing need be."""

    def answer() -> object:
        raise Broken

    running.answer = answer
    with pytest.raises(Broken):
        running.call(name)
    with pytest.raises(WasmtimeError, match="cannot enter"):
        running.call("frees")


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ('"libc.so"', '"libc"'),
        (f'"cabi_post_{ACTOR}#snapshot-state"', '"snapshotted"'),
        ('"$imports"', '"table"'),
        (f'(with "{KEYVALUE}" (instance $keyvalue-calls))', ""),
        ('(export "ask" (func $indirect-ask))', ""),
        ('"1"', '"tell"'),
        ("(func $indirect-put)", "(func $realloc)"),
    ],
    ids=["library", "post-return", "table", "interface", "call", "number", "no such call"],
)
def test_component_of_another_form_is_refused(known: str, other: str) -> None:
    """A compiler that links otherwise makes the build fail, and no component that leaks or dies."""
    binary = python_component(COMPONENT.replace(known, other))
    with pytest.raises(Internal, match="form that is not known"):
        keeping(binary, KEPT)


def test_component_cut_short_is_refused() -> None:
    """What is no whole component raises a platform error."""
    with pytest.raises(Internal):
        keeping(python_component()[:-20], KEPT)


@pytest.mark.parametrize("version", ["0.25.0", "0.25.2", "0.26.0"])
def test_compiler_whose_memory_is_not_known_is_refused(version: str) -> None:
    """One that frees the bytes itself would make every component free them twice."""
    with pytest.raises(Unsupported, match=r"must be 0\.25\.1"):
        PythonToolchain().parse_version(f"componentize-py {version}")
