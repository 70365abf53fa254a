"""TypeScript from source to a running actor: the real tools, the real agent, a probe of the SDK."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from support.actors import compiled
from support.peer import ACTOR, MESSAGE_LIMIT, Given, Peer, refused
from wasmtime import Engine
from wasmtime import component as wit

from plexspaces_node.artifact_inspection import inspect
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB, ArtifactKind, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build, new_project
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.workload import primes_payload, primes_reply

SLOW_S = 20.0

PROBE = """
import { Failure, actor, ask, askText, env, keyvalue, log, sender, tell } from "plexspaces";
import { shout } from "shout";
import { word } from "#words";
import { fails } from "./failing.js";
import { bare, forms } from "./forms.js";

interface Tree { readonly name: string; readonly children: readonly Tree[] }
interface State { count: number; spoilt?: unknown }

const BORN = [Math.random(), crypto.randomUUID()];
console.log("this is said while it is built");

const whole = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });
const deep = (n: number): number => (n === 0 ? 0 : 1 + deep(n - 1));
const endless: Record<string, () => unknown> = {
  call: () => deeper(0),
  map() { const f = (): unknown => [1].map(f); return f(); },
  sort() { const f = (): number => { [1, 2].sort(f); return 0; }; return f(); },
  getter() { const o = { get x(): number { return this.x + 1; } }; return o.x; },
  proxy() { const p: any = new Proxy({}, { get: (_o, name) => p[name] }); return p.x; },
  construct() { class A { constructor() { new A(); } } return new A(); },
  replace() { const f = (): string => "a".replace(/a/, f); return f(); },
  parse: () => JSON.parse("[".repeat(2e5)),
  source: () => new Function(`return ${"(".repeat(2e5)}1`),
};
const deeper = (n: number): number => deeper(n + 1) + 1;

