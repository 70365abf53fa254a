"""Invoke, stop, start and undeploy on the command line."""

from __future__ import annotations

import base64
import os
import re
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.command import Command
from support.fake_node import FakeNode

from plexspaces_node.errors import ActorFailed, ActorTrapped
from plexspaces_node.model import ApplicationState


@pytest.fixture
def deployed(plexspaces: Command, wasm: Path) -> Command:
    """The command, after `calc` was deployed."""
    assert plexspaces("deploy", "--name", "calc", "--wasm", wasm).status == 0
    return plexspaces


def _bytes_of(printed: Mapping[str, str | None]) -> bytes:
    text, encoded = printed["output"], printed["output_base64"]
    return text.encode() if text is not None else base64.b64decode(encoded or "")


_TRACE_LINE = r"trace:       plexspaces trace calc --id [0-9a-f]{32}"


class TestInvoke:
    """`plexspaces invoke`."""

    @pytest.mark.parametrize(
        ("arguments", "stdin", "payload"),
        [
            ((), b"ignored", b""),
            (("--data", "grüße"), b"", "grüße".encode()),
            (("--file", "message.bin"), b"", bytes(range(256))),
            (("-",), b"\0from stdin\n", b"\0from stdin\n"),
            (("--data", "-"), b"from stdin", b"from stdin"),
            (("--data", "@-"), b"from stdin", b"from stdin"),
            (("--file", "-"), b"from stdin", b"from stdin"),
            (("--data", "@message.bin"), b"", bytes(range(256))),
            (("--data", "--"), b"", b"--"),
            (("--data", ""), b"", b""),
            (("--data", "a@b"), b"", b"a@b"),
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
        parts = ["round trip", "node", "compute", "host waits", "queue", "transport"]
        assert list(times) == [*parts, "trace"]
        assert times["transport"].strip() == "grpc"
        assert (times["node"].strip(), times["compute"].strip()) == ("5.00 ms", "4.00 ms")
        assert (fake_node.invokes[0].type, fake_node.invokes[0].timeout_ms) == ("add", 2500)

    def test_invoke_when_the_message_has_a_trace_then_it_is_told(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """Its id in JSON, and with the timings the command that draws it."""
        fake_node.trace_id = "0af7651916cd43dd8448eb211c80319c"
        assert deployed("invoke", "calc", "--json").json["trace_id"] == fake_node.trace_id
        assert "trace" not in deployed("invoke", "calc").stderr

    def test_invoke_when_stats_are_asked_then_it_asks_for_a_trace_of_its_own(
        self, deployed: Command
    ) -> None:
        """So that the trace is still there when its command is run, and is no other message's."""
        told = [deployed("invoke", "calc", "--stats").stderr.splitlines()[-1] for _ in range(2)]
        assert all(re.fullmatch(_TRACE_LINE, line) for line in told)
        assert told[0] != told[1]

    def test_invoke_when_a_message_with_a_trace_fails_then_it_is_told_too(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """That is where one wants to look."""
        fake_node.trace_id = "0af7651916cd43dd8448eb211c80319c"
        fake_node.behave = lambda _name, _type, _payload: ActorFailed("no", code="no")
        assert deployed("invoke", "calc", "--json").json["trace_id"] == fake_node.trace_id
        said = deployed("invoke", "calc", "--stats").stderr.splitlines()
        assert re.fullmatch(_TRACE_LINE, said[0])

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--data", "x", "--file", "y"), "given more than once"),
            (("-", "--data", "x"), "given more than once"),
            (("text",), "unexpected argument 'text'"),
            (("--file", "none"), "'none' cannot be read: No such file"),
            (("--file", "."), "'.' cannot be read: Is a directory"),
            (("--file", "large"), "exceeds the maximum of 268435456 bytes"),
            (("--file", ""), "no file name given"),
            (("--data", "@large"), "exceeds the maximum of 268435456 bytes"),
            (
                ("--data", "@it's"),
                '"it\'s" cannot be read: No such file or directory\nhint: if that is the message '
                "itself: printf %s '@it'\"'\"'s' | plexspaces invoke NAME -\n",
            ),
            (("--data", "@"), "no file name given"),
            (("--timeout", "0"), "a timeout of 0 s is not valid"),
            (("--timeout", "nan"), "a timeout of nan s is not valid"),
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

    @pytest.mark.parametrize("error", [ActorFailed, ActorTrapped])
    @pytest.mark.parametrize("output", [b"12 rows\n", b"\xff\0"])
    def test_invoke_when_a_command_fails_then_what_it_wrote_comes_before_the_error(
        self,
        deployed: Command,
        fake_node: FakeNode,
        error: type[ActorFailed | ActorTrapped],
        output: bytes,
    ) -> None:
        """Nothing that a program said is lost, and the status tells that it failed."""
        fake_node.behave = lambda name, type, payload: error("no", code="exit-1", output=output)
        ran = deployed("invoke", "calc")
        assert (ran.status, ran.stdout) == (1, output)
        assert ran.stderr.startswith("error: the actor")
        assert "(exit-1): no\n" in ran.stderr
        ran = deployed("invoke", "calc", "--json")
        assert (ran.status, ran.json["failure"]["code"]) == (1, "exit-1")
        assert "(exit-1): no\n" in ran.stderr
        assert _bytes_of(ran.json) == output

    @pytest.mark.parametrize("payload", ["grüße", os.fsdecode(b"\xff\xfe")])
    def test_invoke_when_json_is_asked_then_reply_and_times_are_in_it(
        self, deployed: Command, payload: str
    ) -> None:
        """For programs: text where the reply is some, else base64."""
        ran = deployed("invoke", "calc", "--data", payload, "--json")
        assert _bytes_of(ran.json) == os.fsencode(payload)
        assert (ran.json["failure"], ran.json["timings"]["total_ns"]) == (None, 5_000_000)
        assert ran.json["trace_id"] is None

    @pytest.mark.parametrize(
        ("arguments", "code", "hint"),
        [
            (
                (),
                "unknown-message",
                "hint: name the message type: plexspaces invoke calc --type TYPE\n",
            ),
            (("--type", "greeet"), "unknown-message", ""),
            ((), "no-name", ""),
        ],
    )
    def test_invoke_when_the_actor_misses_a_type_then_the_hint_names_the_flag(
        self,
        deployed: Command,
        fake_node: FakeNode,
        arguments: tuple[str, ...],
        code: str,
        hint: str,
    ) -> None:
        """Only where none was given, and where that is what the actor complains of."""
        fake_node.behave = lambda name, type, payload: ActorFailed("it knows: greet", code=code)
        ran = deployed("invoke", "calc", *arguments)
        assert ran.stderr == f"error: the actor failed ({code}): it knows: greet\n{hint}"

    @pytest.mark.parametrize(
        ("arguments", "until"),
        [((), "the node's limits.message_timeout_s"), (("--timeout", "60"), "60 s")],
    )
    def test_invoke_when_interrupted_then_it_says_that_the_actor_goes_on(
        self, deployed: Command, fake_node: FakeNode, arguments: tuple[str, ...], until: str
    ) -> None:
        """Ctrl-C ends the command, not what the actor has begun."""
        ended = threading.Event()

        def interrupt(name: str, type: str, payload: bytes) -> bytes:
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(10)
            return b""

        fake_node.behave = interrupt
        ran = deployed("invoke", "calc", *arguments)
        ended.set()
        assert (ran.status, ran.stdout) == (130, b"")
        assert ran.stderr == (
            "interrupted: an actor that has started the message finishes it or times out "
            f"({until})\n"
        )

    def test_invoke_when_no_timeout_is_given_then_the_nodes_holds(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """The command names no time of its own, which would hide the node's setting."""
        assert deployed("invoke", "calc").status == 0
        assert fake_node.invokes[0].timeout_ms == 0

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

    def test_application_when_json_is_asked_then_it_is_the_application(
        self, deployed: Command
    ) -> None:
        """A program reads the new state; of what is gone there is only the name."""
        stopped = deployed("stop", "--name", "calc", "--json").json
        assert (stopped["name"], stopped["state"], stopped["vm"]) == ("calc", "Stopped", None)
        started = deployed("start", "--name", "calc", "--json").json
        assert (started["state"], started["vm"]["id"]) == ("Running", "vm-calc-2")
        gone = deployed("undeploy", "--name", "calc", "--json").json
        assert gone == {"name": "calc", "undeployed": True}

    def test_stop_when_the_state_cannot_be_saved_then_only_by_force(
        self, deployed: Command, fake_node: FakeNode
    ) -> None:
        """What is lost is said in either case, and nothing is without having been asked for."""
        fake_node.unsaved = "its state cannot be saved: no space left"
        ran = deployed("stop", "calc")
        assert (ran.status, ran.stdout) == (1, b"")
        assert ran.stderr.startswith("error: its state cannot be saved: no space left\nhint: ")
        assert fake_node.applications["calc"].state is ApplicationState.RUNNING
        ran = deployed("stop", "calc", "--force")
        assert (ran.status, ran.text) == (0, "✓ calc is Stopped\n")
        assert ran.stderr == "its state cannot be saved: no space left\n"

    @pytest.mark.parametrize(("flags", "status"), [((), 1), (("--json",), 1), (("--force",), 0)])
    def test_stop_when_something_is_lost_then_it_is_no_success_unless_it_was_allowed(
        self, deployed: Command, fake_node: FakeNode, flags: tuple[str, ...], status: int
    ) -> None:
        """An agent that does not answer has not saved: scripts must see it."""
        fake_node.lost = "it did not answer: changes since the last snapshot are lost"
        ran = deployed("stop", "calc", *flags)
        assert ran.status == status
        assert "Stopped" in ran.text
        assert fake_node.lost in ran.stderr

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


class TestName:
    """The application's name, which three commands take in two ways."""

    def test_stop_when_named_by_argument_then_as_by_flag(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """Both forms do the same, also together."""
        plexspaces("deploy", "--name", "calc", "--wasm", wasm)
        assert plexspaces("stop", "calc").text == "✓ calc is Stopped\n"
        assert plexspaces("start", "--name", "calc").status == 0
        assert plexspaces("undeploy", "calc", "--name", "calc").status == 0
        assert fake_node.applications == {}

    def test_stop_when_two_names_are_given_then_neither_is_taken(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """What is not clear is asked, before anything is stopped."""
        ran = plexspaces("stop", "one", "--name", "two")
        assert (ran.status, ran.stdout) == (2, b"")
        assert "two different names given" in ran.stderr


class TestTenants:
    """Names with a tenant, in the argument or in the environment."""

    @pytest.mark.parametrize(
        ("tenant", "name", "full"),
        [
            ("", "calc", "calc"),
            ("", "shop/calc", "shop/calc"),
            ("shop", "calc", "shop/calc"),
            ("shop", "rival/calc", "rival/calc"),
            ("default", "calc", "default/calc"),
        ],
    )
    def test_command_when_a_tenant_is_set_then_it_is_that_of_bare_names(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        wasm: Path,
        monkeypatch: pytest.MonkeyPatch,
        tenant: str,
        name: str,
        full: str,
    ) -> None:
        """Of every command alike; a name that says its tenant stays."""
        monkeypatch.setenv("PLEXSPACES_TENANT", tenant)
        assert plexspaces("deploy", "--name", name, "--wasm", wasm).status == 0
        assert full in fake_node.applications
        for command in ("inspect", "stop", "start", "invoke", "undeploy"):
            ended = plexspaces(command, name)
            assert ended.status == 0, (command, ended.stderr)
        assert full not in fake_node.applications

    def test_deploy_when_the_name_is_that_of_the_file_then_in_the_tenant_too(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        wasm: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As for a name that is given."""
        monkeypatch.setenv("PLEXSPACES_TENANT", "shop")
        assert plexspaces("deploy", wasm).status == 0
        assert [name.partition("/")[0] for name in fake_node.applications] == ["shop"]

    def test_deploy_when_the_tenant_is_none_then_refused(
        self, plexspaces: Command, wasm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With what the name became."""
        monkeypatch.setenv("PLEXSPACES_TENANT", "../x")
        ended = plexspaces("deploy", "--name", "calc", "--wasm", wasm)
        assert ended.status == 2
        assert "'../x/calc'" in ended.stderr
