"""Rust from source by the real compiler, run in the real agent.

Skipped where no Rust compiler can make WebAssembly, unless `--languages` names rust.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from support.actors import compiled
from support.peer import ACTOR, TRAP, Peer, refused

from plexspaces_node.artifact_inspection import inspect
from plexspaces_node.errors import InvalidArgument, Unsupported
from plexspaces_node.link import frames as link
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build, new_project
from plexspaces_node.toolchains.rust.compiler import RustCompiler, find_rust
from plexspaces_node.toolchains.rust.toolchain import RustToolchain
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.workload import examples, primes_payload, primes_reply

SDK = shipped("sdk/rust")


@pytest.fixture(scope="session", autouse=True)
def compiler(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> RustCompiler:
    """The machine's compiler, or the reason why there is none."""
    directory = tmp_path_factory.mktemp("compiler")
    environment = BuildEnvironment.here()
    variables = RustToolchain().variables(environment, directory)
    try:
        return asyncio.run(find_rust(directory, environment, variables))
    except Unsupported as missing:
        why = f"{missing.message} (hint: {missing.hint})"
        if "rust" in request.config.getoption("--languages").split(","):
            pytest.fail(f"--languages names rust, but: {why}")
        pytest.skip(why)


@pytest.fixture(scope="session")
def sources() -> Path:
    return next(sample.path for sample in examples() if sample.name == "rust-counter")


