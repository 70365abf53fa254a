"""Builds by the real compilers, run on wasmtime: the examples, and a probe of the Python SDK."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from wasmtime import Config, Engine, ExitTrap, Linker, Module, Store, WasiConfig, WasmtimeError
from wasmtime import component as wit

from plexspaces_node.artifact_inspection import inspect
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build, new_project
from plexspaces_node.toolchains.workload import examples, primes_payload, primes_reply

CONTRACT = "plexspaces:application"
MIB = 1024 * 1024

PROBE = """
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import words

from plexspaces_actor import Actor, ActorFailure, ask, handler, keyvalue, log, tell

BORN = random.random()
DATA = Path(__file__).with_name("data.txt").read_text()


@dataclass
class Node:
    name: str
    children: list["Node"]


class Probe(Actor):
    count: int = 0

    def start(self) -> None:
        if self.count < 0:
            raise ValueError("count \\ud800 is below zero")
        log.info("started at %d", self.count)

    def shutdown(self) -> None:
        log.info("good-bye")

    @handler("count")
    def add(self) -> int:
        self.count += 1
        return self.count

    @handler("tree")
    def tree(self, node: Node) -> Node:
        return node

    @handler("echo")
    def echo(self, data: bytes) -> bytes:
        return data

    @handler("break")
    def break_(self) -> None:
        raise RuntimeError("it \\ud800 broke")

    @handler("leave")
    def leave(self) -> None:
        raise SystemExit(4)

    @handler("late-import")
    def late_import(self) -> None:
        import nowhere

    @handler("recurse")
    def recurse(self) -> int:
        return self.recurse() + 1

    @handler("grow")
    def grow(self, mib: int) -> int:
        return len(bytearray(mib * 1024 * 1024))

    @handler("fail")
    def fail(self) -> None:
        raise ActorFailure("no\\ud800pe", "as asked", retryable=True)

    @handler("keyvalue")
    def store(self, value: bytes) -> bytes | None:
        before = keyvalue.get("k")
        keyvalue.put("k", value)
        after = keyvalue.get("k")
        keyvalue.delete("k")
        assert before is None and keyvalue.get("k") is None
        return after

    @handler("ask")
    def ask(self, to: str) -> str:
        return ask(to, "ping", {"n": 1}, reply=str, timeout=0.5)

    @handler("tell")
    def tell(self, to: str) -> None:
        tell(to, "note", self.sender)

    @handler("log")
    def log(self) -> None:
        log.debug("one")
        log.warning("two \\ud800")
        logging.getLogger("library").info("three")
        log.info("four %d", "x")

    @handler("random")
    def random(self) -> list[float]:
        return [BORN, random.random()]

    @handler("parts")
    def parts(self) -> list[str]:
        return [words.WORD, DATA]

    @handler("spoil")
    def spoil(self) -> None:
        self.count = object()
"""


def built(project: Path, output: Path) -> BuildResult:
    """Build with the machine's own cache, so that unchanged source costs no compiler's time."""
    return asyncio.run(build(project, output, progress=lambda _line: None))


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="session")
def go_primes(outputs: Path) -> BuildResult:
    return built(example("go-primes"), outputs / "go-primes.wasm")


@pytest.fixture(scope="session")
def calculator(outputs: Path) -> BuildResult:
    return built(example("python-calculator"), outputs / "python-calculator.wasm")


@pytest.fixture(scope="session")
def probe_component(
    tmp_path_factory: pytest.TempPathFactory, outputs: Path, engine: Engine
) -> wit.Component:
    project = tmp_path_factory.mktemp("probe")
    (project / "app.py").write_text(PROBE)
    (project / "data.txt").write_text("read")
    (project / "vendor").mkdir()
    (project / "vendor" / "words.py").write_text("WORD = 'vendored'\n")
    return wit.Component.from_file(engine, str(built(project, outputs / "probe.wasm").path))


@pytest.fixture(scope="session")
def calculator_component(calculator: BuildResult, engine: Engine) -> wit.Component:
    return wit.Component.from_file(engine, str(calculator.path))


@pytest.fixture(scope="session")
def engine() -> Engine:
    config = Config()
    # The components are large and run for moments only.
    config.cranelift_opt_level = "none"
    return Engine(config)


@pytest.fixture(scope="session")
def go_module(go_primes: BuildResult, engine: Engine) -> Module:
    return Module.from_file(engine, str(go_primes.path))


@pytest.fixture
def probe(engine: Engine, probe_component: wit.Component) -> Instance:
    return Instance(engine, probe_component)


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Copy the example the test is parametrised with."""
    name: str = request.param
    path = tmp_path / name
    shutil.copytree(example(name), path, ignore=shutil.ignore_patterns("dist"))
    return path


