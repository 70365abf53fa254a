"""Secrets and the audit log on the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.command import Command, Terminal
from support.fake_node import WASM, FakeNode

from plexspaces_node.cli import secret as command_module
from plexspaces_node.errors import WrongState

VALUE = "correct horse battery staple"


class TestSet:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (b"value", b"value"),
            (b"value\n", b"value"),
            (b"value\r\n", b"value"),
            (b"value\n\n", b"value\n"),
            (b" a\nb ", b" a\nb "),
        ],
    )
    def test_set_when_on_stdin_then_without_one_line_break(
        self, plexspaces: Command, fake_node: FakeNode, given: bytes, kept: bytes
    ) -> None:
        """As `echo` and editors write it; everything else is the value's."""
        ran = plexspaces("secret", "set", "db", stdin=given)
        assert (ran.status, ran.text) == (0, "✓ Secret db set, version 1\n")
        assert fake_node.secrets.values == {("default", "db"): [kept]}

    def test_set_when_in_a_file_then_that_of_the_tenant(
        self, plexspaces: Command, fake_node: FakeNode, tmp_path: Path
    ) -> None:
        """And stdin is not read."""
        (tmp_path / "value").write_bytes(b"from a file\n")
        wish = ("--file", tmp_path / "value", "--tenant", "shop", "--json")
        ran = plexspaces("secret", "set", "db", *wish, stdin=b"other")
        assert ran.json == {"version": 1, "restarted": {}}
        assert fake_node.secrets.values == {("shop", "db"): [b"from a file"]}

    def test_set_when_on_a_terminal_then_asked_for_and_not_shown(
        self, plexspaces: Command, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the usual function, which turns the echo off."""
        asked: list[str] = []

        def ask(text: str) -> str:
            asked.append(text)
            return VALUE

        monkeypatch.setattr(command_module, "getpass", ask)
        monkeypatch.setattr(sys, "stdin", Terminal())
        assert command_module._value("db", None) == VALUE.encode()
        assert asked == ["Value of db (not shown): "]

    @pytest.mark.parametrize("arguments", [(VALUE,), ("--tenant", "shop", VALUE)])
    def test_set_when_the_value_is_an_argument_then_refused_and_not_repeated(
        self, plexspaces: Command, fake_node: FakeNode, arguments: tuple[str, ...]
    ) -> None:
        """Everybody on the host can see it there; the error must not show it to more."""
        ran = plexspaces("secret", "set", "db", *arguments, stdin=b"x")
        assert ran.status != 0
        assert "not an argument" in ran.stderr
        assert VALUE not in ran.stderr + ran.text
        assert fake_node.calls == []

    @pytest.mark.parametrize("given", [b"", b"\n"])
    def test_set_when_empty_then_refused(
        self, plexspaces: Command, fake_node: FakeNode, given: bytes
    ) -> None:
        """As after a command before the pipe that failed."""
        ran = plexspaces("secret", "set", "db", stdin=given)
        assert ran.status != 0
        assert "empty" in ran.stderr
        assert fake_node.calls == []

    def test_set_when_it_restarts_then_each_application_is_told(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """One that does not run again makes the status one of failure."""
        fake_node.secrets.restarted = {"one": "", "shop/two": "init failed"}
        ran = plexspaces("secret", "set", "db", "--restart", stdin=b"x")
        assert ran.status == 1
        assert ran.text.splitlines()[1:] == [
            "  one: restarted",
            "  shop/two: not running: init failed",
        ]
        fake_node.secrets.restarted = {}
        ran = plexspaces("secret", "set", "db", "--restart", stdin=b"x")
        assert (ran.status, ran.stderr) == (0, "no running application uses it\n")

    def test_tenant_when_the_environment_says_it_then_that_of_names_is_that_of_secrets(
        self, plexspaces: Command, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise a secret would be where the applications of another tenant can have it."""
        monkeypatch.setenv("PLEXSPACES_TENANT", "shop")
        assert plexspaces("secret", "set", "db", stdin=b"x").status == 0
        assert [one["tenant"] for one in plexspaces("secret", "list", "--json").json] == ["shop"]
        use = plexspaces("quota", "set", "in_flight=5", "--json").json
        assert use["subject"] == {"tenant": "shop", "application": ""}
        (asked,) = plexspaces("quota", "show", "--json").json
        assert asked["subject"]["tenant"] == "shop"
        assert plexspaces("audit").status == 0
        assert fake_node.audit.requests[-1].tenant == "shop"

    @pytest.mark.parametrize("name", ["a/b", "../x", "-x", "x y"])
    def test_set_when_the_name_is_none_then_refused_before_anything_is_sent(
        self, plexspaces: Command, fake_node: FakeNode, name: str
    ) -> None:
        """The value with it."""
        ran = plexspaces("secret", "set", "--", name, stdin=VALUE.encode())
        assert ran.status != 0
        assert VALUE not in ran.stderr
        assert fake_node.calls == []


class TestListAndDelete:
    def test_list_when_there_are_some_then_everything_but_values(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """Names, versions, times and users, also as JSON."""
        assert "no secrets" in plexspaces("secret", "list").text
        plexspaces("secret", "set", "db", stdin=VALUE.encode())
        fake_node.secrets.used_by = ("cart", "till")
        lines = plexspaces("secret", "list").text.splitlines()
        assert lines[0].split() == ["NAME", "TENANT", "VERSION", "CHANGED", "USED", "BY"]
        assert lines[1].split() == [
            "db",
            "default",
            "1",
            "2023-11-14T22:13:20.000Z",
            "cart,",
            "till",
        ]
        [one] = plexspaces("secret", "list", "--json").json
        assert (one["name"], one["used_by"]) == ("db", ["cart", "till"])
        assert plexspaces("secret", "list", "--tenant", "shop", "--json").json == []

    def test_delete_when_it_is_used_then_only_by_force_and_with_a_warning(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """The node's refusal is told; a forced one names those that do not start again."""
        plexspaces("secret", "set", "db", stdin=b"x")
        fake_node.fail["DeleteSecret"] = WrongState("secret 'db' is used by cart", hint="force it")
        ran = plexspaces("secret", "delete", "db")
        assert ran.status != 0
        assert "used by cart" in ran.stderr
        fake_node.secrets.used_by = ("cart",)
        ran = plexspaces("secret", "delete", "db", "--force")
        assert (ran.status, ran.text) == (0, "✓ Secret db deleted\n")
        assert "do not start again without it: cart" in ran.stderr


class TestDeploy:
    def test_deploy_when_secrets_are_named_then_their_names_are_sent(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """Beside the variables."""
        wish = ("--env", "A=1", "--secret", "DB_URL=db", "--secret", "KEY=api.key")
        ran = plexspaces("deploy", "--name", "one", "--wasm", wasm, *wish)
        assert ran.status == 0
        [request] = fake_node.deploys
        assert dict(request.env) == {"A": "1"}
        assert dict(request.secrets) == {"DB_URL": "db", "KEY": "api.key"}

    def test_deploy_when_none_is_named_then_those_before_are_taken_away(
        self, plexspaces: Command, fake_node: FakeNode, wasm: Path
    ) -> None:
        """Alone, or beside those that it is to have."""
        for wish, secrets in (((), {}), (("--secret", "A=b"), {"A": "b"})):
            ran = plexspaces(
                *("deploy", "--name", "one", "--wasm", wasm, "--replace", "--secret", "none"), *wish
            )
            assert ran.status == 0
            request = fake_node.deploys[-1]
            assert (request.no_secrets, dict(request.secrets)) == (True, secrets)
        plexspaces("deploy", "--name", "two", "--wasm", wasm, "--secret", "A=b")
        assert not fake_node.deploys[-1].no_secrets

    @pytest.mark.parametrize(
        ("wish", "said"),
        [
            (("--secret", VALUE), "no '='"),
            (("--secret", "DB="), "secret name"),
            (("--secret", "DB=db", "--env", "DB=x"), "a value and a secret"),
        ],
    )
    def test_deploy_when_a_secret_is_named_wrongly_then_refused(
        self,
        plexspaces: Command,
        fake_node: FakeNode,
        wasm: Path,
        wish: tuple[str, ...],
        said: str,
    ) -> None:
        """Before anything is sent, and without what may be a value in the wrong place."""
        ran = plexspaces("deploy", "--name", "one", "--wasm", wasm, *wish)
        assert ran.status != 0
        assert said in ran.stderr
        assert VALUE not in ran.stderr
        assert fake_node.deploys == []

    def test_help_when_read_then_env_says_that_it_is_not_for_secrets(
        self, plexspaces: Command
    ) -> None:
        """In the help of the flag itself."""
        text = " ".join(plexspaces("deploy", "--help").text.replace("│", "").split())
        assert "Not for secrets" in text
        assert len(WASM) > 0


class TestAudit:
    def test_audit_when_read_then_a_line_for_each(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """In words, and as JSON in full; the flags are passed on."""
        lines = plexspaces("audit").text.splitlines()
        assert lines == [
            "2026-11-29T13:00:00.000001Z  ok                 token:ci@10.0.0.7  "
            "ApplicationService/Deploy  shop/cart  in shop  250 ms",
            "2026-11-29T13:00:01.000000Z  unauthenticated    anonymous@unix  "
            "ApplicationService/List  –  17 times  (3 lines before it lost)",
        ]
        ran = plexspaces("audit", "--tail", "1", "--tenant", "shop", "--json")
        assert ran.json["count"] == 17
        request = fake_node.audit.requests[-1]
        assert (request.tail, request.tenant, request.follow) == (1, "shop", False)


class TestPassphrase:
    def test_start_when_the_descriptor_is_not_open_then_said(self, command: Command) -> None:
        """Before anything of a node is made."""
        ran = command("start-node", "--passphrase-fd", "987")
        assert ran.status != 0
        assert "file descriptor 987" in ran.stderr

    def test_passphrase_when_in_a_descriptor_then_without_its_line_break(self) -> None:
        """As a shell's `3< FILE` gives it."""
        read, write = os.pipe()
        os.write(write, b"many words\n")
        os.close(write)
        from plexspaces_node.cli.node import _passphrase  # noqa: PLC0415
        from plexspaces_node.config import ConfigBootstrap  # noqa: PLC0415

        assert _passphrase(ConfigBootstrap.load(environ={}), read) == "many words"
