"""The wrapper that makes a component of a core module, around modules written by hand."""

from __future__ import annotations

import contextlib
import re
import struct
import time
from pathlib import Path

import pytest
from support.actors import ACTORS
from wasmtime import (
    Engine,
    Linker,
    Module,
    Store,
    WasiConfig,
    WasmtimeError,
)
from wasmtime import component as wit

from plexspaces_node import toolchains
from plexspaces_node.errors import Internal, InvalidArgument, PlexSpacesError
from plexspaces_node.toolchains.wasm.assembly import assemble
from plexspaces_node.toolchains.wasm.core_module import read_core_module, with_distinct_imports
from plexspaces_node.toolchains.wasm.wrap import ACTOR, CONTRACT, WASI, wrap, wrapper_digest

HOST = f"{CONTRACT}/%s@0.1.0"

# What every module here has: results at 16, "ok" with a list; the state "s" at 8.
COMMON = f"""
  (data (i32.const 8) "s")
  (func $ok (param $at i32) (param $size i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $at))
    (i32.store (i32.const 24) (local.get $size))
    (i32.const 16))
  (func (export "{ACTOR}#init") (param i32 i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16))
  (func (export "{ACTOR}#snapshot-state") (result i32)
    (i32.store (i32.const 16) (i32.const 8))
    (i32.store (i32.const 20) (i32.const 1))
    (i32.const 16))
  (func (export "{ACTOR}#shutdown"))
"""
REALLOC = """
  (global $top (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
"""
HANDLE = f"""
  (func (export "{ACTOR}#handle-message")
    (param $from i32) (param $from-size i32) (param $type i32) (param $type-size i32)
    (param $at i32) (param $size i32) (result i32)
"""
ECHO = f"{HANDLE} (call $ok (local.get $at) (local.get $size)))"

ARENA = f"""(module
  (import "plexspaces:arena" "register" (func $register (param i32 i32)))
  (import "plexspaces:arena" "mark" (func $mark (result i32)))
  (import "plexspaces:arena" "release" (func $release (param i32)))
  (import "{HOST % "keyvalue"}" "get" (func $get (param i32 i32 i32)))
  (memory (export "memory") 1)
  (func (export "_initialize") (call $register (i32.const 1001) (i32.const 1000)))
  ;; Answers a record of what was handed over: where payload and value lie, and the mark.
  {HANDLE}
    (local $mark i32)
    (local.set $mark (call $mark))
    (call $get (local.get $at) (local.get $size) (i32.const 64))
    (i32.store (i32.const 32) (local.get $at))
    (i32.store (i32.const 36) (i32.load (i32.const 72)))
    (i32.store (i32.const 40) (local.get $mark))
    (call $release (local.get $mark))
    (i32.store (i32.const 44) (call $mark))
    (call $release (i32.const 0))
    (call $ok (i32.const 32) (i32.const 16)))
  {COMMON})"""


class Host:
    """A component's one instance, and what it did."""

    def __init__(self, engine: Engine, binary: bytes, directory: Path, **env: str) -> None:
        self.logged: list[str] = []
        self.value = b""
        self._out = (directory / "out", directory / "err")
        wasi = WasiConfig()
        wasi.stdout_file, wasi.stderr_file = map(str, self._out)
        wasi.env = list(env.items())
        self._store = Store(engine)
        self._store.set_wasi(wasi)
        linker = wit.Linker(engine)
        linker.add_wasip2()
        with linker.root() as root:
            root.add_instance(HOST % "types").close()
            with root.add_instance(HOST % "logging") as logging:
                logging.add_func("log", lambda _store, _level, text: self.logged.append(text))
            with root.add_instance(HOST % "keyvalue") as keyvalue:
                keyvalue.add_func("get", lambda _store, _key: self.value)
                keyvalue.add_func("put", lambda *_: None)
                keyvalue.add_func("delete", lambda *_: None)
            with root.add_instance(HOST % "messaging") as messaging:
                messaging.add_func("tell", lambda *_: None)
                messaging.add_func("ask", lambda *_: b"")
        component = wit.Component(engine, binary)
        self._instance = linker.instantiate(self._store, component)

    def call(self, name: str, *arguments: object) -> bytes:
        """Call a function of the contract."""
        actor = self._instance.get_export_index(self._store, ACTOR)
        index = self._instance.get_export_index(self._store, name, actor)
        assert index is not None
        function = self._instance.get_func(self._store, index)
        assert function is not None
        result: bytes = function(self._store, *arguments)
        return result

    def send(self, message_type: str, payload: bytes = b"") -> bytes:
        """Hand over a message and return the reply."""
        return self.call("handle-message", "", message_type, payload)

    def written(self) -> tuple[bytes, bytes]:
        """Return what was written to stdout and stderr."""
        return self._out[0].read_bytes(), self._out[1].read_bytes()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def module(*parts: str) -> bytes:
    return assemble(f'(module {" ".join(parts)} (memory (export "memory") 1) {COMMON})')