def example(name: str) -> Path:
    return next(sample.path for sample in examples() if sample.name == name)


class Failure(Exception):
    """An actor's error record, or the text with which `init` failed."""

    def __init__(self, code: str, message: str, retryable: bool) -> None:
        super().__init__(code, message, retryable)
        self.code, self.message, self.retryable = code, message, retryable


class Instance:
    """One instance of a component, on the simplest host there is."""

    def __init__(self, engine: Engine, component: wit.Component, *, memory: int = -1) -> None:
        self.logged: list[tuple[str, str]] = []
        self.told: list[tuple[str, str, bytes]] = []
        self.values: dict[str, bytes] = {}
        self._store = Store(engine)
        self._store.set_wasi(WasiConfig())
        self._store.set_limits(memory_size=memory)
        instance = self._linker(engine).instantiate(self._store, component)
        actor = instance.get_export_index(self._store, f"{CONTRACT}/actor@0.1.0")
        self._functions = {}
        for name in ("init", "handle-message", "snapshot-state", "shutdown"):
            index = instance.get_export_index(self._store, name, actor)
            assert index is not None
            function = instance.get_func(self._store, index)
            assert function is not None
            self._functions[name] = function

    def init(self, state: bytes = b"") -> str | None:
        result: str | None = self._functions["init"](self._store, state)
        return result

    def send(self, message_type: str, payload: bytes = b"", *, sender: str = "") -> bytes:
        call = self._functions["handle-message"]
        reply = call(self._store, sender, message_type, payload)
        if isinstance(reply, bytes):
            return reply
        raise Failure(reply.code, reply.message, reply.retryable)

    def snapshot(self) -> bytes:
        state: bytes = self._functions["snapshot-state"](self._store)
        return state

    def shutdown(self) -> None:
        self._functions["shutdown"](self._store)

    def _linker(self, engine: Engine) -> wit.Linker:
        interfaces: dict[str, dict[str, Callable[..., object]]] = {
            "types": {},
            "logging": {"log": lambda _store, level, text: self.logged.append((level, text))},
            "keyvalue": {
                "get": lambda _store, key: self.values.get(key),
                "put": lambda _store, key, value: self.values.update({key: value}),
                "delete": lambda _store, key: self.values.pop(key, None) and None,
            },
            "messaging": {
                "tell": lambda _store, *message: self.told.append(message),
                "ask": lambda _store, to, _type, payload, timeout_ms: (
                    record("not-found", f"no application {to}", True)
                    if to == "nobody"
                    else payload + b" within %d" % timeout_ms
                ),
            },
        }
        linker = wit.Linker(engine)
        linker.add_wasip2()
        with linker.root() as root:
            for interface, functions in interfaces.items():
                with root.add_instance(f"{CONTRACT}/{interface}@0.1.0") as instance:
                    for name, function in functions.items():
                        instance.add_func(name, function)
        return linker


def record(code: str, message: str, retryable: bool) -> wit.Record:
    made = wit.Record()
    made.__dict__.update(code=code, message=message, retryable=retryable)
    return made


def run_command(
    engine: Engine, module: Module, directory: Path, payload: bytes, **env: str
) -> tuple[int, bytes, str]:
    """Run a WASI command once; return its status, its reply and its log."""
    linker = Linker(engine)
    linker.define_wasi()
    wasi = WasiConfig()
    (directory / "in").write_bytes(payload)
    wasi.stdin_file = str(directory / "in")
    wasi.stdout_file = str(directory / "out")
    wasi.stderr_file = str(directory / "log")
    wasi.env = list(env.items())
    store = Store(engine)
    store.set_wasi(wasi)
    start = linker.instantiate(store, module).exports(store)["_start"]
    status = 0
    try:
        start(store)  # type: ignore[operator]
    except ExitTrap as exc:
        status = exc.code
    return status, (directory / "out").read_bytes(), (directory / "log").read_text()


