"""The doctor: each check on a sound and on a broken machine, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import select
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.doctor.checks import (
    DEPENDENCIES,
    check_compilers,
    check_data_directory,
    check_isolation,
    check_memory,
    check_programs,
    check_python,
    examine,
    render,
    required_ok,
    to_json,
)
from plexspaces_node.doctor.finding import Finding
from plexspaces_node.errors import DeadlineExceeded, NotFound, Unavailable, Unsupported
from plexspaces_node.model import ENGINE, Language
from plexspaces_node.programs import PROGRAMS
from plexspaces_node.toolchains import BuildEnvironment
from plexspaces_node.toolchains.rust.compiler import DEBIAN_INSTALL
from plexspaces_node.toolchains.toolchain import Toolchain
from plexspaces_node.toolchains.typescript import toolchain as typescript
from plexspaces_node.toolchains.typescript.toolchain import tools_directory
from plexspaces_node.vm.driver import Driver, Health

ROOT = Path(__file__).parents[2]
Machine = Callable[[dict[str, str]], BuildEnvironment]


class ProbeOnly:
    """A driver of which the doctor may only ask the name and the health."""

    def __init__(self, name: str, answer: Health | Exception | None) -> None:
        """Set what `probe` gives, raises, or (None) never gives."""
        self.name = name
        self._answer = answer

    async def probe(self) -> Health:
        """Answer as told."""
        if self._answer is None:
            await asyncio.Event().wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return cast(Health, self._answer)


def driver(name: str, answer: Health | Exception | None) -> Driver:
    """Make a driver that can be probed and nothing else."""
    return cast(Driver, ProbeOnly(name, answer))


def sound(name: str) -> Driver:
    """Make a driver in good health."""
    return driver(name, Health(True, f"{name} works"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an own, private directory as the current one, with a short name for sockets."""
    place = tmp_path / "d"
    place.mkdir(mode=0o700)
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Make the surroundings of a build with fake compilers only, of shell script texts, by name."""

    def make(scripts: dict[str, str]) -> BuildEnvironment:
        directory = tmp_path / "tools"
        directory.mkdir()
        for name, script in scripts.items():
            path = directory / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        return BuildEnvironment(
            cache=tmp_path / "cache",
            search=(directory,),
            variables={"PATH": os.defpath, "HOME": str(tmp_path / "home")},
        )

    return make


def configured(**flags: object) -> Config:
    """Load a configuration in which only the given settings of ``[node]`` differ."""
    keyed = {f"node.{key}": value for key, value in flags.items()}
    return ConfigBootstrap.load(flags=keyed, environ={"HOME": "/nonexistent"})


def one(findings: list[Finding], name: str) -> Finding:
    """Return the only finding of a name."""
    (found,) = (finding for finding in findings if finding.name == name)
    return found


def children() -> set[int]:
    """Return the pids of this process's children, zombies included."""
    pids = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            if int(status.rpartition(")")[2].split()[1]) == os.getpid():
                pids.add(int(entry.name))
    return pids


