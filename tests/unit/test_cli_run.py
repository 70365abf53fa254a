"""The commands that measure: they check every reply and leave nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Self
from xml.etree import ElementTree

import pytest
from support.command import Command
from support.fake_node import TIMINGS, WASM, FakeNode

import plexspaces_node
from plexspaces_node.cli import run as run_module
from plexspaces_node.cli.output import milliseconds
from plexspaces_node.cli.workload import BuiltSample, build_samples, tracker_of
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import ActorError, ActorFailed, Unavailable, Unsupported, WrongState
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import ApplicationState, ArtifactKind, Language, PhaseTimings
from plexspaces_node.node import datadir
from plexspaces_node.programs import cache_home
from plexspaces_node.toolchains.workload import SampleProject, primes_reply

LIMIT = "1000"


def right(name: str, type: str, payload: bytes) -> bytes | ActorError:
    """Answer the workload as an example does."""
    if type != "primes":
        return ActorFailed(f"no handler for {type}", code="unknown-type")
    return primes_reply(int(payload))


@pytest.fixture
def working(plexspaces: Command, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command with two samples that need no compiler, and a node that answers rightly."""
    fake_node.behave = right

    async def samples(directory: Path) -> list[BuiltSample]:
        built = []
        for name, language in (("go-primes", Language.GO), ("python-calc", Language.PYTHON)):
            wasm = directory / f"{name}.wasm"
            wasm.write_bytes(WASM)
            built.append(BuiltSample(SampleProject(name, directory, language), wasm))
        return built

    monkeypatch.setattr(run_module, "build_samples", samples)
    return plexspaces


class EmbeddedBuilder:
    """Stands for a `NodeBuilder`: its node is a fake one.

    Attributes:
        said: what was asked of it.
        ended: whether its node was taken down again.
        held: a data directory that another node holds.
        left: an application that a killed command left.
    """

    held = ""
    damaged = Path("/nowhere")
    left = ""

    def __init__(self, node_id: str) -> None:
        self.said: dict[str, str] = {"node_id": node_id}
        self.ended = False

    def with_address(self, address: str) -> Self:
        self.said["address"] = address
        return self

    def with_isolation(self, level: str) -> Self:
        self.said["isolation"] = level
        return self

    def with_data_dir(self, path: Path) -> Self:
        self.said["data_dir"] = str(path)
        return self

    def without_tls(self) -> Self:
        self.said["tls"] = "off"
        return self

    def with_setting(self, key: str, value: object) -> Self:
        self.said[key] = str(value)
        return self

    @asynccontextmanager
    async def build(self) -> AsyncIterator[SimpleNamespace]:
        if self.damaged.exists():
            raise WrongState("registry.db is damaged")
        if self.said["data_dir"] == self.held:
            raise WrongState("the data directory is in use by node 'embedded'")
        with FakeNode(right) as node:
            if self.left:
                async with NodeClient(node.address) as client:
                    await client.deploy(self.left, WASM)
            yield SimpleNamespace(address=node.address, isolation="qemu")
        assert node.applications == {}
        assert node.empty_vms == {}
        self.ended = True


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[EmbeddedBuilder]:
    """The embedded nodes that are built."""
    built: list[EmbeddedBuilder] = []

    def make(node_id: str) -> EmbeddedBuilder:
        built.append(EmbeddedBuilder(node_id))
        return built[-1]

    monkeypatch.setattr(plexspaces_node, "NodeBuilder", make, raising=False)
    return built


