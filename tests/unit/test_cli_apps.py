"""Deploy, invoke, stop, start and undeploy on the command line."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from support.command import Command
from support.fake_node import NODE, WASM, FakeNode

from plexspaces_node.errors import ActorFailed, ActorTrapped
from plexspaces_node.model import ApplicationState

DIGEST = hashlib.sha256(WASM).hexdigest()


@pytest.fixture
def deployed(plexspaces: Command, wasm: Path) -> Command:
    """The command, after `calc` was deployed."""
    assert plexspaces("deploy", "--name", "calc", "--wasm", wasm).status == 0
    return plexspaces


class TestDeploy:
    """`plexspaces deploy`."""

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
            "starting the actor",
        ]
        assert fake_node.calls == ["InspectNode", "FindArtifact", "UploadArtifact", "Deploy"]

    def test_deploy_when_the_node_has_the_artifact_then_no_upload(
        self, deployed: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """The second deploy of a file sends its digest only, and says so."""
        ran = deployed("deploy", "--name", "again", "--wasm", wasm)
        assert ["upload", "not", "needed"] in [line.split() for line in ran.text.splitlines()]
        assert ran.stderr.startswith("the node has the artifact already\n")
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

    def test_deploy_when_no_size_is_given_then_the_nodes_default(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """The command has no opinion of its own on sizes."""
        assert fake_node.applications["calc"].vm_config == NODE.default_vm

    def test_deploy_when_the_name_is_taken_then_nothing_changes(
        self, deployed: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """The hint frees the name."""
        before = dict(fake_node.applications)
        ran = deployed("deploy", "--name", "calc", "--wasm", wasm)
        assert (ran.status, ran.stdout) == (1, b"")
        assert ran.stderr.endswith(
            "error: application calc is deployed already\nhint: plexspaces undeploy --name calc\n"
        )
        assert fake_node.applications == before

    @pytest.mark.parametrize(
        ("flags", "said", "hint"),
        [
            (("--name", "Calc"), "application name 'Calc'", "1 to 63 of a-z, 0-9 and -"),
            (("--name", "-calc"), "application name '-calc'", "1 to 63 of a-z"),
            (("--name", "c" * 64), "application name", "1 to 63 of a-z"),
            (("--name", "../x"), "application name '../x'", "1 to 63 of a-z"),
            (("--language", "cobol"), "language 'cobol' is not known", "rust, typescript, go"),
            (("--vcpus", "0"), "vcpus must be at least 1, not 0", "--vcpus 1"),
            (("--vcpus", "-2"), "vcpus must be at least 1, not -2", "--vcpus 1"),
            (("--memory", "0"), "memory must be at least 1 MiB", "--memory 256"),
            (("--version", "a b"), "version 'a b' is not valid", "letters, digits"),
            (("--env", "NOVALUE"), "--env takes NAME=VALUE", "--env GREETING=hello"),
            (("--env", "1X=y"), "environment variable '1X'", "NAME=VALUE"),
            (("--env", "=y"), "environment variable ''", "NAME=VALUE"),
            (("--wasm", "none.wasm"), "there is no file 'none.wasm'", "path of a .wasm file"),
            (("--wasm", "empty.wasm"), "'empty.wasm' is empty", "plexspaces build"),
            (("--wasm", "text.wasm"), "begins with 68 65 6c 6c", "plexspaces build"),
            (("--wasm", "app.py"), "'app.py' is Python source", "plexspaces build ."),
            (("--wasm", "."), "'.' is a directory", "plexspaces build . -o "),
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


class TestInvoke:
    """`plexspaces invoke`."""

    @pytest.mark.parametrize(
        ("arguments", "stdin", "payload"),
        [
            ((), b"ignored", b""),
            (("--data", "grüße"), b"", "grüße".encode()),
            (("--file", "message.bin"), b"", bytes(range(256))),
            (("-",), b"\0from stdin\n", b"\0from stdin\n"),
        ],
    )
    def test_invoke_when_the_message_comes_from_anywhere_then_every_byte_survives(
        self,
        deployed: Command,
        fake_node: FakeNode,
        tmp_path: Path,
        arguments: tuple[str, ...],
        stdin: bytes,
        payload: bytes,
    ) -> None:
        """Text, file and stdin reach the actor untouched, and its reply reaches stdout so."""
        (tmp_path / "message.bin").write_bytes(bytes(range(256)))
        ran = deployed("invoke", "calc", *arguments, stdin=stdin)
        assert (ran.status, ran.stdout, ran.stderr) == (0, payload, "")
        assert fake_node.invokes[0].payload == payload

    def test_invoke_when_the_message_is_no_unicode_then_every_byte_survives(
        self, deployed: Command
    ) -> None:
        """A shell may hand over any bytes but zero."""
        ran = deployed("invoke", "calc", "--data", os.fsdecode(b"\xff\xfe"))
        assert ran.stdout == b"\xff\xfe"

    def test_invoke_when_stats_are_asked_then_they_go_to_stderr(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """The reply stays alone on stdout."""
        arguments = ("--type", "add", "--data", "x", "--timeout", "2.5", "--stats")
        ran = deployed("invoke", "calc", *arguments)
        assert ran.stdout == b"x"
        times = dict(line.split(":") for line in ran.stderr.splitlines())
        assert list(times) == ["round trip", "node", "compute", "host waits", "queue"]
        assert (times["node"].strip(), times["compute"].strip()) == ("5.00 ms", "4.00 ms")
        assert (fake_node.invokes[0].type, fake_node.invokes[0].timeout_ms) == ("add", 2500)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--data", "x", "--file", "y"), "given more than once"),
            (("-", "--data", "x"), "given more than once"),
            (("text",), "'text' is one argument too many"),
            (("--file", "none"), "'none' cannot be read: No such file"),
            (("--file", "."), "'.' cannot be read: Is a directory"),
            (("--file", "large"), "over the limit of 2097152"),
            (("--timeout", "0"), "a timeout of 0 s is not possible"),
            (("--timeout", "nan"), "a timeout of nan s is not possible"),
        ],
    )
    def test_invoke_when_the_input_is_bad_then_status_2_and_nothing_is_sent(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        tmp_path: Path,
        arguments: tuple[str, ...],
        said: str,
    ) -> None:
        """Contradictions, missing files and messages that no node takes."""
        with (tmp_path / "large").open("wb") as file:
            file.truncate(2**40)
        ran = plexspaces("invoke", "calc", *arguments)
        assert (ran.status, ran.stdout) == (2, b"")
        assert said in ran.stderr
        assert fake_node.calls == []

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (ActorFailed("5 / 0", code="division"), "the actor failed (division): 5 / 0"),
            (
                ActorTrapped("unreachable executed", code="unreachable"),
                "the actor's code trapped (unreachable): unreachable executed",
            ),
        ],
    )
    def test_invoke_when_the_actor_fails_then_status_1_and_its_own_words(
        self, deployed: Command, fake_node: FakeNode, error: ActorFailed, said: str
    ) -> None:
        """Nothing goes to stdout, so that a pipe does not take an error for a reply."""
        fake_node.behave = lambda name, type, payload: error
        ran = deployed("invoke", "calc")
        assert (ran.status, ran.stdout, ran.stderr) == (1, b"", f"error: {said}\n")

    def test_invoke_when_there_is_no_application_then_the_hint_lists(
        self, plexspaces: Command
    ) -> None:
        """A name that is not there."""
        ran = plexspaces("invoke", "calc")
        assert ran.status == 1
        assert ran.stderr == "error: there is no application calc\nhint: plexspaces list\n"


class TestLife:
    """`plexspaces stop`, `start` and `undeploy`."""

    def test_application_when_stopped_started_and_undeployed_then_each_says_so(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """One line each, and the node did it."""
        assert deployed("stop", "--name", "calc").text == "✓ calc is Stopped\n"
        assert fake_node.applications["calc"].state is ApplicationState.STOPPED
        assert deployed("start", "--name", "calc").text == "✓ calc is Running in vm-calc-2\n"
        assert deployed("undeploy", "--name", "calc").text == "✓ Undeployed calc\n"
        assert fake_node.applications == {}

    @pytest.mark.parametrize("verb", ["stop", "start", "undeploy"])
    def test_application_when_not_there_then_status_1(self, plexspaces: Command, verb: str) -> None:
        """Nothing is claimed of what is not there."""
        ran = plexspaces(verb, "--name", "calc")
        assert (ran.status, ran.stdout) == (1, b"")
        assert "error: there is no application calc" in ran.stderr

    @pytest.mark.parametrize("verb", ["stop", "start", "undeploy"])
    def test_application_when_the_name_is_none_then_nothing_is_sent(
        self, plexspaces: Command, fake_node: FakeNode, verb: str
    ) -> None:
        """A name that cannot exist is not asked for."""
        assert plexspaces(verb, "--name", "No Name").status == 2
        assert fake_node.calls == []