class TestPython:
    async def test_check_python_when_all_is_installed_then_every_line_is_ok(self) -> None:
        """Here, where the suite runs, every package is imported (by a real child)."""
        findings = await check_python()
        assert [finding for finding in findings if not finding.ok] == []
        assert [finding.name for finding in findings[1:]] == list(DEPENDENCIES)
        assert one(findings, "grpcio").detail.startswith("1.")

    async def test_check_python_when_a_package_kills_the_interpreter_then_the_doctor_lives(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A crash below Python costs a child process and is reported with its signal."""
        (place / "typer.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
        (place / "structlog.py").write_text("raise TypeError('broken\\nbuild')\n")
        monkeypatch.setenv("PYTHONPATH", str(place))
        findings = await check_python()
        assert one(findings, "rich").ok is True
        assert one(findings, "structlog").detail == "TypeError: broken"
        assert one(findings, "typer").ok is False
        assert "signal 9" in one(findings, "typer").detail
        assert "pip install" in str(one(findings, "typer").hint)

    async def test_check_python_when_an_import_hangs_then_it_is_ended_in_time(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A child that does not come back is killed, and nothing of it is left."""
        (place / "google.py").write_text("import time\ntime.sleep(600)\n")
        monkeypatch.setenv("PYTHONPATH", str(place))
        before = children()
        findings = await check_python(timeout_s=0.5)
        assert "timed out" in one(findings, "msgspec").detail
        assert children() == before

    def test_dependencies_when_compared_with_the_package_then_they_are_the_same(self) -> None:
        """What the doctor imports is exactly what the package says it needs."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = [re.split(r"[=<>\[; ]", line)[0] for line in project["dependencies"]]
        assert sorted(DEPENDENCIES) == sorted(named)


class TestPrograms:
    @staticmethod
    def found(directory: Path, script: str) -> Callable[[str], Path]:
        """Return a search that finds a shell script, the same for all programs."""
        path = directory / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return lambda name: path

    async def test_check_programs_when_both_run_then_version_digest_and_place_are_told(
        self, place: Path
    ) -> None:
        """What they are is what they say, and which file; a guest's first one says nothing."""
        find = self.found(place, f'echo "plexspaces-agent 0.1.0 ({ENGINE}, link 3)"')
        findings = await check_programs(find=find)
        assert [(one.name, one.ok) for one in findings] == [(name, True) for name in PROGRAMS]
        digest = hashlib.sha256((place / "program").read_bytes()).hexdigest()[:12]
        assert findings[0].detail == (
            f"0.1.0 ({ENGINE}, link 3) built from the current sources, "
            f"sha256 {digest} at {place / 'program'}"
        )
        assert findings[2].detail == f"sha256 {digest} at {place / 'program'}"

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("echo plexspaces-agent 0.0.1 '(wasmtime 1.2.3)'", "is 0.0.1 (wasmtime 1.2.3), but"),
            ("kill -9 $$", "does not work: it was ended by signal 9"),
            ("echo lost >&2; exit 3", "does not work: it exited with status 3: lost"),
            ("exec sleep 600", "does not work: it timed out"),
        ],
    )
    async def test_check_programs_when_one_does_not_serve_then_it_is_a_fault_with_a_hint(
        self, place: Path, script: str, said: str
    ) -> None:
        """One of another version, one that crashes and one that hangs: none passes for sound."""
        before = children()
        findings = await check_programs(timeout_s=1.0, find=self.found(place, script))
        assert [one.ok for one in findings] == [False, False, True]
        assert said in findings[0].detail
        assert findings[0].hint == "scripts/agent"
        assert children() == before

    async def test_check_programs_when_they_are_not_built_then_the_command_is_the_hint(
        self,
    ) -> None:
        """The search's own words are handed on."""

        def find(name: str) -> Path:
            raise NotFound(f"{name} is not built", hint="cd here && scripts/agent")

        findings = await check_programs(find=find)
        assert [(one.ok, one.hint) for one in findings] == [(False, "cd here && scripts/agent")] * 3
        assert findings[1].detail == "plexspaces-compile is not built"

    async def test_check_programs_when_a_file_cannot_be_run_then_it_says_so(
        self, place: Path
    ) -> None:
        """A file of another machine type, or none at all, does not end the examination."""
        (place / "program").write_bytes(b"\x7fELF of something else")
        (place / "program").chmod(0o755)
        findings = await check_programs(find=lambda name: place / "program")
        assert [one.ok for one in findings] == [False, False, True]
        assert "Exec format error" in findings[0].detail