export default actor({
  state: { count: 0 } as State,
  start(state) {
    if (state.count < 0) throw new RangeError("count \\ud800 is below zero");
    log.info("started at", state.count);
  },
  shutdown: () => log.info("good-bye"),
  handlers: {
    count(state) { return { count: (state.count += 1) }; },
    tree: (_state, tree: Tree) => tree,
    checked: {
      read(value) {
        if (typeof value !== "number") throw new TypeError("a number was expected");
        return value;
      },
      handle: (_state, request: number) => request + 1,
    },
    optional: (_state, request: { n: number } = { n: 7 }) => request.n,
    fails: { text: (_state, text) => fails(text) },
    "throw-text": () => { throw "only \\ud800 words"; },
    "throw-null": () => { throw null; },
    promise: () => new Promise<number>(() => {}),
    bigint: () => 1n as unknown as number,
    circular() { const ring: unknown[] = []; ring.push(ring); return ring; },
    record: () => { throw new Failure("no\\ud800pe", "as asked", { retryable: true }); },
    recurse: () => deeper(0),
    keyvalue: {
      bytes(_state, value) {
        const before = keyvalue.getBytes("k");
        keyvalue.put("k", value);
        const after = keyvalue.getBytes("k");
        keyvalue.delete("k");
        return before ?? after;
      },
    },
    getJson: { text: (_state, key) => keyvalue.getJson<number[]>(key) ?? null },
    ask: (_state, to: string) => ask<{ n: number }>(to, "ping", { n: 1 }, { timeoutMs: 0.5 }),
    "ask-text": (_state, to: string) => askText(to, "ping", "hello", { timeoutMs: 1e12 }),
    tell: (_state, to: string) => tell(to, "note", sender()),
    log() {
      log.debug("one");
      console.warn("two \\ud800", { n: 1n }, [new Map([["a", 1]])], Symbol("s"), undefined, null);
      const ring: unknown[] = []; ring.push(ring);
      console.log(ring);
      log.error(new Error("outer", { cause: new TypeError("inner") }));
    },
    random: () => [BORN, Math.random(), crypto.randomUUID()],
    utf8: { bytes: (_state, data) => new TextEncoder().encode(whole.decode(data)) },
    lenient: { bytes: (_state, data) => lenient.decode(data) },
    surrogates: () => "a\\ud800b\\udc00c\\ud83d\\ude00",
    view: { bytes: (_state, data) => data.subarray(1, 3) },
    buffer: () => new Uint8Array([1, 2]).buffer,
    parts: () => [shout("vendored"), word, String(env("GREETING")), String(env("PATH"))],
    forms,
    bare,
    deep: (_state, n: number) => deep(n),
    endless: {
      text(_state, way) {
        try {
          return String(endless[way]?.());
        } catch (error) {
          return String(error);
        }
      },
    },
    format: {
      text(_state, name) {
        class Point { x = 1; "y-z" = "é"; }
        const lines: Record<string, unknown[]> = {
          directives: ["%s is %d, %i, %f%%, %j%c", "it", "42", 4.7, "1.5x", { a: [1] }, "css", 2],
          objects: ["%o %O %s", [1, "q"], new Map([["k", new Set([1n])]]), { deep: [[[["x"]]]] }],
          numbers: ["%d %i %f %d", 5n, Symbol("s"), {}, "x"],
          few: ["%s and %s", "one"],
          alone: ["100%% of %s"],
          later: [1, "%s", -0],
          classes: [new Point(), Point, () => 1, /a+/g, new Date(0), new Uint8Array([1, 2])],
          errors: [{ error: new TypeError("bad") }, [], {}],
          many: [Array.from({ length: 102 }, () => 0).concat([1])],
          hostile: [new Proxy({}, { ownKeys() { throw new Error("no"); } }), Object.create(null)],
        };
        console.log(...(lines[name] ?? []));
      },
    },
    spoil(state) { state.spoilt = state; },
  },
});
"""

FAILING = """
export function fails(text: string): never {
  const inner = () => {
    throw new Error(`it ${text} \\ud800 broke`, { cause: "nothing" });
  };
  return inner();
}
"""


FORMS = {
    # By name of a file, by a table of files and built-ins, by conditions: what packages write.
    "node_modules/form-main/package.json": '{"main": "node.js", "browser": "browser.js"}',
    "node_modules/form-main/node.js": 'require("fs"); module.exports = "node";\n',
    "node_modules/form-main/browser.js": 'module.exports = "browser";\n',
    "node_modules/form-table/package.json": json.dumps(
        {"main": "main.js", "browser": {"./node.js": "./browser.js", "fs": False, "node:os": False}}
    ),
    "node_modules/form-table/main.js": (
        'require("fs"); require("node:os"); module.exports = require("./node.js");\n'
    ),
    "node_modules/form-table/node.js": 'module.exports = "node";\n',
    "node_modules/form-table/browser.js": 'module.exports = "browser";\n',
    "node_modules/form-exports/package.json": json.dumps(
        {
            "exports": {
                "node": "./node.js",
                "worker": "./w.js",
                "browser": "./b.js",
                "default": "./d.js",
            }
        }
    ),
    "node_modules/form-exports/w.js": 'export default "worker";\n',
    "node_modules/form-exports/b.js": "export default document.title;\n",
    # A package of the name of a built-in is taken for it.
    "node_modules/events/package.json": '{"main": "events.js"}',
    "node_modules/events/events.js": 'module.exports = "events from npm";\n',
    "src/forms.js": (
        'import main from "form-main";\nimport table from "form-table";\n'
        'import conditions from "form-exports";\nimport events from "events";\n'
        "export const forms = () => [main, table, conditions, events];\n"
        "export const bare = () => Buffer.from('a');\n"
    ),
}


def built(project: Path, output: Path) -> BuildResult:
    """Build with the machine's own cache, so that unchanged source costs no compiler's time."""
    return asyncio.run(build(project, output, progress=lambda _line: None))


def write(project: Path, files: dict[str, str]) -> Path:
    """Write a project's files."""
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return project