@pytest.fixture(scope="module")
def wasi_component() -> bytes:
    return wrap(assemble((ACTORS / "preview1.wat").read_text()))


@pytest.fixture
def wasi(engine: Engine, wasi_component: bytes, tmp_path: Path) -> Host:
    return Host(engine, wasi_component, tmp_path, NAME="größe", EMPTY="")


# ---- the contract ---------------------------------------------------------------------------


def test_wrap_of_a_plain_module_makes_an_actor(engine: Engine, tmp_path: Path) -> None:
    """Four exports and an allocator are enough, as the bindings of Rust have them."""
    host = Host(engine, wrap(module(REALLOC, ECHO)), tmp_path)

    assert host.call("init", b"") is None
    assert host.send("any", bytes(range(256))) == bytes(range(256))
    assert host.call("snapshot-state") == b"s"
    assert host.call("shutdown") is None


def test_wrap_names_only_what_is_used(engine: Engine) -> None:
    """A module without WASI makes a component that imports the contract alone."""
    kind = wit.Component(engine, wrap(module(REALLOC, ECHO))).type

    assert set(kind.imports(engine)) == {
        HOST % name for name in ("types", "logging", "keyvalue", "messaging")
    }
    assert list(kind.exports(engine)) == [ACTOR]


def test_wrap_gives_http_to_a_module_that_imports_it(engine: Engine) -> None:
    """Only such a component imports it: a node that does not know it runs the others."""
    parameters = "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)"
    fetch = f'(import "{HOST % "http"}" "fetch" (func {parameters}))'
    memory = '(memory (export "memory") 1)'
    core = bytes(assemble(f"(module {fetch} {memory} {REALLOC} {ECHO} {COMMON})"))

    assert HOST % "http" in wit.Component(engine, wrap(core)).type.imports(engine)


def test_initialize_runs_first_and_may_call_the_host(engine: Engine, tmp_path: Path) -> None:
    """The module's start comes when its imports work, before anything else is called."""
    binary = wrap(
        bytes(
            assemble(f"""(module
          (import "{HOST % "logging"}" "log" (func $log (param i32 i32 i32)))
          (memory (export "memory") 1)
          (data (i32.const 32) "begun")
          (func (export "_initialize") (call $log (i32.const 2) (i32.const 32) (i32.const 5)))
          {REALLOC} {ECHO} {COMMON})""")
        )
    )

    assert Host(engine, binary, tmp_path).logged == ["begun"]


def test_post_return_frees_after_the_result_was_read(engine: Engine, tmp_path: Path) -> None:
    """What the bindings export for freeing a result is called once it was taken."""
    free = f"""
      (func (export "cabi_post_{ACTOR}#handle-message") (param i32)
        (global.set $top (i32.const 4096)))"""
    host = Host(engine, wrap(module(REALLOC, free, ECHO)), tmp_path)

    for _ in range(10):
        assert host.send("any", bytes(20_000)) == bytes(20_000)


def test_arena_takes_what_the_host_hands_over(engine: Engine, tmp_path: Path) -> None:
    """Without an allocator of its own, a module finds everything in the block it registered."""
    host = Host(engine, wrap(assemble(ARENA)), tmp_path)
    host.value = b"v" * 10

    for _ in range(3):
        payload, value, mark, after = struct.unpack("<4I", host.send("type", b"key"))
        assert (payload, value) == (1001 + len("type"), 1001 + len("typekey"))
        assert mark == after == len("typekey")