class TestIsolation:
    async def test_check_isolation_when_only_process_exists_then_the_others_are_not_claimed(
        self,
    ) -> None:
        """A level without a driver is told to be missing, and `auto` takes what there is."""
        findings = await check_isolation(configured(), [sound("process")])
        assert [(finding.name, finding.ok) for finding in findings] == [
            ("firecracker", None),
            ("qemu", None),
            ("process", True),
            ("auto", True),
        ]
        assert one(findings, "qemu").detail == "not available in this version"
        assert one(findings, "auto").detail == "selects process"

    async def test_check_isolation_when_several_work_then_auto_takes_the_strongest(self) -> None:
        """The order is that of strength, not of the list."""
        drivers = [sound("process"), sound("firecracker")]
        findings = await check_isolation(configured(), drivers)
        assert one(findings, "auto").detail == "selects firecracker"

    async def test_check_isolation_when_a_stronger_level_is_emulated_then_auto_passes_it_over(
        self,
    ) -> None:
        """Emulation works when it is asked for, and is never what `auto` means."""
        slow = driver("qemu", Health(True, "boots by emulation", emulated=True))
        findings = await check_isolation(configured(), [slow, sound("process")])
        assert one(findings, "qemu").ok is True
        assert one(findings, "auto").detail == "selects process"

    async def test_check_isolation_when_a_stronger_level_is_ill_then_it_is_no_fault(self) -> None:
        """With `auto` a weaker level serves; reason and hint of the ill one are shown."""
        ill = driver("firecracker", Health(False, "no /dev/kvm", "join the kvm group"))
        findings = await check_isolation(configured(), [ill, sound("process")])
        assert one(findings, "firecracker") == Finding(
            "Isolation", "firecracker", None, "no /dev/kvm", "join the kvm group"
        )
        assert required_ok(findings)

    @pytest.mark.parametrize("drivers", [[], [driver("qemu", Health(False, "unknown host"))]])
    async def test_check_isolation_when_the_level_asked_for_does_not_work_then_it_is_a_fault(
        self, drivers: list[Driver]
    ) -> None:
        """Asking for a level makes it needed, and hides no other."""
        findings = await check_isolation(configured(isolation="qemu"), [*drivers, sound("process")])
        assert one(findings, "qemu").ok is False
        assert one(findings, "process").ok is True
        assert not required_ok(findings)

    async def test_check_isolation_when_nothing_works_then_auto_is_the_fault(self) -> None:
        """A machine on which no level works cannot run a node."""
        broken = driver("process", OSError("fork failed"))
        findings = await check_isolation(configured(), [broken])
        assert one(findings, "auto").ok is False
        assert "fork failed" in one(findings, "process").detail

    async def test_check_isolation_when_a_probe_raises_or_hangs_then_its_line_says_so(
        self,
    ) -> None:
        """A driver in trouble costs its own line only."""
        drivers = [
            driver("firecracker", None),
            driver("qemu", Unavailable("busy", hint="wait")),
            sound("process"),
        ]
        findings = await check_isolation(configured(), drivers, timeout_s=0.05)
        assert one(findings, "firecracker").detail == "the probe did not finish within 0.05 s"
        assert (one(findings, "qemu").detail, one(findings, "qemu").hint) == ("busy", "wait")
        assert one(findings, "auto").detail == "selects process"


class OneLanguage:
    """A toolchain of which the doctor may only ask what it is and what it would use."""

    install = "install it"

    def __init__(self, language: Language, answer: str | Exception | None) -> None:
        """Set what `describe` gives, raises, or (None) never gives."""
        self.language = language
        self._answer = answer

    async def describe(self, environment: BuildEnvironment) -> str:
        """Answer as told."""
        if self._answer is None:
            await asyncio.Event().wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return cast(str, self._answer)


def toolchain(answer: str | Exception | None, language: Language = Language.GO) -> Toolchain:
    """Make a toolchain that can be described and nothing else."""
    return cast(Toolchain, OneLanguage(language, answer))