@pytest.fixture(scope="session")
def probe_wasm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a package, a path of its own in tsconfig.json and several files."""
    files = {
        "package.json": '{"name": "probe", "type": "module"}',
        "tsconfig.json": '{"compilerOptions": {"paths": {"#words": ["./lib/words.ts"]}}} // mine',
        "lib/words.ts": 'export const word = "read";\n',
        "src/main.ts": PROBE,
        "src/failing.ts": FAILING,
        "node_modules/shout/package.json": '{"name": "shout", "main": "s.js", "types": "s.d.ts"}',
        "node_modules/shout/s.js": "exports.shout = (text) => text.toUpperCase();\n",
        "node_modules/shout/s.d.ts": "export function shout(text: string): string;\n",
        **FORMS,
    }
    directory = tmp_path_factory.mktemp("typescript")
    return built(write(directory / "probe", files), directory / "probe.wasm").path


@pytest.fixture(scope="session")
def probe_code(probe_wasm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(probe_wasm.read_bytes(), tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="session")
def greeter(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return built(shipped("examples") / "ts-greeter", tmp_path_factory.mktemp("built") / "g.wasm")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Peer]]:
    """Return what starts an agent with an actor in it."""
    peers: list[Peer] = []

    def start(code: Path, state: bytes = b"") -> Peer:
        directory = tmp_path / str(len(peers))
        directory.mkdir()
        peers.append(peer := Peer(directory))
        loaded = peer.load(code, state=state)
        assert isinstance(loaded, link.Loaded), loaded
        return peer

    yield start
    for peer in peers:
        peer.__exit__()


@pytest.fixture
def probe(started: Callable[..., Peer], probe_code: Path) -> Peer:
    return started(probe_code)


def logged(peer: Peer) -> list[tuple[str, str]]:
    """Return the lines of the application's log so far."""
    return [(log.level, log.message) for log in peer.lines()]


# ---- builds ---------------------------------------------------------------------------------


def test_build_makes_an_actor_that_names_its_language(greeter: BuildResult) -> None:
    """The artifact says what it was written in and is of the size the documentation gives."""
    assert (greeter.language, greeter.kind) == (Language.TYPESCRIPT, ArtifactKind.ACTOR)
    assert greeter.size_bytes < 3 * MIB
    found = asyncio.run(inspect(greeter.path.read_bytes()))
    assert found is not None
    assert found.languages[0] == "TypeScript"


def test_artifact_holds_no_path_of_the_machine_that_built_it(probe_wasm: Path) -> None:
    """Neither the project's place nor the toolchain's gets into what is deployed."""
    content = probe_wasm.read_bytes()
    for path in (probe_wasm.parent, shipped("sdk"), BuildEnvironment.here().toolchains):
        assert str(path).encode() not in content


def test_artifact_imports_the_contract_and_wasi_only(probe_wasm: Path) -> None:
    """Clocks, randomness and environment are the host's, and nothing else is asked for."""
    kind = wit.Component(engine := Engine(), probe_wasm.read_bytes()).type
    imports = set(kind.imports(engine))
    assert {name.partition(":")[0] for name in imports} == {"plexspaces", "wasi"}
    for needed in ("wasi:clocks/wall-clock", "wasi:random/random", "wasi:cli/environment"):
        assert any(name.startswith(needed) for name in imports)
    assert "plexspaces:application/actor@0.1.0" in kind.exports(engine)


def test_build_twice_takes_the_second_from_the_cache(tmp_path: Path, greeter: BuildResult) -> None:
    """Unchanged source is not compiled again, and only dist is written."""
    ignore = shutil.ignore_patterns("node_modules", "dist")
    project = shutil.copytree(
        shipped("examples") / "ts-greeter", tmp_path / "ts-greeter", ignore=ignore
    )
    before = sorted(path.name for path in project.iterdir())

    result = built(project, project / "dist" / "ts-greeter.wasm")

    assert result.cached
    assert sorted(path.name for path in project.iterdir()) == sorted([*before, "dist"])