@pytest.mark.parametrize(("size", "fits"), [(997, True), (998, False), (100_000, False)])
def test_arena_that_is_full_ends_the_instance(
    engine: Engine, tmp_path: Path, size: int, fits: bool
) -> None:
    """What does not fit the block is never written beside it."""
    host = Host(engine, wrap(assemble(ARENA)), tmp_path)

    if fits:
        assert host.send("123", bytes(size))
    else:
        with pytest.raises(WasmtimeError, match="unreachable"):
            host.send("123", bytes(size))


# ---- WASI -----------------------------------------------------------------------------------


def test_wasi_gives_one_argument(wasi: Host) -> None:
    """The name of a program is there, since libraries take it for granted."""
    count, size, at = struct.unpack_from("<3I", reply := wasi.send("a"))

    assert (count, size, at) == (1, 6, 80)
    assert reply[16:] == b"actor\0"


def test_wasi_gives_the_environment(wasi: Host) -> None:
    """Each variable is a text NAME=VALUE that ends in a zero byte."""
    assert wasi.send("e") == "NAME=größe\0EMPTY=\0".encode()
    assert wasi.send("e") == "NAME=größe\0EMPTY=\0".encode()


def test_wasi_never_grows_the_modules_memory(
    engine: Engine, wasi_component: bytes, tmp_path: Path
) -> None:
    """A large environment goes through the adapter's own memory: Go takes its end for its own."""
    host = Host(engine, wasi_component, tmp_path, **{f"NAME{i}": "x" * 1000 for i in range(150)})

    assert len(host.send("e")) > 150_000
    assert host.send("m") == (4).to_bytes(4, "little")


def test_wasi_clocks_are_the_hosts(wasi: Host) -> None:
    """Clock 0 is the wall's; the others are monotonic."""

    def now(clock: int) -> int:
        return int.from_bytes(wasi.send("c", bytes([clock])), "little")

    before = time.time_ns()
    assert before <= now(0) <= time.time_ns()
    assert now(1) < now(1) < now(2)


def test_wasi_random_fills_what_was_asked_for(wasi: Host) -> None:
    """Every byte of the block is drawn, and none after it is touched."""
    draws = [wasi.send("r") for _ in range(20)]

    assert all(draw[13:] == bytes(7) for draw in draws)
    assert all(len({draw[i] for draw in draws}) > 5 for i in range(13))


@pytest.mark.parametrize("size", [1, 100, 4096, 4097, 20_000])
def test_wasi_writes_to_both_streams_in_any_size(wasi: Host, size: int) -> None:
    """What goes to descriptor 1 and 2 arrives whole, also by an import that is there twice."""
    out, err = (letter * size for letter in (b"1", b"2"))

    assert struct.unpack("<2I", wasi.send("w", out)) == (0, size)
    assert struct.unpack("<2I", wasi.send("w", err)) == (0, size)
    assert wasi.written() == (out, err)


def test_wasi_knows_no_other_descriptors(wasi: Host) -> None:
    """The three standard ones are devices with nothing to read; whatever else is "bad"."""
    bad = 8
    assert wasi.send("d", b"0")[4:] == bytes([2, 0, 2, 0, bad, 0])
    assert wasi.send("d", b"2")[4:] == bytes([2, 0, 2, bad, bad, 0])
    assert wasi.send("d", b"3")[0] == bad
    assert wasi.send("w", b"0...")[0] == bad
    assert wasi.send("w", b"3...")[0] == bad


def subscription(name: int, clock: int, ns: int, *, absolute: bool = False) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", name, 0, clock, ns, 0, absolute)


def test_wasi_poll_sleeps_until_the_earliest_clock(wasi: Host) -> None:
    """Of several subscriptions the earliest clock's time is waited for, descriptors never come."""
    stdin = struct.pack("<QB39x", 7, 1)
    soon = subscription(8, 1, 30_000_000)
    late = subscription(9, 0, time.time_ns() + 60_000_000_000, absolute=True)
    begin = time.monotonic_ns()

    code, count, name, error, kind = struct.unpack_from(
        "<2IQHB", wasi.send("p", stdin + late + soon)
    )

    assert (code, count, name, error, kind) == (0, 1, 8, 0, 0)
    assert time.monotonic_ns() - begin >= 30_000_000


def test_wasi_poll_of_a_time_gone_by_returns_at_once(wasi: Host) -> None:
    """A time in the past is over; without any clock there is nothing to wait for."""
    past = subscription(5, 0, 1, absolute=True)

    assert struct.unpack_from("<2IQ", wasi.send("p", past)) == (0, 1, 5)
    assert wasi.send("p", struct.pack("<QB39x", 7, 1))[0] == 58