# ---- builds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", ["go-primes", "python-calculator"], indirect=True)
def test_build_of_an_example_twice_takes_the_second_from_the_cache(
    copy: Path, go_primes: BuildResult, calculator: BuildResult
) -> None:
    """Unchanged source is not compiled again; it goes into dist, and nothing else is written."""
    before = sorted(path.name for path in copy.iterdir())

    result = asyncio.run(build(copy, progress=lambda _line: None))

    assert result.cached
    assert result.path == copy / "dist" / f"{copy.name}.wasm"
    assert sorted(path.name for path in copy.iterdir()) == sorted([*before, "dist"])


def test_build_results_say_what_was_made(go_primes: BuildResult, calculator: BuildResult) -> None:
    """Go makes a command, Python an actor, of the sizes the documentation gives."""
    assert (go_primes.language, go_primes.kind) == (Language.GO, ArtifactKind.COMMAND)
    assert (calculator.language, calculator.kind) == (Language.PYTHON, ArtifactKind.ACTOR)
    assert go_primes.size_bytes < 4 * MIB
    assert calculator.size_bytes < 24 * MIB


def test_python_actor_begins_with_no_more_memory_than_the_least_machine_has(
    calculator: BuildResult,
) -> None:
    """What is kept for late imports lies beside its memory, not in it."""
    found = asyncio.run(inspect(calculator.path.read_bytes()))
    assert found is not None
    assert found.memory_bytes < 14 * MIB


def test_build_of_python_that_is_wrong_shows_file_and_line(tmp_path: Path) -> None:
    """A mistake in a module shows as in Python itself, without the compiler's own stack."""
    project = tmp_path / "wrong"
    project.mkdir()
    (project / "app.py").write_text("import part\n")
    (project / "part.py").write_text("def f(:\n    pass\n")
    environment = BuildEnvironment.here()

    with pytest.raises(InvalidArgument) as error:
        asyncio.run(build(project, progress=lambda _line: None, environment=environment))

    assert error.value.message.splitlines() == [
        "app.py does not build:",
        "Traceback (most recent call last):",
        '  File "app.py", line 1, in <module>',
        "    import part",
        '  File "part.py", line 1',
        "    def f(:",
        "          ^",
        "SyntaxError: invalid syntax",
    ]
    assert sorted(path.name for path in project.iterdir()) == ["app.py", "part.py"]
    assert not list(environment.cache.glob("scratch-*"))


def test_build_of_python_the_sdk_refuses_says_why(tmp_path: Path) -> None:
    """A definition the SDK refuses is one line; the node's own packages cannot be imported."""
    (tmp_path / "app.py").write_text(
        "from plexspaces_actor import Actor, handler\n"
        "try:\n    import pytest\nexcept ModuleNotFoundError:\n"
        "    class Mine(Actor):\n"
        "        @handler('a')\n        def a(self, x): pass\n"
    )

    with pytest.raises(InvalidArgument, match=r"\nDefinitionError: app\.py:6: handler 'a' needs"):
        built(tmp_path, tmp_path / "out.wasm")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package main\n\nfunc main() {\n\tx\n}\n", r"\./main\.go:4:2: undefined: x"),
        ("package lib\n", "is not a program"),
        ('package main\n\nimport _ "example.com/none"\n\nfunc main() {}\n', "go get example.com"),
    ],
)
def test_build_of_go_that_is_wrong_shows_the_compilers_words(
    tmp_path: Path, source: str, said: str
) -> None:
    """What the Go compiler says comes through with file and line, and go.mod stays as it is."""
    (tmp_path / "go.mod").write_text("module example.com/wrong\n\ngo 1.21\n")
    (tmp_path / "main.go").write_text(source)

    with pytest.raises(InvalidArgument, match=said):
        built(tmp_path, tmp_path / "out.wasm")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["go.mod", "main.go"]
    assert (tmp_path / "go.mod").read_text() == "module example.com/wrong\n\ngo 1.21\n"