@pytest.mark.parametrize(
    ("main", "said"),
    [
        (
            'import { actor } from "plexspaces";\n\n'
            "export default actor({ state: { n: 0 }, handlers: {\n"
            "  add(state) { state.m += 1; },\n} });\n",
            "src/main.ts:4:22 - error TS2339: Property 'm' does not exist on type '{ n: number; }'."
            "\n\n4   add(state) { state.m += 1; },\n                       ~",
        ),
        (
            'import { actor } from "plexspaces";\n'
            "export default actor({ handlers: { async later() { return 1n; } } });\n",
            "src/main.ts:2:42 - error TS2322: Type '() => Promise<bigint>' is not assignable",
        ),
        ("setTimeout(() => {}, 1);\n", "src/main.ts:1:1 - error TS2304: Cannot find name 'setTim"),
        ("const x = ;\n", '✘ [ERROR] Unexpected ";"\n\n    src/main.ts:1:10:\n      1 │ const x'),
        (
            'import pad from "left-pad";\npad;\n',
            '"left-pad"\n\n    src/main.ts:1:16:\n      1 │ import pad from "left-pad";\n        ╵'
            "                 ~~~~~~~~~~\n\n  Packages are taken from the project's node_modules: "
            "npm install left-pad",
        ),
        (
            'import "node:fs";\n',
            "node:fs is built into Node.js and not here: there are no files: keep values with "
            "keyvalue of plexspaces\n\n    src/main.ts:1:7:\n",
        ),
        (
            'import "stream";\n',
            "stream is built into Node.js and not here: nothing runs between two",
        ),
        ('import "fs/promises";\n', "fs/promises is built into Node.js and not here: there are no"),
        (
            'import "https";\n',
            "https is built into Node.js and not here: fetch is there without an import",
        ),
        ('import "v8";\n', "✘ [ERROR] v8 is built into Node.js and not here\n\n"),
        ('import "@some/thing/inside";\n', "node_modules: npm install @some/thing"),
        (
            'import { actor } from "plexspaces";\nBuffer.from("a");\n'
            "export default actor({ handlers: {} });\n",
            "src/main.ts:2:1 - error TS2591: 'Buffer' is part of Node.js and not here.\n\n2 Buffer",
        ),
        (
            'import "./window.js";\nexport default 1;\n',
            "window is not defined: it is part of browsers and not here\n"
            "    at <anonymous> (src/window.js:1)",
        ),
        ('import "plexspaces/testing";\n', "plexspaces/testing is for unit tests"),
        (
            'import { part } from "./part.js";\nexport default part();\n',
            "Error: not now\n    at part (src/part.ts:2)\n    at <anonymous> (src/main.ts:2)",
        ),
        (
            'import { actor, keyvalue } from "plexspaces";\nkeyvalue.delete("a");\n'
            "export default actor({ handlers: {} });\n",
            "use it in a handler or in start\n    at <anonymous> (src/main.ts:2)",
        ),
        ("export const x = 1;\n", "src/main.ts exports no actor: write `export default actor("),
        (
            'import { actor } from "plexspaces";\n'
            "export default actor({ state: { m: new Map() }, handlers: {} });\n",
            "state.m is a Map, which JSON cannot keep",
        ),
    ],
    ids=[
        "type",
        "promise",
        "no-timers",
        "syntax",
        "no-package",
        "node-module",
        "node-module-without-scheme",
        "node-module-inside",
        "node-module-network",
        "node-module-without-advice",
        "no-scoped-package",
        "node-global",
        "browser-global",
        "testing-module",
        "thrown",
        "host-while-built",
        "no-actor",
        "state",
    ],
)
def test_build_of_a_project_that_is_wrong_shows_file_and_line(
    tmp_path: Path, main: str, said: str
) -> None:
    """The tools' own words come through, readable, with the project's places; nothing is left."""
    part = "export function part(): never {\n  throw new Error('not now');\n}\n"
    files = {"package.json": "{}", "src/main.ts": main, "src/part.ts": part}
    files["src/window.js"] = "window.name;\n"
    write(tmp_path / "wrong", files)
    environment = replace(BuildEnvironment.here(), cache=tmp_path / "cache")

    with pytest.raises(InvalidArgument) as error:
        asyncio.run(build(tmp_path / "wrong", progress=lambda _: None, environment=environment))

    assert said in error.value.message
    assert "\x1b" not in error.value.message
    assert str(tmp_path) not in error.value.message
    assert sorted(path.name for path in (tmp_path / "wrong").iterdir()) == ["package.json", "src"]
    assert list(environment.cache.iterdir()) == []


def test_build_with_a_broken_tsconfig_says_where(tmp_path: Path) -> None:
    """A mistake in the project's own settings is shown as one."""
    files = {
        "package.json": "{}",
        "tsconfig.json": '{"compilerOptions": {"strict": "very"}}',
        "src/main.ts": "export default 1;",
    }

    with pytest.raises(InvalidArgument, match=r"tsconfig\.json"):
        built(write(tmp_path / "wrong", files), tmp_path / "out.wasm")


def test_build_keeps_the_projects_own_strictness(tmp_path: Path) -> None:
    """What a project allows itself in tsconfig.json its build allows, and what it forbids not."""
    main = 'import { actor } from "plexspaces";\nexport default actor({ handlers: { a: f } });\n'
    loose = "function f(s) { return s; }\nconst unused = 1;\n"
    files = {"package.json": "{}", "src/main.ts": main + loose}
    options = {"strict": False, "noUnusedLocals": False}
    write(tmp_path, {**files, "tsconfig.json": json.dumps({"compilerOptions": options})})
    assert built(tmp_path, tmp_path / "out.wasm").size_bytes > MIB

    options["noUnusedLocals"] = True
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))
    with pytest.raises(InvalidArgument, match="'unused' is declared but"):
        built(tmp_path, tmp_path / "out.wasm")