class TestRun:
    """`plexspaces run`."""

    def test_run_when_every_reply_is_right_then_reports_and_nothing_is_left(
        self, working: Command, fake_node: FakeNode
    ) -> None:
        """A report for each application and one in sum, and the node as it was before."""
        ran = working("run", "--operations", "3", "--limit", LIMIT)
        assert ran.status == 0
        assert ran.text.count("=== Polyglot WASM Deployment Performance Report ===") == 3
        assert "Actor: all 2 applications (go, python)\n" in ran.text
        assert [request.payload for request in fake_node.invokes] == [b"1000"] * 6
        names = {request.name for request in fake_node.invokes}
        assert {name.rpartition("-")[0] for name in names} == {"run-go-primes", "run-python-calc"}
        assert fake_node.applications == {}
        assert f"using node fake-1 at {fake_node.address}" in ran.stderr

    def test_run_when_for_programs_then_all_is_in_nanoseconds(self, working: Command) -> None:
        """The sums are the sums, compute is what the agent measured, and all is correct."""
        result = working("run", "--operations", "2", "--limit", LIMIT, "--json").json
        assert (result["operations"], result["limit"], result["correct"]) == (2, 1000, True)
        go, python = result["applications"]
        assert (go["language"], python["language"]) == ("go", "python")
        assert go["compute_ns"] == 2 * TIMINGS.compute_ns
        assert go["coordination"]["vm_ns"] == 20_000_000
        assert go["coordination"]["upload_ns"] > 0
        assert go["coordination"]["compile_ns"] == 0
        assert go["coordination"]["load_ns"] == 5_000_000
        assert go["total_ns"] == go["compute_ns"] + go["coordinate_ns"]
        assert result["total"]["total_ns"] == go["total_ns"] + python["total_ns"]
        assert result["total"]["messages"] == 4

    def test_run_when_a_reply_is_wrong_then_status_1_says_which(
        self, working: Command, fake_node: FakeNode
    ) -> None:
        """The report is printed all the same; the wrong answer and the right one are named."""

        def mostly_right(name: str, type: str, payload: bytes) -> bytes:
            wrong = name.startswith("run-go") and len(fake_node.invokes) == 2
            return b"167" if wrong else b"168\n"

        fake_node.behave = mostly_right
        ran = working("run", "--operations", "3", "--limit", LIMIT)
        assert ran.status == 1
        assert ran.text.count("===") == 6
        assert "1 of 3 replies are wrong: it answered b'167', expected b'168'" in ran.stderr
        assert "python-calc" not in ran.stderr.partition("error: ")[2]
        assert fake_node.applications == {}

    @pytest.mark.parametrize("call", ["Invoke", "Deploy"])
    def test_run_when_a_call_fails_then_status_1_and_nothing_is_left(
        self, working: Command, fake_node: FakeNode, call: str
    ) -> None:
        """An application that was deployed is undeployed on the way out."""
        fake_node.fail[call] = Unavailable("the agent is gone")
        ran = working("run", "--operations", "1", "--limit", LIMIT)
        assert ran.status == 1
        assert ran.stdout == b""
        assert "error: the agent is gone" in ran.stderr
        assert fake_node.applications == {}

    def test_run_when_interrupted_then_nothing_is_left(
        self, working: Command, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C in the middle of the messages undeploys before it ends."""

        async def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(run_module, "work_through", interrupted)
        assert working("run", "--limit", LIMIT).status == 130
        assert "Deploy" in fake_node.calls
        assert fake_node.applications == {}

    def test_run_when_no_node_answers_then_an_embedded_one_is_used(
        self,
        working: Command,
        embedded: list[EmbeddedBuilder],
        free_address: str,
    ) -> None:
        """It follows the configuration, works in the user's cache, and is gone after."""
        ran = working("run", "--operations", "1", "--limit", LIMIT, "--node-address", free_address)
        assert ran.status == 0
        assert f"no node at {free_address}: starting an embedded one" in ran.stderr
        assert "✓ Embedded node started (qemu isolation)" in ran.stderr
        (builder,) = embedded
        assert builder.ended
        assert "isolation" not in builder.said
        assert builder.said["address"] == "127.0.0.1:0"
        assert builder.said["data_dir"].endswith("/plexspaces/node")

    def test_run_when_a_level_is_asked_for_then_the_embedded_node_has_it(
        self,
        working: Command,
        embedded: list[EmbeddedBuilder],
        free_address: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What a killed command left is undeployed; the report names the level at its head."""
        monkeypatch.setattr(EmbeddedBuilder, "left", "run-killed")
        ran = working(
            *("run", "--operations", "1", "--limit", LIMIT, "--node-address", free_address),
            *("--isolation", "qemu"),
        )
        assert ran.status == 0
        assert embedded[0].said["isolation"] == "qemu"
        assert ran.text.splitlines()[2] == "Isolation: process"

    def test_run_when_another_works_in_the_cache_then_a_directory_that_is_gone_after(
        self,
        working: Command,
        embedded: list[EmbeddedBuilder],
        free_address: str,
        short_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Two at once do not meet; the second compiles anew and says why."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(short_dir))
        cache = cache_home() / "plexspaces" / "node"
        monkeypatch.setattr(EmbeddedBuilder, "held", str(cache))
        with datadir.DataDirectory.open(cache, "embedded"):
            ran = working(
                *("run", "--operations", "1", "--limit", LIMIT, "--node-address", free_address)
            )
        assert ran.status == 0
        assert (
            f"the cache is not usable: the data directory {cache} is in use by node" in ran.stderr
        )
        second = embedded[-1]
        assert second.ended
        assert not Path(second.said["data_dir"]).exists()

    def test_run_when_its_cache_is_damaged_then_it_is_begun_anew(
        self,
        working: Command,
        embedded: list[EmbeddedBuilder],
        free_address: str,
        short_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A cache is never the user's to mend."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(short_dir))
        cache = cache_home() / "plexspaces" / "node"
        cache.mkdir(parents=True, mode=0o700)
        (cache / "registry.db").write_text("rows")
        monkeypatch.setattr(EmbeddedBuilder, "damaged", cache / "registry.db")
        ran = working("run", "--operations", "1", "--limit", LIMIT, "--node-address", free_address)
        assert ran.status == 0
        assert "anew" not in ran.stderr
        assert [builder.said["data_dir"] for builder in embedded] == [str(cache)] * 2

    def test_run_when_the_node_has_another_level_then_refused_and_nothing_is_sent(
        self, working: Command, fake_node: FakeNode
    ) -> None:
        """A level that was asked for is not silently another one."""
        ran = working("run", "--isolation", "qemu")
        assert ran.status == 2
        assert "has process isolation, not qemu" in ran.stderr
        assert "Deploy" not in fake_node.calls

    def test_run_when_plotted_then_the_report_is_the_same_and_the_picture_beside_it(
        self, working: Command, tmp_path: Path
    ) -> None:
        """Stdout has the data alone; the picture names each sample and the sum."""
        ran = working("run", "--operations", "3", "--limit", LIMIT, "--json", "--plot", "run.svg")
        assert ran.status == 0
        root = ElementTree.fromstring((tmp_path / "run.svg").read_bytes())
        shown = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
        for result in (*ran.json["applications"], ran.json["total"]):
            assert milliseconds(result["compute_ns"]) in shown
            assert milliseconds(result["coordinate_ns"]) in shown
        assert {"go-primes", "python-calc", "all 2 applications"} <= {*shown}
        assert "3 messages per application, primes up to 1000 · isolation: process" in shown
        assert "go-primes (go)" in ran.stderr
        assert f"✓ Plot written to {tmp_path / 'run.svg'}" in ran.stderr

    def test_run_when_plotted_in_the_terminal_then_no_file(
        self, working: Command, tmp_path: Path
    ) -> None:
        """A `-` is no file's name."""
        before = {*tmp_path.iterdir()}
        ran = working("run", "--operations", "1", "--limit", LIMIT, "--plot", "-")
        assert ran.status == 0
        assert ran.text.startswith("=== Polyglot")
        assert "Compute and coordination" not in ran.text
        assert "Compute and coordination per language" in ran.stderr
        assert {*tmp_path.iterdir()} == before

    def test_run_when_the_plot_cannot_be_written_then_nothing_is_built(
        self, working: Command, fake_node: FakeNode
    ) -> None:
        """A wrong name is found before minutes of building."""
        ran = working("run", "--plot", "run.png")
        assert ran.status == 2
        assert "'run.png' does not end with .svg" in ran.stderr
        assert fake_node.calls == []


class TestSamples:
    """Which samples are built."""

    async def test_samples_when_a_compiler_is_missing_then_the_language_is_left_out(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The others are measured, and it is said how to get the missing one."""
        # No compiler is found beside this Python or anywhere else.
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
        with pytest.raises(Unsupported, match="no sample application") as caught:
            await build_samples(tmp_path)
        assert caught.value.hint == "plexspaces doctor"
        lines = capsys.readouterr().err.splitlines()
        assert lines
        assert all(": skipped: " in line and "hint: " in line for line in lines)


class TestEmptyVm:
    """`plexspaces empty-vm-typescript`."""

    def test_empty_vm_when_asked_then_started_filled_measured_and_stopped(
        self, working: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """The VM is started empty, with the size asked for, and is gone after."""
        ran = working(
            *("empty-vm-typescript", "--vm-id", "vm-ts", "--wasm", wasm, "--vcpus", "1"),
            *("--memory", "256", "--operations", "2", "--limit", LIMIT),
        )
        assert ran.status == 0
        assert "Actor: vm-ts (rust)" in ran.text
        assert "  VM:                   40 ms\n" in ran.text
        assert "✓ Empty VM started in 40 ms (process)" in ran.stderr
        assert "✓ Stopped vm-ts" in ran.stderr
        assert fake_node.deploys[0].vm_id == "vm-ts"
        assert fake_node.calls.index("StartVm") < fake_node.calls.index("Deploy")
        assert (fake_node.applications, fake_node.empty_vms) == ({}, {})

    def test_empty_vm_when_the_deploy_fails_then_the_vm_is_stopped(
        self, working: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """No empty VM is left behind by a failure."""
        fake_node.fail["Deploy"] = ActorFailed("init failed", code="init")
        ran = working("empty-vm-typescript", "--vm-id", "vm-ts", "--wasm", wasm, "--json")
        assert (ran.status, ran.stdout) == (1, b"")
        assert "StopVm" in fake_node.calls
        assert fake_node.empty_vms == {}

    def test_empty_vm_when_the_actor_knows_no_primes_then_its_own_words(
        self, working: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """Any actor may be tried; one that cannot do the work says so, and all is cleaned up."""
        fake_node.behave = lambda name, type, payload: ActorFailed("no handler", code="type")
        ran = working("empty-vm-typescript", "--vm-id", "vm-ts", "--wasm", wasm)
        assert ran.status == 1
        assert "error: the actor failed (type): no handler" in ran.stderr
        assert (fake_node.applications, fake_node.empty_vms) == ({}, {})

    def test_empty_vm_when_a_reply_is_wrong_then_status_1(
        self, working: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """The JSON counts the wrong ones."""
        fake_node.behave = lambda name, type, payload: b"0"
        ran = working(
            *("empty-vm-typescript", "--vm-id", "vm-ts", "--wasm", wasm, "--json"),
            *("--operations", "2", "--limit", LIMIT),
        )
        assert ran.status == 1
        assert ran.json["wrong"] == 2

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("--vm-id", "../x"), "VM id '../x' is not valid"),
            (("--wasm", "none.wasm"), "there is no file 'none.wasm'"),
            (("--vcpus", "0"), "vcpus must be at least 1"),
            (("--memory", "0"), "memory must be at least 1 MiB"),
        ],
    )
    def test_empty_vm_when_the_input_is_bad_then_no_vm_is_started(
        self,
        working: Command,
        fake_node: FakeNode,
        wasm: Path,
        flags: tuple[str, str],
        said: str,
    ) -> None:
        """What can be known before is checked before."""
        given = {"--vm-id": "vm-ts", "--wasm": str(wasm), flags[0]: flags[1]}
        words = (word for pair in given.items() for word in pair)
        ran = working("empty-vm-typescript", *words)
        assert ran.status == 2
        assert said in ran.stderr
        assert fake_node.calls == []


async def test_tracker_when_the_vm_was_there_before_then_its_time_counts_once(
    fake_node: FakeNode,
) -> None:
    """A VM started by itself counts as VM; the deploy's then counts as load with the rest."""
    async with NodeClient(fake_node.address) as client:
        application = await client.deploy("calc", WASM)
        started = await client.start_vm("vm-1")
    whole = application.timings.total_ns
    sent = application.timings.upload_ns
    alone = tracker_of(application).finalize()
    assert (alone.vm_ns, alone.load_ns) == (20_000_000, whole - sent - 20_000_000)
    after = tracker_of(application, started=started).finalize()
    assert (after.vm_ns, after.load_ns) == (40_000_000, whole - sent)


@pytest.mark.parametrize("cached", [False, True])
def test_tracker_when_the_artifact_was_sent_and_compiled_then_load_is_the_rest(
    cached: bool,
) -> None:
    """The first deploy's upload and compilation are told apart; the sum is the deploy's."""
    timings = PhaseTimings(
        upload_ns=90, compile_ns=600, compile_cached=cached, vm_ns=100, load_ns=8, total_ns=803
    )
    application = ApplicationInfo(
        id="app-1",
        name="calc",
        version="1",
        state=ApplicationState.RUNNING,
        language=Language.RUST,
        kind=ArtifactKind.ACTOR,
        digest="",
        timings=timings,
    )
    report = tracker_of(application).finalize()
    compile_ns = 0 if cached else 600
    assert (report.vm_ns, report.upload_ns, report.compile_ns) == (100, 90, compile_ns)
    assert report.load_ns == 613 - compile_ns
    assert report.coordinate_ns == 803