@pytest.mark.parametrize(
    ("copy", "command"),
    [
        ("python-calculator", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]),
        ("go-primes", [str(Path(sys.executable).with_name("go")), "test", "./..."]),
    ],
    indirect=["copy"],
)
def test_examples_pass_their_own_unit_tests(copy: Path, command: list[str]) -> None:
    """Each example's tests pass in its language's own test tool, outside of this repository."""
    done = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_new_python_project_passes_its_own_unit_tests(tmp_path: Path) -> None:
    """What `plexspaces new python` makes is tested by plain pytest, as its README says."""
    made = new_project(Language.PYTHON, "my-app", tmp_path / "my-app")
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    done = subprocess.run(
        pytest_there, cwd=made, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


# ---- the Go example -------------------------------------------------------------------------


def test_go_primes_is_a_preview1_command(go_module: Module) -> None:
    """It exports `_start` and imports WASI preview 1 and nothing else."""
    assert "_start" in [export.name for export in go_module.exports]
    assert {entry.module for entry in go_module.imports} == {"wasi_snapshot_preview1"}


@pytest.mark.parametrize(
    ("message_type", "payload", "answer"),
    [
        ("primes", primes_payload(10_000), (0, primes_reply(10_000), "")),
        ("echo", bytes(range(256)), (0, bytes(range(256)), "")),
        ("sum", b"", (2, b"", 'unknown message type "sum"; known types: echo, primes\n')),
    ],
)
def test_go_primes_answers(
    go_module: Module,
    engine: Engine,
    tmp_path: Path,
    message_type: str,
    payload: bytes,
    answer: tuple[int, bytes, str],
) -> None:
    """The workload's reply is the host's own, echo gives back every byte, the rest is refused."""
    variables = {"PLEXSPACES_MESSAGE_TYPE": message_type, "PLEXSPACES_SENDER": ""}

    assert run_command(engine, go_module, tmp_path, payload, **variables) == answer


# ---- the Python example ---------------------------------------------------------------------


def test_calculator_is_an_actor_of_the_contract(
    calculator_component: wit.Component, engine: Engine
) -> None:
    """It exports the actor interface and imports the contract and WASI 0.2 and nothing else."""
    kind = calculator_component.type

    assert f"{CONTRACT}/actor@0.1.0" in kind.exports(engine)
    assert {name.partition("/")[0] for name in kind.imports(engine)} == {
        CONTRACT,
        "wasi:cli",
        "wasi:clocks",
        "wasi:filesystem",
        "wasi:io",
        "wasi:random",
        "wasi:sockets",
    }


def test_calculator_calculates_remembers_and_refuses(
    calculator_component: wit.Component, engine: Engine
) -> None:
    """Typed JSON, the store, the error record and state through a snapshot work in a component."""
    first = Instance(engine, calculator_component)
    assert first.init() is None
    assert json.loads(first.send("add", b'{"a":40,"b":2}')) == {"result": 42}
    assert first.send("save", b"answer") == b""
    with pytest.raises(Failure) as error:
        first.send("div", b'{"b":0}')
    assert error.value.code == "division-by-zero"

    again = Instance(engine, calculator_component)
    assert again.init(first.snapshot()) is None
    assert json.loads(again.send("div", b'{"b":4}')) == {"result": 10.5}
    assert [step["operation"] for step in json.loads(again.send("history"))] == ["add", "div"]
    assert first.values == {"saved/answer": b"42.0"}
    assert ("info", "add 40 2 = 42") in first.logged


def test_calculator_answers_the_workload_like_the_host(
    calculator_component: wit.Component, engine: Engine
) -> None:
    """The workload's reply is the host's own, and so Go's."""
    instance = Instance(engine, calculator_component)
    instance.init()

    assert instance.send("primes", primes_payload(10_000)) == primes_reply(10_000)


# ---- the Python SDK in a component ----------------------------------------------------------


def test_sdk_converts_payloads(probe: Instance) -> None:
    """Raw bytes, nested dataclasses and messages without payload cross the contract."""
    probe.init()
    tree = b'{"name":"a","children":[{"name":"b","children":[]}]}'

    assert probe.send("tree", tree) == tree
    assert probe.send("count", b"") == b"1"
    for payload in (b"", bytes(range(256)), bytes(100_000)):
        assert probe.send("echo", payload) == payload


@pytest.mark.parametrize(
    ("message_type", "payload", "code", "said"),
    [
        ("nothing", b"", "unknown-message", "it knows: ask, break, count"),
        ("tree", b'{"name":1,"children":[]}', "bad-payload", "name: expected str, not 1"),
        ("tree", b"[" * 500_000, "bad-payload", "nested deeper"),
        ("break", b"", "exception", "RuntimeError: it ? broke"),
        ("leave", b"", "exception", "SystemExit: 4"),
        ("late-import", b"", "exception", "No module named 'nowhere'"),
        ("recurse", b"", "exception", "RecursionError"),
        ("fail", b"", "no?pe", "as asked"),
        ("ask", b"nobody", "not-found", "no application nobody"),
    ],
)
def test_sdk_answers_every_fault_and_lives_on(
    probe: Instance, message_type: str, payload: bytes, code: str, said: str
) -> None:
    """No fault of a handler or of a client ends the instance, and its state stays."""
    probe.init()
    probe.send("count")

    with pytest.raises(Failure) as error:
        probe.send(message_type, payload)

    assert error.value.code == code
    assert said in error.value.message
    assert error.value.retryable is (message_type in ("fail", "ask"))
    assert probe.send("count") == b"2"


def test_sdk_builds_in_what_was_there_at_the_top_of_the_file(probe: Instance) -> None:
    """A package in pure Python under vendor/, and data read while building, are built in."""
    probe.init()

    assert probe.send("parts") == b'["vendored","read"]'


def test_sdk_logs_the_traceback_with_the_applications_lines(probe: Instance) -> None:
    """The log shows where in the application an exception came from, source line included."""
    probe.init()
    with pytest.raises(Failure):
        probe.send("break")

    level, text = probe.logged[-1]
    assert level == "error"
    assert text.startswith("'break' was not handled\nTraceback")
    assert 'app.py", line' in text
    assert 'raise RuntimeError("it \\ud800 broke")' in text
    assert "_actor.py" not in text


def test_sdk_when_memory_is_short_ends_the_instance_alone(
    engine: Engine, probe_component: wit.Component
) -> None:
    """Nobody can trust what is left at the cap: the instance traps, and a new one works."""
    instance = Instance(engine, probe_component, memory=128 * MIB)
    instance.init()

    with pytest.raises(WasmtimeError):
        instance.send("grow", b"500")

    again = Instance(engine, probe_component, memory=128 * MIB)
    again.init()
    assert again.send("grow", b"1") == b"1048576"


def test_sdk_reaches_the_host(probe: Instance) -> None:
    """Keyvalue, ask and tell arrive with names, payloads, sender and time limit as given."""
    probe.init()

    assert probe.send("keyvalue", b"\x00\xff") == b"\x00\xff"
    assert probe.values == {}
    assert probe.send("ask", b"other") == b'{"n":1} within 500'
    assert probe.send("tell", b"other", sender="me") == b""
    assert probe.told == [("other", "note", b"me")]


def test_sdk_forwards_every_line_of_the_log(probe: Instance) -> None:
    """Levels are kept, libraries' lines come through, and unfit text is mended, not lost."""
    probe.init()
    probe.send("log")

    assert probe.logged[:4] == [
        ("info", "started at 0"),
        ("debug", "one"),
        ("warn", "two ?"),
        ("info", "three"),
    ]
    assert probe.logged[4][1].startswith("four %d (could not be formatted)")


def test_sdk_restores_what_was_saved(engine: Engine, probe_component: wit.Component) -> None:
    """State goes from instance to instance; the last call of an instance is its shutdown."""
    first = Instance(engine, probe_component)
    first.init()
    for _ in range(3):
        first.send("count")
    state = first.snapshot()
    first.shutdown()

    again = Instance(engine, probe_component)
    assert again.init(state) is None
    assert again.send("count") == b"4"
    assert state == b'{"count":3}'
    assert first.logged[-1] == ("info", "good-bye")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (b'{"count":"many"}', "ValueError: the saved state does not fit: count: expected int"),
        (b"\xff", "ValueError: the saved state does not fit: not UTF-8"),
        (b'{"count":-1}', "ValueError: count ? is below zero"),
    ],
)
def test_sdk_when_the_actor_does_not_start_says_why(
    probe: Instance, state: bytes, said: str
) -> None:
    """State that does not fit, and an actor that raises in start, are errors of init."""
    result = probe.init(state)

    assert result is not None
    assert result.startswith(said)


def test_sdk_when_the_state_cannot_be_saved_keeps_the_last(probe: Instance) -> None:
    """A snapshot that fails costs neither the instance nor the state saved before."""
    probe.init()
    probe.send("count")
    good = probe.snapshot()
    probe.send("spoil")

    assert probe.snapshot() == good
    assert probe.logged[-1][1].startswith("the state could not be saved")


def test_sdk_gives_every_instance_its_own_randomness(
    engine: Engine, probe_component: wit.Component
) -> None:
    """Random numbers are drawn anew in each instance, though the interpreter was frozen."""
    drawn = []
    for _ in range(2):
        instance = Instance(engine, probe_component)
        instance.init()
        drawn.append(json.loads(instance.send("random")))

    assert drawn[0][0] == drawn[1][0], "drawn at the top of the file: when it was built"
    assert drawn[0][1] != drawn[1][1]