def test_build_of_plain_javascript(tmp_path: Path, started: Callable[..., Peer]) -> None:
    """A project without a single type builds and runs."""
    main = 'import { actor } from "plexspaces";\nexport default actor({ handlers: {\n'
    files = {"package.json": "{}", "src/main.js": main + "  twice: (s, n) => n * 2,\n} });\n"}
    result = built(write(tmp_path / "plain", files), tmp_path / "out.wasm")

    assert started(compiled(result.path.read_bytes(), tmp_path)).invoke("twice", b"4").payload == (
        b"8"
    )


ASYNC_TEST = """
import assert from "node:assert/strict";
import { test } from "node:test";
import { actor } from "plexspaces";
import { launch } from "plexspaces/testing";

const fetching = actor({
  handlers: {
    get: { text: async (_state, url) => (await fetch(url)).text() },
    fail: () => Promise.reject(new RangeError("no")),
  },
});

test("a handler that returns a promise is awaited", async (t) => {
  t.mock.method(globalThis, "fetch", async (url: string) => new Response(`at ${url}`));
  const launched = launch(fetching);
  assert.equal((await launched.sendAsync("get", "http://a/")).text(), "at http://a/");
  await assert.rejects(launched.sendAsync("fail"), { message: "RangeError: no" });
  assert.throws(() => launched.send("get", "http://a/"), /await sendAsync/);
});
"""