@pytest.fixture(scope="session")
def counter(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return built(sources, tmp_path_factory.mktemp("counter") / "counter.wasm")


@pytest.fixture(scope="session")
def counter_code(counter: BuildResult) -> Path:
    return compiled(counter.path.read_bytes(), counter.path.parent)


def built(project: Path, output: Path | None = None) -> BuildResult:
    """Build with the machine's own cache, so that the crates are compiled once."""
    return asyncio.run(build(project, output, progress=lambda _line: None))


def copied(sources: Path, place: Path) -> Path:
    """Copy the example away from the SDK, and tell it where that is."""
    shutil.copytree(sources, place, ignore=shutil.ignore_patterns("dist", "target"))
    manifest = place / "Cargo.toml"
    manifest.write_text(manifest.read_text().replace("../../sdk/rust", str(SDK)))
    return place


def cargo_test(project: Path, compiler: RustCompiler) -> str:
    """Run a project's own tests as a user would, and return what they said."""
    done = subprocess.run(
        [str(compiler.program), "test"],
        cwd=project,
        env={
            **os.environ,
            "RUSTC": str(compiler.rustc),
            "RUSTDOC": "/bin/true",
            "CARGO_TARGET_DIR": str(compiler.home / "tests"),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- builds ---------------------------------------------------------------------------------


def test_build_makes_a_small_actor_that_names_its_language(counter: BuildResult) -> None:
    """The artifact is an actor component of some hundred kilobytes, and says Rust."""
    assert (counter.language, counter.kind) == (Language.RUST, ArtifactKind.ACTOR)
    assert counter.size_bytes < 512 * 1024
    binary = counter.path.read_bytes()
    assert binary[4:8] == b"\x0d\0\1\0"
    found = asyncio.run(inspect(binary))
    assert found is not None
    assert found.languages[0].lower() == "rust"


def test_build_twice_takes_the_second_from_the_cache(
    sources: Path, tmp_path: Path, counter: BuildResult
) -> None:
    """Besides the artifact a project gets cargo's lock file, and nothing is compiled twice."""
    copy = copied(sources, tmp_path / "rust-counter")
    (copy / "Cargo.lock").unlink(missing_ok=True)
    before = {path.name for path in copy.iterdir()}

    first, second = built(copy), built(copy)

    assert second.cached
    assert first.path == copy / "dist" / "rust-counter.wasm"
    assert {path.name for path in copy.iterdir()} == before | {"dist", "Cargo.lock"}


def test_build_in_another_directory_makes_the_same_bytes(sources: Path, tmp_path: Path) -> None:
    """Where a project lies does not show in its artifact."""
    here = copied(sources, tmp_path / "here" / "rust-counter")
    there = copied(sources, tmp_path / "some" / "where" / "rust-counter")
    for project in (here, there):
        # Nothing that is compiled, and nothing that an earlier run of this test knows.
        (project / "NOTES.md").write_text(uuid.uuid4().hex)
    first = built(here)
    shutil.copyfile(here / "Cargo.lock", there / "Cargo.lock")

    second = built(there)

    assert not first.cached
    assert not second.cached
    assert second.path.read_bytes() == first.path.read_bytes()


def test_build_of_two_projects_whose_libraries_share_a_name_keeps_them_apart(
    tmp_path: Path,
) -> None:
    """Both are compiled in one place; none is delivered for the other."""
    for name in ("one", "two"):
        entry = new_project(Language.RUST, name, tmp_path / name) / "src" / "lib.rs"
        entry.write_text(entry.read_text().replace("Hello, ", f"{name} says "))
        built(tmp_path / name)
    # Nothing that is compiled, and nothing that an earlier run of this test knows.
    (tmp_path / "one" / "README.md").write_text(uuid.uuid4().hex)

    again = built(tmp_path / "one")

    assert not again.cached
    assert b"one says " in again.path.read_bytes()
    assert b"two says " in (tmp_path / "two" / "dist" / "two.wasm").read_bytes()


def test_build_of_what_does_not_compile_shows_file_and_line(tmp_path: Path) -> None:
    """The compiler's own words, with the path in the project."""
    project = new_project(Language.RUST, "wrong", tmp_path / "wrong")
    entry = project / "src" / "lib.rs"
    entry.write_text(entry.read_text().replace("self.count += 1", "self.count += text"))

    with pytest.raises(InvalidArgument) as error:
        built(project)

    assert "error[E0425]: cannot find value `text`" in error.value.message
    assert "--> src/lib.rs:" in error.value.message
    assert not (project / "dist").exists()


def test_build_without_the_sdk_says_how_to_get_it(tmp_path: Path) -> None:
    """A project whose copy of the SDK is gone gets the command that brings it back."""
    project = new_project(Language.RUST, "bare", tmp_path / "bare")
    shutil.rmtree(project / "plexspaces")

    with pytest.raises(InvalidArgument) as error:
        built(project)

    assert f"cp -r {SDK} plexspaces" in str(error.value.hint)


def test_build_without_export_says_what_to_write(tmp_path: Path) -> None:
    """A library that exports no actor is refused when it is built."""
    project = new_project(Language.RUST, "mute", tmp_path / "mute")
    entry = project / "src" / "lib.rs"
    entry.write_text(entry.read_text().replace("plexspaces::export!(Greeter);", ""))

    with pytest.raises(InvalidArgument, match=r"src/lib\.rs exports no actor") as error:
        built(project)

    assert "plexspaces::export!" in str(error.value.hint)


def test_examples_template_and_sdk_pass_their_own_tests(
    sources: Path, tmp_path: Path, compiler: RustCompiler
) -> None:
    """`cargo test` works away from this repository, without a node and without WebAssembly."""
    for project in (
        copied(sources, tmp_path / "counter"),
        new_project(Language.RUST, "my-app", tmp_path / "my-app"),
        Path(shutil.copytree(SDK, tmp_path / "sdk")),
    ):
        said = cargo_test(project, compiler)
        assert "test result: ok" in said
        assert "0 failed" in said


def test_build_without_a_home_directory_works(
    sources: Path, tmp_path: Path, compiler: RustCompiler
) -> None:
    """Nothing but the search path, and where crates and compilers lie, needs to be set."""
    environment = BuildEnvironment.here()
    kept = {
        name: value
        for name, value in environment.variables.items()
        if name in ("PATH", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN")
        or name.lower().endswith("_proxy")
    }
    kept.setdefault("CARGO_HOME", str(Path.home() / ".cargo"))
    kept.setdefault("RUSTUP_HOME", str(Path.home() / ".rustup"))
    copy = copied(sources, tmp_path / "rust-counter")

    result = asyncio.run(
        build(copy, progress=lambda _line: None, environment=replace(environment, variables=kept))
    )

    assert result.language is Language.RUST


# ---- the artifact in the agent --------------------------------------------------------------


def test_counter_answers_and_its_state_outlives_the_instance(
    peer: Peer, tmp_path: Path, counter_code: Path
) -> None:
    """Typed JSON, text, error records and the snapshot, through the contract."""
    assert isinstance(peer.load(counter_code, snapshot_interval_ns=1), link.Loaded)

    reply = peer.invoke("add", b'{"name": "apples", "amount": 3}')
    assert json.loads(reply.payload) == {"name": "apples", "value": 3}
    assert peer.invoke("get", b"apples").payload == b"3"
    assert peer.invoke("primes", primes_payload(10_000)).payload == primes_reply(10_000)
    for message_type, payload, code in (
        ("get", b"pears", "not-found"),
        ("add", b'{"name": "apples", "amount": -4}', "out-of-range"),
        ("add", b'{"amount": 1}', "bad-payload"),
        ("subtract", b"", "unknown-message"),
    ):
        failure = peer.invoke(message_type, payload).failure
        assert failure is not None
        assert failure.code == code
    state = peer.states()[-1]
    peer.stop()

    (tmp_path / "again").mkdir()
    with Peer(tmp_path / "again") as again:
        assert isinstance(again.load(counter_code, state=state), link.Loaded)
        assert json.loads(again.invoke("all").payload) == {"apples": 3}


def test_counter_with_a_state_of_another_form_does_not_start(
    peer: Peer, counter_code: Path
) -> None:
    """What the saved state lacks is said in the answer to the load."""
    answer = peer.load(counter_code, state=b'{"values": 7}')

    assert isinstance(answer, link.Failed)
    assert "bad-state: the saved state does not fit: invalid type" in answer.failure.message


PROBE = """
use plexspaces::{Actor, Handlers, Result, log};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Probe;

fn parse(text: String) -> Result<i64> {
    Ok(text.trim().parse::<i64>()?)
}

fn store(_: &Probe) -> Result<()> {
    plexspaces::keyvalue::put("k", &1)?;
    Ok(())
}

impl Actor for Probe {
    fn handlers() -> Handlers<Self> {
        Handlers::new()
            .on("parse", |_: &Self, text: String| parse(text))
            .on("store", store)
            .on("panic", |_: &Self| assert_eq!(1, 2, "sums"))
            .on("thread", |_: &Self| match std::thread::Builder::new().spawn(|| 1) {
                Ok(_) => String::from("started"),
                Err(refused) => format!("{:?}", refused.kind()),
            })
            .on("spawn", |_: &Self| std::thread::spawn(|| 1).join().unwrap_or(0))
            .on("exit", |_: &Self, status: i32| -> () { std::process::exit(status) })
            .on("levels", |_: &Self| {
                log::trace!("1");
                log::debug!("2");
                log::info!("3");
                log::warn!("4");
                log::error!("5");
            })
            .on(LAST)
    }
}

plexspaces::export!(Probe);
"""


@pytest.fixture(scope="session")
def probe_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe(tmp_path_factory.mktemp("probe"), '"ok", |_: &Self| ()')


def probe(directory: Path, last: str) -> Path:
    """Build the probe and return its native code."""
    project = new_project(Language.RUST, "probe", directory / "probe")
    (project / "src" / "lib.rs").write_text(PROBE.replace("LAST", last))
    return compiled(built(project).path.read_bytes(), directory)


def test_error_through_the_question_mark_answers_and_logs_its_place(
    peer: Peer, probe_code: Path
) -> None:
    """An error nobody expected is the code `exception`; the log names file and line."""
    peer.load(probe_code)

    failure = peer.invoke("parse", b"seven").failure

    assert failure is not None
    assert (failure.origin, failure.code) == (ACTOR, "exception")
    assert failure.message == "invalid digit found in string"
    [line] = [log for log in peer.lines() if log.stream == "log"]
    assert line.level == "error"
    assert line.message == (
        '"parse" was not handled: invalid digit found in string\n  at src/lib.rs:9:8'
    )
    assert peer.invoke("parse", b" 7 ").payload == b"7"


def test_store_that_refuses_is_an_error_and_no_trap(peer: Peer, probe_code: Path) -> None:
    """What the node says about the store reaches the caller."""
    peer.load(probe_code)
    peer.host_answers[link.Put] = refused("resource_exhausted", "the store is full")

    failure = peer.invoke("store").failure

    assert failure is not None
    assert (failure.code, failure.message) == ("exception", "the store is full")


def test_panic_traps_with_its_words_and_the_next_message_is_answered(
    peer: Peer, probe_code: Path
) -> None:
    """Rust cannot unwind here: the instance goes, and its last words go to the caller."""
    peer.load(probe_code)

    failure = peer.invoke("panic").failure

    assert failure is not None
    assert failure.origin == TRAP
    assert "panicked at src/lib.rs:" in failure.message
    assert "assertion `left == right` failed: sums; left: 1; right: 2" in failure.message
    assert any("sums" in log.message for log in peer.lines() if log.stream == "stderr")
    assert peer.invoke("ok").failure is None


def test_thread_is_refused_in_words_and_a_program_that_would_start_one_links(
    peer: Peer, probe_code: Path
) -> None:
    """What starts a thread gets an error it can handle; what takes that for a panic says why."""
    peer.load(probe_code)

    # A distribution's library says the first, that of rustup's targets the second.
    assert peer.invoke("thread").payload in (b"Unsupported", b"WouldBlock")
    failure = peer.invoke("spawn").failure
    assert failure is not None
    assert "failed to spawn thread" in failure.message
    assert peer.invoke("ok").failure is None


def test_exit_is_told_with_a_status_and_as_no_panic(peer: Peer, probe_code: Path) -> None:
    """A program that ends itself on purpose is not said to have panicked."""
    peer.load(probe_code)

    failure = peer.invoke("exit", b"3").failure

    assert failure is not None
    assert (failure.origin, failure.code) == (TRAP, "exit")
    assert "the program exited with status " in failure.message


def test_log_keeps_the_levels(peer: Peer, probe_code: Path) -> None:
    """Each level of the `log` crate is the contract's."""
    peer.load(probe_code)
    peer.invoke("levels")

    lines = [(log.level, log.message) for log in peer.lines()]
    assert lines == list(zip(("trace", "debug", "info", "warn", "error"), "12345", strict=True))


def test_handler_whose_error_is_no_failure_is_refused_at_the_start(
    peer: Peer, tmp_path: Path
) -> None:
    """A Result that would be answered as JSON is a mistake, and shows before any message."""
    wrong = probe(tmp_path, '"wrong", |_: &Self| Err::<(), String>(String::new())')

    answer = peer.load(wrong)

    assert isinstance(answer, link.Failed)
    assert (
        '"wrong" returns a Result whose error is no plexspaces::Failure' in answer.failure.message
    )