def test_wasi_is_offered_whole_and_with_its_own_types(engine: Engine) -> None:
    """The module of trampolines can stand wherever the runtime's own WASI preview 1 could."""
    text = (
        Path(toolchains.__file__ or "").parent / "wasm" / "wat" / "preview1_trampolines.wat"
    ).read_text()
    functions = re.findall(
        r'\(func \(export "(\w+)"\) ?((?:\(param [^)]*\))? ?(?:\(result i32\))?)', text
    )
    imports = [f'(import "{WASI}" "{name}" (func {kind}))' for name, kind in functions]
    linker = Linker(engine)
    linker.define_wasi()
    store = Store(engine)
    store.set_wasi(WasiConfig())

    linker.instantiate(store, Module(engine, f"(module {' '.join(imports)})"))

    assert len(imports) == 46


def test_wasi_exit_ends_the_instance(wasi: Host) -> None:
    """There is nobody to return to, and the host hears the status."""
    with pytest.raises(WasmtimeError, match="exit status 3"):
        wasi.send("x")


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("(module)", "does not export 'memory'", "SDK"),
        ('(module (memory (export "memory") 1))', f"'{ACTOR}#init'", "SDK"),
        (
            f"""(module (memory (export "memory") 1)
              (func (export "{CONTRACT}/actor@0.7.0#init")))""",
            r"uses plexspaces:application@0\.7\.0, this version supports 0\.1\.0",
            "SDK that came with this version",
        ),
        (
            f'(module (memory (export "memory") 1) {COMMON} {ECHO})',
            "neither exports 'cabi_realloc' nor",
            "SDK",
        ),
        ('(module (import "env" "f" (func)))', "imports 'f' of 'env'", "SDK"),
        ('(module (import "env" "m" (memory 1)))', "imports 'm' of 'env'", "SDK"),
        (
            '(module (import "wasi_snapshot_preview1" "fly" (func)))',
            "imports 'fly' of 'wasi_snapshot_preview1'",
            "SDK",
        ),
        (
            '(module (import "plexspaces:application/keyvalue@0.2.0" "get" (func)))',
            r"uses plexspaces:application@0\.2\.0, this version supports 0\.1\.0",
            "SDK that came with this version",
        ),
    ],
)
def test_wrap_of_what_is_no_actor_says_what_is_missing(text: str, said: str, hint: str) -> None:
    """A missing export, an import nobody gives and another version are named."""
    with pytest.raises(InvalidArgument, match=said) as error:
        wrap(assemble(text))

    assert re.search(hint, error.value.hint or "")


@pytest.mark.parametrize("binary", [b"", b"!<arch>\n", assemble("(component)")])
def test_wrap_of_no_core_module_is_our_own_fault(binary: bytes) -> None:
    """A compiler's output that is no core module is never handed on."""
    with pytest.raises(Internal, match="not a WebAssembly core module"):
        wrap(binary)


def test_wrap_of_a_truncated_module_never_crashes() -> None:
    """Cut anywhere, a module is refused or wrapped, and nothing else."""
    whole = module(REALLOC, ECHO)
    for size in range(len(whole)):
        with contextlib.suppress(PlexSpacesError):
            wrap(whole[:size])


# ---- reading core modules -------------------------------------------------------------------


def test_imports_that_come_twice_are_told_apart() -> None:
    """The second import of one name gets a module name of its own; the code stays as it is."""
    text = """(module
      (import "a" "f" (func)) (import "a" "g" (func)) (import "a" "f" (func (param i32)))
      (func (call 1)))"""
    before = read_core_module(assemble(text))

    after = with_distinct_imports(before)

    assert [(entry.module, entry.name) for entry in after.imports] == [
        ("a", "f"),
        ("a", "g"),
        ("a#2", "f"),
    ]
    assert read_core_module(after.binary) == after
    assert with_distinct_imports(after) is after
    assert [entry.type for entry in after.imports] == [entry.type for entry in before.imports]


def test_digest_of_the_wrapper_is_that_of_its_texts() -> None:
    """A build is made anew when the wrapper changes: its digest is stable otherwise."""
    assert wrapper_digest() == wrapper_digest()
    assert len(wrapper_digest()) == 64