@pytest.mark.parametrize("kind", ["example", "template"])
def test_unit_tests_of_projects_pass_in_nodes_own_test_runner(tmp_path: Path, kind: str) -> None:
    """`npm ci` and `npm test` are all it takes, outside of this repository."""
    project = tmp_path / "examples" / "project"
    project.parent.mkdir()
    if kind == "template":
        new_project(Language.TYPESCRIPT, "hello", project)
        (project / "test" / "async.test.ts").write_text(ASYNC_TEST)
    else:
        ignore = shutil.ignore_patterns("node_modules", "dist")
        shutil.copytree(shipped("examples") / "ts-greeter", project, ignore=ignore)
        shutil.copytree(shipped("sdk/typescript"), tmp_path / "sdk" / "typescript")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in (["npm", "ci", "--prefer-offline", "--no-audit"], ["npm", "run", "check"]):
        subprocess.run(command, cwd=project, env={**os.environ, "PATH": path}, check=True)
    done = subprocess.run(
        ["npm", "test"],
        cwd=project,
        env={**os.environ, "PATH": path, "NODE_OPTIONS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail 0" in done.stdout


# ---- the example ----------------------------------------------------------------------------


def test_greeter_greets_remembers_and_refuses(
    started: Callable[..., Peer], greeter: BuildResult, tmp_path: Path
) -> None:
    """Checked JSON, the error record, state through a snapshot and the workload, in the agent."""
    code = compiled(greeter.path.read_bytes(), tmp_path)
    first = started(code)
    hello = {"text": "Hello, Ada!", "visit": 1}
    assert json.loads(first.invoke("greet", b'{"name":"Ada"}').payload) == hello
    failure = first.invoke("greet", b'{"name":""}').failure
    assert failure is not None
    assert (failure.code, failure.message) == (
        "bad-payload",
        '"greet": name must be text, and not empty',
    )
    assert ("info", "greeted Ada for tester") in logged(first)
    first.stop()
    [snapshot] = first.states()

    again = started(code, snapshot)
    assert again.invoke("visitors").payload == b'[{"name":"Ada","visits":1}]'
    assert again.invoke("primes", primes_payload(10_000)).payload == primes_reply(10_000)


# ---- the SDK in a component -----------------------------------------------------------------


def test_payloads_are_converted(probe: Peer) -> None:
    """JSON, text, bytes, views of bytes, defaults and none cross the contract."""
    tree = b'{"name":"a","children":[{"name":"b","children":[]}]}'
    assert probe.invoke("tree", tree).payload == tree
    assert probe.invoke("checked", b"41").payload == b"42"
    assert probe.invoke("optional", b'{"n":8}').payload == b"8"
    assert probe.invoke("optional").payload == b"7"
    assert probe.invoke("count", b"\xff not read").payload == b'{"count":1}'
    assert probe.invoke("view", b"abcd").payload == b"bc"
    assert probe.invoke("buffer").payload == b"\1\2"
    assert probe.invoke("surrogates").payload == "a\ufffdb\ufffdc😀".encode()


@pytest.mark.parametrize(
    ("message_type", "payload", "code", "said"),
    [
        ("nothing", b"", "unknown-message", '"nothing" is not known here; known are: ask, ask-'),
        ("toString", b"", "unknown-message", "toString"),
        ("tree", b"", "bad-payload", '"tree": the payload is empty'),
        ("tree", b'{"name"', "bad-payload", '"tree": not JSON'),
        ("tree", b'"\xff"', "bad-payload", '"tree": not UTF-8'),
        ("tree", b"[" * 500_000, "bad-payload", "nested deeper than 1000"),
        ("tree", b'["\\\\\\"]",' + b"[" * 1000 + b"]" * 1001, "bad-payload", "nested deeper"),
        ("checked", b'"x"', "bad-payload", '"checked": a number was expected'),
        ("checked", b"", "bad-payload", '"checked": a number was expected'),
        ("fails", b"\xff", "bad-payload", "not UTF-8"),
        ("fails", b"all", "exception", "Error: it all \ufffd broke"),
        ("throw-text", b"", "exception", "only \ufffd words"),
        ("throw-null", b"", "exception", "null was thrown"),
        ("promise", b"", "exception", "never settles"),
        ("bigint", b"", "exception", "TypeError"),
        ("circular", b"", "exception", "circular"),
        ("record", b"", "no\ufffdpe", "as asked"),
    ],
)
def test_every_fault_is_answered_and_the_instance_lives_on(
    probe: Peer, message_type: str, payload: bytes, code: str, said: str
) -> None:
    """No fault of a handler or of a client ends the instance, and its state stays."""
    probe.invoke("count")

    failure = probe.invoke(message_type, payload, timeout_s=SLOW_S).failure

    assert failure is not None
    assert (failure.origin, failure.code) == (ACTOR, code)
    assert said in failure.message
    assert failure.retryable is (message_type == "record")
    assert probe.invoke("count").payload == b'{"count":2}'


def test_json_as_deep_as_allowed_is_read(probe: Peer) -> None:
    """A thousand levels are no fault, nor are brackets in strings."""
    deep = b"[" * 1000 + b"]" * 1000
    assert probe.invoke("tree", deep).payload == deep
    wide = json.dumps([{"[{": "]\\"}] * 2000, separators=(",", ":")).encode()
    assert probe.invoke("tree", wide).payload == wide
    words = json.dumps(["[" * 5000 + '"'] * 2).encode().replace(b", ", b",")
    assert probe.invoke("tree", words).payload == words


def test_stack_of_an_exception_is_in_the_log_with_the_applications_lines(probe: Peer) -> None:
    """The log shows where in the source it came from, and nothing of the SDK."""
    probe.invoke("fails", b"all")

    level, text = logged(probe)[-1]
    assert level == "error"
    assert text.splitlines() == [
        '"fails" was not handled: Error: it all \ufffd broke',
        "    at inner (src/failing.ts:4)",
        "    at fails (src/failing.ts:6)",
        "    at text (src/main.ts:48)",
        "caused by: nothing",
    ]


def test_thousands_of_calls_are_made(probe: Peer) -> None:
    """A recursion is as deep as the documentation says."""
    assert probe.invoke("deep", b"5000").payload == b"5000"


@pytest.mark.parametrize(
    "way",
    ["call", "map", "sort", "getter", "proxy", "construct", "replace", "parse", "source"],
)
def test_recursion_that_is_too_deep_can_be_caught(probe: Peer, way: str) -> None:
    """Whatever recurses, in the application or in the engine, ends in an error of the language."""
    probe.invoke("count")

    reply = probe.invoke("endless", way.encode(), timeout_s=SLOW_S)

    assert (reply.failure, reply.payload) == (None, b"RangeError: Maximum call stack size exceeded")
    assert probe.invoke("count").payload == b'{"count":2}'


def test_endless_recursion_that_nobody_catches_is_an_exception(probe: Peer) -> None:
    """It costs neither the instance nor its state."""
    probe.invoke("count")

    failure = probe.invoke("recurse").failure

    assert failure is not None
    assert (failure.origin, failure.code) == (ACTOR, "exception")
    assert failure.message == "RangeError: Maximum call stack size exceeded"
    assert probe.invoke("count").payload == b'{"count":2}'


def test_host_is_reached(probe: Peer) -> None:
    """Keyvalue, ask, tell and sender arrive with names, payloads and time limits as given."""
    assert probe.invoke("keyvalue", b"\x00\xff").payload == b""
    probe.host_answers[link.Get] = Given(b"\x00\xff")
    assert probe.invoke("keyvalue", b"\x00\xff").payload == b"\x00\xff"
    assert (probe.of(link.Put)[-1].key, probe.bodies(link.Put)[-1]) == ("k", b"\x00\xff")
    assert probe.of(link.Delete)[-1].key == "k"

    probe.host_answers[link.Ask] = Given(b'{"n":2}')
    assert probe.invoke("ask", b'"other"').payload == b'{"n":2}'
    assert probe.invoke("ask-text", b'"other"').payload == b'{"n":2}'
    short, _ = probe.of(link.Ask)
    assert (short.to, short.type, short.timeout_ns) == ("other", "ping", 1_000_000)
    assert probe.bodies(link.Ask) == [b'{"n":1}', b"hello"]
    probe.invoke("tell", b'"other"')
    [told] = probe.of(link.Tell)
    assert (told.to, told.type, probe.bodies(link.Tell)) == ("other", "note", [b"tester"])


def test_refusals_of_the_host_are_error_records(probe: Peer) -> None:
    """What the node refuses is thrown, and left uncaught is the answer of the handler."""
    full = refused("resource_exhausted", "full")
    assert full.failure is not None
    full.failure.retryable = True
    probe.host_answers[link.Ask] = probe.host_answers[link.Get] = full
    asked, stored = probe.invoke("ask", b'"other"').failure, probe.invoke("keyvalue").failure
    assert asked is not None
    assert stored is not None
    assert (asked.code, asked.message, asked.retryable) == ("resource-exhausted", "full", True)
    assert (stored.code, stored.message) == ("exception", "KeyValueError: full")

    probe.host_answers[link.Ask] = probe.host_answers[link.Get] = Given(b"no json")
    unread = [probe.invoke("ask", b'"other"').failure, probe.invoke("getJson", b"key").failure]
    assert [failure.code for failure in unread if failure] == ["bad-reply", "exception"]
    assert all(failure and "not JSON" in failure.message for failure in unread)


def test_log_takes_any_value_and_so_does_the_console(probe: Peer) -> None:
    """Levels are kept; what cannot be said in JSON is said otherwise; nothing is lost."""
    probe.invoke("log")

    # Without the line of `init`, which comes before the load is answered or after.
    lines = [line for line in logged(probe) if line != ("info", "started at 0")]
    assert lines[:3] == [
        ("debug", "one"),
        ("warn", 'two \ufffd { n: 1n } [ Map(1) { "a" => 1 } ] Symbol(s) undefined null'),
        ("info", "[ [Circular] ]"),
    ]
    level, text = lines[3]
    assert level == "error"
    assert text.startswith("Error: outer\n    at log (src/main.ts:")
    assert "\ncaused by: TypeError: inner\n" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("directives", 'it is 42, 4, 1.5%, {"a":[1]} 2'),
        ("objects", '[ 1, "q" ] Map(1) { "k" => Set(1) { 1n } } { deep: [ [ [ [Array] ] ] ] }'),
        ("numbers", "5n NaN NaN NaN"),
        ("few", "one and %s"),
        ("alone", "100%% of %s"),
        ("later", "1 %s -0"),
        (
            "classes",
            'Point { x: 1, "y-z": "é" } [class Point] [Function: ] /a+/g 1970-01-01T00:00:00.000Z '
            "Uint8Array(2) [ 1, 2 ]",
        ),
        ("errors", "{ error: [TypeError: bad] } [] {}"),
        ("many", "[ " + "0, " * 100 + "... 3 more ]"),
        ("hostile", "[object Object] {}"),
    ],
)
def test_log_is_formatted_as_consoles_do(probe: Peer, name: str, expected: str) -> None:
    """Directives take the values behind them; objects are shown as they would be written."""
    probe.invoke("format", name.encode())
    assert logged(probe)[-1] == ("info", expected)


