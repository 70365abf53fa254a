"""Deploy on the command line: a file, or a project that is built first."""

from __future__ import annotations

import hashlib
import shlex
import sys
from pathlib import Path

import pytest
from support.actors import probe
from support.command import Command
from support.fake_node import NODE, WASM, FakeNode
from support.python_component import python_component

from plexspaces_node.cli import deploy
from plexspaces_node.client import NodeClient, node
from plexspaces_node.errors import ActorFailed
from plexspaces_node.toolchains.environment import BuildEnvironment
from plexspaces_node.toolchains.python.library import Library, standard_library
from plexspaces_node.toolchains.wasm.assembly import assemble

DIGEST = hashlib.sha256(WASM).hexdigest()


@pytest.fixture
def deployed(plexspaces: Command, wasm: Path) -> Command:
    """The command, after `calc` was deployed."""
    assert plexspaces("deploy", "--name", "calc", "--wasm", wasm).status == 0
    return plexspaces


class TestFile:
    """`plexspaces deploy --name NAME --wasm FILE`."""

    def test_deploy_when_done_then_ids_digest_and_phases_are_shown(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """What was made, and where the time went; progress goes to stderr."""
        ran = plexspaces("deploy", "--name", "calc", "--language", "go", "--wasm", wasm)
        assert ran.status == 0
        lines = ran.text.splitlines()
        assert lines[:6] == [
            "✓ Deployed calc",
            "  Application ID: app-calc",
            "  VM ID:          vm-calc",
            "  Isolation:      process",
            "  Language:       go (actor)",
            f"  Digest:         {DIGEST}",
        ]
        phases = dict(line.split(maxsplit=1) for line in lines[7:])
        assert list(phases) == ["Phase", "upload", "compile", "VM", "load", "init", "total"]
        assert (phases["compile"], phases["VM"], phases["load"]) == ("cached", "20 ms", "3.00 ms")
        assert ran.stderr.splitlines() == [
            "uploading 108 B",
            "compiling",
            "starting the VM",
            "loading the artifact",
        ]
        assert fake_node.calls == [
            *("InspectNode", "Inspect", "FindArtifact", "UploadArtifact", "Deploy")
        ]

    def test_deploy_when_the_node_has_the_artifact_then_no_upload(
        self, deployed: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """The second deploy of a file sends its digest only, and says so."""
        ran = deployed("deploy", "--name", "again", "--wasm", wasm)
        assert ["upload", "not", "needed"] in [line.split() for line in ran.text.splitlines()]
        assert ran.stderr.startswith("the node already has the artifact\n")
        assert len(fake_node.uploads) == 1

    def test_deploy_when_every_flag_is_given_then_each_reaches_the_node(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """Size, version and variables are the user's; a value may hold an equals sign."""
        ran = plexspaces(
            *("deploy", "--name", "calc", "--wasm", wasm, "--vcpus", "2", "--memory", "512"),
            *("--version", "1.2.3", "--env", "A=b=c", "--env", "EMPTY=", "--json"),
        )
        request = fake_node.deploys[0]
        assert (request.config.vcpus, request.config.memory_mib) == (2, 512)
        assert (request.version, request.language) == ("1.2.3", "")
        assert dict(request.env) == {"A": "b=c", "EMPTY": ""}
        assert (ran.json["name"], ran.json["digest"]) == ("calc", DIGEST)
        assert ran.json["timings"]["vm_ns"] == 20_000_000

    def test_deploy_when_hosts_are_allowed_then_each_reaches_the_node_and_is_shown(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """What an application may call is seen where everything else of it is."""
        flags = ("--allow-host", "api.example.com:443", "--allow-host", "*.example.org")
        assert plexspaces("deploy", "--name", "calc", "--wasm", wasm, *flags).status == 0
        assert list(fake_node.deploys[0].allow_hosts) == ["api.example.com:443", "*.example.org"]
        shown = plexspaces("inspect", "calc")
        assert "  Allowed hosts:  api.example.com:443, *.example.org\n" in shown.text
        assert plexspaces("inspect", "calc", "--json").json["allow_hosts"] == [flags[1], flags[3]]

    @pytest.mark.parametrize(
        ("flags", "public"), [((), None), (("--public",), True), (("--no-public",), False)]
    )
    def test_deploy_when_public_then_it_reaches_the_node_as_it_was_said(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        wasm: Path,
        flags: tuple[str, ...],
        public: bool | None,
    ) -> None:
        """Not said is neither: a replacement keeps what it is."""
        assert plexspaces("deploy", "--name", "calc", "--wasm", wasm, *flags).status == 0
        asked = fake_node.deploys[0]
        assert (asked.public if asked.HasField("public") else None) is public
        shown = plexspaces("inspect", "calc").text
        assert ("everybody may send messages and requests" in shown) is (public is True)
        assert plexspaces("inspect", "calc", "--json").json["public"] is (public is True)

    @pytest.mark.parametrize("given", [("-l", "--version", "--", "", "two words"), ("--help",)])
    def test_deploy_when_arguments_follow_two_dashes_then_each_reaches_the_node_as_it_is(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path, given: tuple[str, ...]
    ) -> None:
        """What looks like a flag of ours is none after the dashes; inspect shows them again."""
        flags = ("--name", "count", "--wasm", str(wasm), "--concurrency", "3")
        assert plexspaces("deploy", *flags, "--", *given).status == 0
        request = fake_node.deploys[0]
        assert (tuple(request.args), request.concurrency) == (given, 3)
        assert request.version == "0.1.0"
        shown = plexspaces("inspect", "count").text
        assert f"  Arguments:      {shlex.join(given)}\n" in shown
        assert "  Concurrency:    3 messages at the same time\n" in shown

    @pytest.mark.parametrize("end", [(), ("--",)])
    def test_deploy_when_no_arguments_are_given_then_none_and_the_nodes_concurrency(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path, end: tuple[str, ...]
    ) -> None:
        """Not said is left to the node; an actor is not said to have what a command has."""
        assert plexspaces("deploy", "--name", "calc", "--wasm", wasm, *end).status == 0
        request = fake_node.deploys[0]
        assert (tuple(request.args), request.concurrency) == ((), 0)
        assert "Arguments" not in plexspaces("inspect", "calc").text

    def test_deploy_when_help_is_asked_then_it_tells_of_the_arguments(
        self, plexspaces: Command
    ) -> None:
        """Nobody has to guess that there is a way to give them."""
        assert "[-- ARG...]" in plexspaces("deploy", "--help").text

    def test_deploy_when_no_size_is_given_then_the_nodes_default(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """The command has no opinion of its own on sizes."""
        assert fake_node.applications["calc"].vm_config == NODE.default_vm

    def test_deploy_when_the_name_is_taken_then_nothing_changes(
        self, deployed: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """The hint tells the way to keep its state."""
        before = dict(fake_node.applications)
        ran = deployed("deploy", "--name", "calc", "--wasm", wasm)
        assert (ran.status, ran.stdout) == (1, b"")
        assert ran.stderr == (
            "error: application 'calc' is already deployed and Running\n"
            "hint: deploy with --replace, which keeps its state, or under another --name\n"
        )
        assert fake_node.applications == before

    @pytest.mark.parametrize("arguments", [(), ("--memory", "128", "--env", "A=1")])
    def test_deploy_when_it_replaces_then_the_node_is_told_what_was_said_and_no_more(
        self, deployed: Command, fake_node: FakeNode, wasm: Path, arguments: tuple[str, ...]
    ) -> None:
        """What is not said is left to the node, which leaves it as it is."""
        ran = deployed("deploy", "--replace", "--name", "calc", "--wasm", wasm, *arguments)
        assert (ran.status, ran.text.splitlines()[0]) == (0, "✓ Deployed calc")
        request = fake_node.deploys[-1]
        assert request.replace
        assert request.config.vcpus == 0
        assert (request.config.memory_mib, dict(request.env)) == (
            (128, {"A": "1"}) if arguments else (0, {})
        )

    @pytest.mark.parametrize(
        ("flags", "said", "hint"),
        [
            (("--name", "Calc"), "application name 'Calc'", "1 to 63 of a-z, 0-9 and -"),
            (("--name", "-calc"), "application name '-calc'", "1 to 63 of a-z"),
            (("--name", "c" * 64), "application name", "1 to 63 of a-z"),
            (("--name", "../x"), "application name '../x'", "1 to 63 of a-z"),
            (("--language", "cobol"), "unknown language 'cobol'", "rust, typescript, go"),
            (("--vcpus", "0"), "vcpus must be at least 1, not 0", "--vcpus 1"),
            (("--vcpus", "-2"), "vcpus must be at least 1, not -2", "--vcpus 1"),
            (("--memory", "0"), "memory must be at least 1 MiB", "--memory 256"),
            (("--version", "a b"), "version 'a b' is not valid", "letters, digits"),
            (("--env", "NOVALUE"), "--env takes NAME=VALUE", "--env GREETING=hello"),
            (("--env", "1X=y"), "environment variable '1X'", "NAME=VALUE"),
            (("--env", "PLEXSPACES_SENDER=y"), "is set by the platform", "another name"),
            (("--env", "A=" + "y" * 131_072), "exceed the limit of 131072", "into the artifact"),
            (("--allow-host", "https://a.b"), "'https://a.b' is not a host to", "HOST:PORT"),
            (("--allow-host", "a.b:0"), "'a.b:0' is not a host", "api.example.com:443"),
            (("--concurrency", "0"), "concurrency must be at least 1, not 0", "omit it"),
            (("--env", "=y"), "environment variable ''", "NAME=VALUE"),
            (("--wasm", "none.wasm"), "there is no file 'none.wasm'", "path of a .wasm file"),
            (("--wasm", "empty.wasm"), "'empty.wasm' is empty", "plexspaces build"),
            (("--wasm", "text.wasm"), "starts with 68 65 6c 6c", "plexspaces build"),
            (("--wasm", "app.py"), "'app.py' is Python source", "plexspaces build ."),
            (("--wasm", "."), "'.' is a directory", "plexspaces deploy ."),
        ],
    )
    def test_deploy_when_the_input_is_bad_then_status_2_and_nothing_is_sent(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        wasm: Path,
        tmp_path: Path,
        flags: tuple[str, str],
        said: str,
        hint: str,
    ) -> None:
        """Each mistake is named with its value and its cure before the node hears of it."""
        (tmp_path / "empty.wasm").touch()
        (tmp_path / "text.wasm").write_text("hello")
        (tmp_path / "app.py").write_text("import os")
        given = {"--name": "calc", "--wasm": str(wasm), flags[0]: flags[1]}
        ran = plexspaces("deploy", *(word for pair in given.items() for word in pair))
        assert (ran.status, ran.stdout) == (2, b"")
        error, advice = ran.stderr.splitlines()
        assert error.startswith("error: ")
        assert said in error
        assert advice.startswith("hint: ")
        assert hint in advice
        assert fake_node.calls == []

    @pytest.mark.parametrize("given", [("--concurrency", "2"), ("--", "-l")])
    def test_deploy_when_an_actor_is_given_what_a_command_takes_then_it_is_not_uploaded(
        self, plexspaces: Command, fake_node: FakeNode, tmp_path: Path, given: tuple[str, ...]
    ) -> None:
        """What the file is, is known here."""
        (tmp_path / "actor.wasm").write_bytes(probe())
        ran = plexspaces("deploy", "--name", "calc", "--wasm", "actor.wasm", *given)
        assert ran.status == 2
        assert "'calc' is an actor" in ran.stderr
        assert "UploadArtifact" not in fake_node.calls

    @pytest.mark.parametrize(
        ("flag", "value", "hint"),
        [("--vcpus", "5", "--vcpus 4"), ("--memory", "9999999", "--memory 1024")],
    )
    def test_deploy_when_the_node_cannot_make_the_machine_then_nothing_is_uploaded(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        wasm: Path,
        flag: str,
        value: str,
        hint: str,
    ) -> None:
        """The node's own bounds are in the hint."""
        ran = plexspaces("deploy", "--name", "calc", "--wasm", wasm, flag, value)
        assert ran.status == 2
        assert hint in ran.stderr
        assert fake_node.calls == ["InspectNode"]

    def test_deploy_when_the_file_cannot_be_run_then_it_is_not_uploaded(
        self, plexspaces: Command, fake_node: FakeNode, tmp_path: Path
    ) -> None:
        """In the words that the node would have, with what helps."""
        foreign = tmp_path / "foreign.wasm"
        foreign.write_bytes(assemble('(module (import "env" "f" (func)) (func (export "_start")))'))
        ran = plexspaces("deploy", "--name", "calc", "--wasm", foreign)
        assert ran.status == 2
        assert "it imports 'env', which this node does not offer: function f" in ran.stderr
        assert "hint:" in ran.stderr
        assert "UploadArtifact" not in fake_node.calls

    def test_deploy_when_it_has_more_memory_than_it_gets_then_it_is_not_uploaded(
        self, plexspaces: Command, fake_node: FakeNode, tmp_path: Path
    ) -> None:
        """What the machine itself needs is the node's to say; the hint's number is enough."""
        large = tmp_path / "large.wasm"
        large.write_bytes(assemble('(module (memory 8000) (func (export "_start")))'))
        deploy = ("deploy", "--name", "calc", "--wasm", large, "--memory")
        ran = plexspaces(*deploy, "512")
        assert ran.status == 2
        assert "it has 500 MiB of memory from its start" in ran.stderr
        assert f"--memory {500 + NODE.overhead_mib}" in ran.stderr
        assert "UploadArtifact" not in fake_node.calls
        assert plexspaces(*deploy, str(500 + NODE.overhead_mib)).status == 0

    def test_deploy_when_a_secret_has_no_equals_sign_then_it_is_not_repeated(
        self, plexspaces: Command, wasm: Path
    ) -> None:
        """What was given to --env by mistake may be a secret."""
        ran = plexspaces("deploy", "--name", "calc", "--wasm", wasm, "--env", "s3cret")
        assert "s3cret" not in ran.stderr

    def test_deploy_when_the_actor_fails_in_init_then_its_own_words(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """An actor that does not start is told from a platform that does not work."""
        fake_node.fail["Deploy"] = ActorFailed("no table `users`", code="init")
        ran = plexspaces("deploy", "--name", "calc", "--wasm", wasm)
        assert ran.status == 1
        assert "error: the actor failed (init): no table `users`\n" in ran.stderr
        assert fake_node.applications == {}


async def _cannot_tell(_artifact: bytes) -> None:
    return None


COMPILER = """#!/bin/sh
case $1 in --version) echo 'componentize-py 0.25.1'; exit;; esac
echo run >>"$(dirname "$0")/runs"
while [ $# -gt 0 ]; do case $1 in --output) out=$2;; esac; shift; done
cat "$(dirname "$0")/component.wasm" >"$out"
"""


@pytest.fixture
def project(plexspaces: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python project, and a compiler that counts its runs and writes an empty actor."""
    compiler = tmp_path / "tools" / "componentize-py"
    compiler.parent.mkdir()
    compiler.with_name("component.wasm").write_bytes(python_component())
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    # What it writes has the form of what componentize-py makes, and is no whole actor.
    monkeypatch.setattr(node, "inspect", _cannot_tell)
    # Compilers are looked for beside this Python first.
    monkeypatch.setattr(sys, "executable", str(compiler.with_name("python")))
    # Compiled before, so that the compiler runs for the project alone.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = standard_library(BuildEnvironment.here())
    library.parent.mkdir(parents=True)
    library.write_bytes(Library().file())
    project = tmp_path / "My Calc"
    project.mkdir()
    (project / "app.py").write_text("x = 1\n")
    return project


class TestProject:
    """`plexspaces deploy DIR`."""

    def test_deploy_when_given_a_project_then_it_is_built_and_named_after_it(
        self, plexspaces: Command, fake_node: FakeNode, project: Path
    ) -> None:
        """Build, then deploy, under the directory's name and in the project's language."""
        ran = plexspaces("deploy", project)
        assert (ran.status, ran.text.splitlines()[0]) == (0, "✓ Deployed my-calc")
        assert ran.stderr.startswith("my-calc: compiling with componentize-py 0.25.1\nuploading ")
        assert [(r.name, r.language) for r in fake_node.deploys] == [("my-calc", "python")]
        assert (project / "dist" / "my-calc.wasm").is_file()

    def test_deploy_when_the_project_is_unchanged_then_nothing_is_built_or_sent(
        self, plexspaces: Command, fake_node: FakeNode, project: Path
    ) -> None:
        """The build's cache and the node's are both asked; --name chooses another name."""
        plexspaces("deploy", project)
        ran = plexspaces("deploy", "--name", "again", project, "--memory", "512", "--json")
        assert (ran.json["name"], ran.json["vm_config"]["memory_mib"]) == ("again", 512)
        assert "my-calc: unchanged" in ran.stderr
        assert "the node already has the artifact" in ran.stderr
        assert len(fake_node.uploads) == 1

    @pytest.mark.parametrize(
        ("flags", "status", "said"),
        [
            (("--name", "taken"), 1, "'taken' is already deployed"),
            (("--name", "No Name"), 2, "application name 'No Name'"),
            (("--name", ""), 2, "application name ''"),
            (("--vcpus", "0"), 2, "vcpus must be at least 1"),
            (("--vcpus", "5"), 2, "at most 4 on this node"),
            (("--language", "go"), 2, "is a python project, not a go project"),
            (("--wasm", "app.wasm"), 2, "either a project directory or a WebAssembly file"),
        ],
    )
    def test_deploy_when_it_would_be_refused_then_nothing_is_built(
        self,
        plexspaces: Command,
        project: Path,
        wasm: Path,
        flags: tuple[str, str],
        status: int,
        said: str,
    ) -> None:
        """Nobody waits for a compiler to be told that the name is taken."""
        plexspaces("deploy", "--name", "taken", "--wasm", wasm)
        ran = plexspaces("deploy", project, *flags)
        assert (ran.status, ran.stdout) == (status, b"")
        assert said in ran.stderr
        assert not (project.parent / "tools" / "runs").exists()

    @pytest.mark.parametrize(
        ("where", "said"),
        [
            ((deploy, "build"), "interrupted: nothing was deployed"),
            (
                (NodeClient, "deploy"),
                "interrupted: the node rolls back the deploy of my-calc; see: plexspaces list",
            ),
        ],
    )
    def test_deploy_when_interrupted_then_one_line_says_what_came_of_it(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        where: tuple[object, str],
        said: str,
    ) -> None:
        """Whoever presses Ctrl-C is told whether there is something to look after."""

        async def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(*where, interrupted)
        ran = plexspaces("deploy", project)
        assert (ran.status, ran.stdout) == (130, b"")
        assert ran.stderr.splitlines()[-1] == said
        assert fake_node.deploys == []

    def test_deploy_when_it_does_not_compile_then_nothing_is_deployed(
        self, plexspaces: Command, fake_node: FakeNode, project: Path
    ) -> None:
        """The compiler's own words, and no application."""
        compiler = project.parent / "tools" / "componentize-py"
        compiler.write_text(COMPILER.replace("echo run", "echo 'line 1: no'; exit 1; echo"))
        ran = plexspaces("deploy", project)
        assert ran.status == 2
        assert ran.stderr.endswith("error: app.py does not build:\n  line 1: no\n")
        assert fake_node.applications == {}

    @pytest.mark.parametrize("name", ["PLEXSPACES_MESSAGE_TYPE", "PLEXSPACES_SENDER"])
    def test_deploy_when_a_variable_is_the_platforms_then_it_is_refused_in_words(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path, name: str
    ) -> None:
        """What would be overwritten with every message is not taken."""
        ran = plexspaces("deploy", wasm, "--env", f"{name}=x")
        assert ran.status == 2
        assert f"environment variable {name!r} is set by the platform" in ran.stderr
        assert ran.stderr.splitlines()[-1] == "hint: choose another name"
        assert fake_node.applications == {}

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            (("app.wasm",), "app"),
            (("--wasm", "app.wasm"), "app"),
            (("My App_2.wasm", "--memory", "128"), "my-app-2"),
            (("app.wasm", "--name", "other"), "other"),
        ],
    )
    def test_deploy_when_given_a_file_then_it_is_deployed_under_its_name(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        wasm: Path,
        arguments: tuple[str, ...],
        name: str,
    ) -> None:
        """A WebAssembly file is taken where a project is, with all flags; its name is enough."""
        wasm.with_name("My App_2.wasm").write_bytes(wasm.read_bytes())
        ran = plexspaces("deploy", *arguments)
        assert ran.status == 0, ran.stderr
        assert list(fake_node.applications) == [name]

    @pytest.mark.parametrize(
        ("arguments", "status", "said", "hint"),
        [
            ((), 2, "a project directory or a WebAssembly file", "plexspaces deploy DIR, or "),
            (("tools/componentize-py",), 2, "is not WebAssembly: it starts", "pass the .wasm file"),
            (
                ("app.wasm", "--wasm", "app.wasm"),
                2,
                "either a project directory or a WebAssembly file",
                "plexspaces deploy DIR",
            ),
            (("nowhere",), 2, "'nowhere' does not exist", "plexspaces build DIR"),
            (("tools",), 2, "tools is not a project", "a project directory"),
        ],
    )
    def test_deploy_when_it_is_not_clear_what_then_nothing_is_sent(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        project: Path,
        wasm: Path,
        arguments: tuple[str, ...],
        status: int,
        said: str,
        hint: str,
    ) -> None:
        """One of a project and a named file; what was meant is in the hint."""
        ran = plexspaces("deploy", *arguments)
        assert (ran.status, ran.stdout) == (status, b"")
        assert said in ran.stderr
        assert hint in ran.stderr.splitlines()[-1]
        assert fake_node.calls == []