class TestLanguages:
    async def test_check_compilers_when_nothing_is_installed_then_each_has_its_command(
        self, machine: Machine
    ) -> None:
        """A missing compiler is no fault, and the line says how to get it."""
        findings = await check_compilers(machine({"apt-get": ""}))
        assert {finding.ok for finding in findings} == {None}
        assert required_ok(findings)
        assert {finding.name: finding.hint for finding in findings} == {
            "python": "pip install 'plexspaces-node[build-python]'",
            "go": "pip install 'plexspaces-node[build-go]'",
            "typescript": "pip install 'plexspaces-node[build-typescript]'",
            "rust": DEBIAN_INSTALL,
        }

    async def test_check_compilers_when_installed_then_versions_and_places_are_shown(
        self, place: Path, machine: Machine
    ) -> None:
        """What a build would use is found by the very search of a build."""
        (place / "lib/rustlib/wasm32-wasip2/lib").mkdir(parents=True)
        environment = machine(
            {
                "cargo": "",
                "componentize-py": "echo componentize-py 0.25.1",
                "go": "echo go version go1.26.6 linux/amd64",
                "node": "echo v20.20.2",
                "rustc": f"[ $1 = --print ] && echo {place} || echo release: 1.95.0",
            }
        )
        tools_directory(environment).mkdir(parents=True)
        findings = await check_compilers(environment)
        assert [(finding.name, finding.ok) for finding in findings] == [
            ("python", True),
            ("go", True),
            ("typescript", True),
            ("rust", True),
        ]
        (tools,) = environment.search
        assert (
            one(findings, "python").detail == f"componentize-py 0.25.1 at {tools}/componentize-py"
        )
        assert one(findings, "go").detail == f"go 1.26.6 at {tools}/go"
        assert one(findings, "typescript").detail.startswith(f"node 20.20.2 at {tools}/node, with ")
        assert f"in {tools_directory(environment)}" in one(findings, "typescript").detail
        assert one(findings, "rust").detail == (
            f"rustc 1.95.0 at {tools}/rustc, with its library for wasm32-wasip2"
        )

    async def test_check_compilers_when_the_npm_packages_are_missing_then_their_command_is_shown(
        self, machine: Machine
    ) -> None:
        """Node.js alone makes no component, and is not asked for again."""
        findings = await check_compilers(machine({"node": "echo v20.20.2"}))
        finding = one(findings, "typescript")
        assert (finding.ok, finding.hint) == (None, typescript.INSTALL)
        assert "node 20.20.2" in finding.detail

    @pytest.mark.parametrize(
        ("script", "detail"),
        [
            ("echo go version go1.21.3 linux/amd64", "1.24 or newer"),
            ("echo what", "'what' cannot be used"),
            ("echo no toolchain >&2; exit 3", "does not work: no toolchain"),
            ("kill -9 $$", "does not work: status -9"),
        ],
    )
    async def test_check_compilers_when_a_tool_is_of_no_use_then_the_reason_is_shown(
        self, machine: Machine, script: str, detail: str
    ) -> None:
        """Too old for actors, without a version, failing and crashing are told apart."""
        finding = one(await check_compilers(machine({"go": script})), "go")
        assert finding.ok is None
        assert detail in finding.detail
        assert finding.hint == "pip install 'plexspaces-node[build-go]'"

    async def test_check_compilers_when_a_tool_is_no_program_then_the_reason_is_shown(
        self, machine: Machine
    ) -> None:
        """A file that the kernel does not run is an answer, not a crash."""
        environment = machine({"go": ""})
        (environment.search[0] / "go").write_bytes(b"\x7fELF nonsense")
        findings = await check_compilers(environment)
        assert "Exec format error" in one(findings, "go").detail

    @pytest.mark.parametrize(
        ("answer", "hint"),
        [
            (None, "install it"),
            (DeadlineExceeded("too slow", hint="is the machine busy?"), "install it"),
            (Unsupported("none", hint="get one"), "get one"),
            (OSError("no room"), "install it"),
        ],
    )
    async def test_check_compilers_when_one_has_no_answer_then_it_costs_its_own_line_only(
        self, machine: Machine, answer: Exception | None, hint: str
    ) -> None:
        """A toolchain that hangs or fails is told, and hides no other."""
        toolchains = [toolchain(answer), toolchain("rustc 1.96", Language.RUST)]
        findings = await check_compilers(machine({}), toolchains=toolchains, timeout_s=0.05)
        assert [(found.name, found.ok, found.hint) for found in findings] == [
            ("go", None, hint),
            ("rust", True, None),
        ]

    async def test_check_compilers_when_a_tool_hangs_then_it_and_its_children_are_ended(
        self, place: Path, machine: Machine
    ) -> None:
        """A hanging tool costs the time given, whoever holds its output, and leaves nothing."""
        os.mkfifo(place / "lifeline")
        # Everything that the tool starts holds the other end: the last of it to end closes it.
        lifeline = os.open(place / "lifeline", os.O_RDONLY | os.O_NONBLOCK)
        environment = machine({"go": f"exec 9>{place}/lifeline; sleep 600 & wait"})
        before = children()
        try:
            findings = await check_compilers(environment, timeout_s=0.5)
            assert "did not report its version in time" in one(findings, "go").detail
            assert children() == before
            ready, _, _ = await asyncio.to_thread(select.select, [lifeline], [], [], 30)
            assert ready, "what the tool started lives on"
            assert os.read(lifeline, 1) == b""
        finally:
            os.close(lifeline)

    async def test_check_compilers_when_a_tool_prints_without_end_then_a_short_line_is_kept(
        self, machine: Machine
    ) -> None:
        """Output is cut, and control characters do not reach the terminal."""
        script = "printf '\\033[31mgo1.26 '; head -c 300000 /dev/zero | tr '\\0' x"
        finding = one(await check_compilers(machine({"go": script})), "go")
        assert len(finding.detail) <= 500
        assert "\033" not in finding.detail

    async def test_check_compilers_when_there_is_no_place_for_a_cache_then_it_is_no_fault(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nothing can be built at all, one line says why."""

        def no_home(_: type[Path]) -> Path:
            raise RuntimeError("no home directory")

        monkeypatch.setattr(Path, "home", classmethod(no_home))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        (finding,) = await check_compilers()
        assert (finding.name, finding.ok) == ("build", None)
        assert "XDG_CACHE_HOME" in str(finding.hint)


class TestDataDirectory:
    def test_check_data_directory_when_it_is_sound_then_all_is_ok_and_nothing_is_made(
        self, place: Path
    ) -> None:
        """An existing private directory passes, and stays empty."""
        findings = check_data_directory(configured(data_dir=place))
        assert [finding.name for finding in findings] == [
            "data directory",
            "path",
            "disk",
            "socket path",
        ]
        assert one(findings, "data directory").detail == f"{place} is writable"
        assert list(place.iterdir()) == []

    def test_check_data_directory_when_it_does_not_exist_then_it_is_not_made(
        self, place: Path
    ) -> None:
        """The doctor looks at the nearest directory there is, and makes none."""
        findings = check_data_directory(configured(data_dir=place / "a" / "b"))
        assert one(findings, "data directory").ok is True
        assert one(findings, "data directory").detail.endswith("will be created")
        assert one(findings, "disk").detail.endswith(f"free at {place}")
        assert list(place.iterdir()) == []

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda path: path.write_text(""), "is not a directory"),
            (lambda path: path.symlink_to("nowhere"), "is a broken symbolic link"),
            (lambda path: path.symlink_to(path), "symbolic links"),
            (lambda path: (path.mkdir(), path.chmod(0o770)), "others may write"),
        ],
    )
    def test_check_data_directory_when_it_cannot_serve_then_the_reason_is_shown(
        self, place: Path, make: Callable[[Path], object], reason: str
    ) -> None:
        """Each obstacle has a line of its own and a hint."""
        make(place / "data")
        finding = one(check_data_directory(configured(data_dir=place / "data")), "data directory")
        assert finding.ok is False
        assert reason in finding.detail
        assert finding.hint

    def test_check_data_directory_when_the_way_is_blocked_by_a_file_then_it_is_a_fault(
        self, place: Path
    ) -> None:
        """A directory cannot be made below a file."""
        (place / "file").touch()
        findings = check_data_directory(configured(data_dir=place / "file" / "data"))
        assert one(findings, "data directory").ok is False

    @pytest.mark.parametrize("path", ["/proc/plexspaces-doctor", "/proc"])
    def test_check_data_directory_when_the_file_system_takes_no_files_then_it_is_a_fault(
        self, path: str
    ) -> None:
        """Writability is tried where it can be, and judged by the parent where it cannot."""
        finding = one(check_data_directory(configured(data_dir=path)), "data directory")
        assert finding.ok is False

    def test_check_data_directory_when_a_link_leads_elsewhere_then_the_real_place_is_named(
        self, place: Path
    ) -> None:
        """A link is allowed, and no longer a surprise."""
        (place / "real").mkdir(mode=0o700)
        (place / "link").symlink_to("real")
        finding = one(check_data_directory(configured(data_dir=place / "link" / "n")), "path")
        assert finding.ok is None
        assert str(place / "link") in finding.detail
        assert finding.hint == f"use the real path: --data-dir {place / 'real' / 'n'}"

    def test_check_data_directory_when_anybody_may_replace_it_then_it_is_a_fault(
        self, place: Path
    ) -> None:
        """A parent open to all is a way to swap the directory; a sticky one, as /tmp, is not."""
        (place / "open").mkdir()
        config = configured(data_dir=place / "open" / "data")
        (place / "open").chmod(0o777)
        finding = one(check_data_directory(config), "path")
        assert (finding.ok, finding.hint) == (False, f"chmod o-w {place / 'open'}")
        (place / "open").chmod(0o777 | stat.S_ISVTX)
        assert one(check_data_directory(config), "path").ok is not False

    @pytest.mark.parametrize(("extra", "ok"), [(0, True), (1, False)])
    def test_check_data_directory_when_sockets_would_be_too_long_then_it_is_a_fault(
        self, extra: int, ok: bool
    ) -> None:
        """107 bytes is the most the kernel takes, counted in bytes and not in characters."""
        tail = len("/vms/vm-00000000/link.sock")
        path = "/é" + "x" * (107 - tail - len("/é".encode()) + extra)
        finding = one(check_data_directory(configured(data_dir=path)), "socket path")
        assert finding.ok is ok
        assert finding.detail.startswith(f"{107 + extra} of 107 bytes")


class TestMemory:
    def test_check_memory_when_the_default_fits_then_it_is_ok(self) -> None:
        """Available and total memory are shown."""
        (finding,) = check_memory(configured())
        assert re.match(r"\d+ of \d+ MiB available, \d+ processors", finding.detail)

    def test_check_memory_when_the_default_does_not_fit_then_it_is_told_and_no_fault(
        self,
    ) -> None:
        """Smaller applications may still run, so it is a remark."""
        config = ConfigBootstrap.load(flags={"default_vm.memory_mib": 1024 * 1024}, environ={})
        (finding,) = check_memory(config)
        assert finding.ok is None
        assert "--memory" in str(finding.hint)


class TestReport:
    FINDINGS = (
        Finding("Python", "Python", True, "3.11.7"),
        Finding("Isolation", "qemu", None, "not in [bold]this[/bold] version"),
        Finding("Isolation", "process", False, "no util-linux", "apt-get install util-linux"),
    )

    def test_render_when_printed_then_areas_marks_and_hints_are_lines(self) -> None:
        """The report reads the same in a pipe as on a terminal, and markup is not obeyed."""
        console = Console(file=io.StringIO(), width=40)
        render(self.FINDINGS, console)
        assert cast(io.StringIO, console.file).getvalue().splitlines() == [
            "Python",
            "  ✓ Python  3.11.7",
            "",
            "Isolation",
            "  – qemu     not in [bold]this[/bold] version",
            "  ✗ process  no util-linux",
            "             hint: apt-get install util-linux",
            "",
            "✗ 1 required check failed",
        ]

    def test_render_when_nothing_is_broken_then_the_last_line_says_so(self) -> None:
        """What is optional and missing does not spoil the result."""
        console = Console(file=io.StringIO())
        render(self.FINDINGS[:2], console)
        assert cast(io.StringIO, console.file).getvalue().endswith("✓ a node can run here\n")

    def test_required_ok_when_only_optional_things_are_missing_then_it_is_true(self) -> None:
        """Only False is a fault."""
        assert required_ok(self.FINDINGS[:2])
        assert not required_ok(self.FINDINGS)

    def test_to_json_when_parsed_then_every_field_is_there(self) -> None:
        """A program reads the same facts."""
        report = json.loads(to_json(self.FINDINGS))
        assert report["ok"] is False
        assert report["findings"][2] == {
            "area": "Isolation",
            "name": "process",
            "ok": False,
            "detail": "no util-linux",
            "hint": "apt-get install util-linux",
        }

    async def test_examine_when_run_here_then_all_areas_come_in_order_and_nothing_is_left(
        self, place: Path, machine: Machine
    ) -> None:
        """The whole examination, with real children: no process, descriptor or file remains."""
        before, descriptors = children(), len(os.listdir("/proc/self/fd"))
        config = configured(data_dir=place / "data", address="127.0.0.1:0")
        findings = await examine(config, [sound("process")], environment=machine({}))
        areas = list(dict.fromkeys(finding.area for finding in findings))
        assert areas == ["Python", "Programs", "Isolation", "Languages", "Node", "Cluster"]
        assert [finding for finding in findings if finding.ok is False] == []
        assert children() == before
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert list(place.iterdir()) == []

    async def test_examine_when_cancelled_then_its_children_are_ended(
        self, place: Path, machine: Machine
    ) -> None:
        """Ctrl-C in the middle leaves no process."""
        os.mkfifo(place / "started")
        # Open at both ends, so that it is readable when the tool has written and not before.
        fifo = os.open(place / "started", os.O_RDWR | os.O_NONBLOCK)
        started = asyncio.Event()
        asyncio.get_running_loop().add_reader(fifo, started.set)
        before = children()
        environment = machine({"go": f"echo here > {place}/started; sleep 600"})
        task = asyncio.create_task(examine(configured(), [], environment=environment))
        try:
            await asyncio.wait_for(started.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            asyncio.get_running_loop().remove_reader(fifo)
            os.close(fifo)
        assert children() == before