def test_packages_are_taken_in_the_form_that_needs_least(probe: Peer) -> None:
    """The entries for browsers and workers come before those for Node.js."""
    forms = ["browser", "browser", "worker", "events from npm"]
    assert json.loads(probe.invoke("forms").payload) == forms


def test_name_that_only_node_has_is_told_as_such(probe: Peer) -> None:
    """Where a build cannot know it: deep inside of a package."""
    failure = probe.invoke("bare").failure
    assert failure is not None
    assert failure.message == (
        "ReferenceError: Buffer is not defined: it is part of Node.js and not here"
    )


def test_state_is_restored_and_shutdown_is_the_last_call(
    started: Callable[..., Peer], probe: Peer, probe_code: Path
) -> None:
    """State goes from instance to instance as JSON; fields it does not name keep their defaults."""
    for _ in range(3):
        probe.invoke("count")
    probe.stop()
    assert probe.states() == [b'{"count":3}']
    assert logged(probe)[-1] == ("info", "good-bye")

    again = started(probe_code, b'{"other":1}')
    assert again.invoke("count").payload == b'{"count":1}'


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (b'{"count"', "Error: the saved state does not fit: BadValue: not JSON"),
        (b"\xff", "Error: the saved state does not fit: BadValue: not UTF-8"),
        (b"[1]", "Error: the saved state does not fit: it is no object"),
        (b'{"count":-1}', "RangeError: count \ufffd is below zero"),
    ],
)
def test_actor_that_does_not_start_says_why(
    tmp_path: Path, probe_code: Path, state: bytes, said: str
) -> None:
    """State that does not fit, and an actor that throws in start, are errors of init."""
    with Peer(tmp_path) as peer:
        answer = peer.load(probe_code, state=state)

    assert isinstance(answer, link.Failed)
    assert (answer.failure.code, answer.failure.message[:6]) == ("init", "init: ")
    assert said in answer.failure.message


def test_state_that_cannot_be_saved_keeps_the_last(tmp_path: Path, probe_code: Path) -> None:
    """A snapshot that fails costs neither the instance nor the state saved before."""
    with Peer(tmp_path) as peer:
        peer.load(probe_code, state=b'{"count":4}')
        peer.invoke("spoil")
        peer.stop()

    assert peer.states() == []
    assert any("the state could not be saved" in message for _level, message in logged(peer))


def test_randomness_differs_in_each_instance(
    started: Callable[..., Peer], probe: Peer, probe_code: Path
) -> None:
    """What was drawn while it was built is the same everywhere, what is drawn later nowhere."""
    other = started(probe_code)
    draws = [json.loads(peer.invoke("random").payload) for peer in (probe, probe, other, other)]

    assert len({json.dumps(born) for born, _number, _uuid in draws}) == 1
    assert len({number for _born, number, _uuid in draws}) == 4
    assert len({uuid for _born, _number, uuid in draws}) == 4
    assert all(0 <= number < 1 for _born, number, _uuid in draws)


def test_parts_of_a_project_are_built_in(probe: Peer) -> None:
    """A package, a path of tsconfig.json and the environment of the deploy are there."""
    assert probe.invoke("parts").payload == b'["VENDORED","read","hello","undefined"]'
    assert not any("while it is built" in message for _level, message in logged(probe))


def test_text_of_every_character_survives(probe: Peer) -> None:
    """The SDK's UTF-8 is everybody else's, for each of the characters there are."""
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    step = MESSAGE_LIMIT // 4
    for start in range(0, len(every), step):
        data = "".join(every[start : start + step]).encode()
        reply = probe.invoke("utf8", data, timeout_s=SLOW_S)
        assert (reply.failure, reply.payload) == (None, data)


def test_bytes_that_are_no_text_are_seen_as_everybody_else_sees_them(probe: Peer) -> None:
    """Each malformed sequence is refused, or replaced part by part, as in Python."""
    edges = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF]
    edges += [0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF]
    # Between separators, so that many are checked by one message.
    samples = [bytes(parts) for parts in product(edges, repeat=3)]
    samples += [bytes((0xF0, *parts)) for parts in product(edges, repeat=3)]
    samples += [b"\xef\xbb\xbfmark", "e\u0301 ß 𝄞".encode()]
    whole = b"|".join(samples)

    reply = probe.invoke("lenient", whole, timeout_s=SLOW_S)

    assert reply.payload.decode() == whole.decode("utf-8", "replace")
    for sample in samples[:200]:
        refused = probe.invoke("utf8", sample).failure is not None
        try:
            sample.decode()
        except UnicodeDecodeError:
            assert refused, sample
        else:
            assert not refused, sample
