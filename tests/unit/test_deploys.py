"""The row of an application that is deployed, and of its next version."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.records import record_of as row_of

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import (
    HTTP_CONCURRENCY,
    ApplicationSpec,
    ArtifactKind,
    Language,
    VmConfig,
)
from plexspaces_node.node.applications.requests import DeployRequest, next_record, record_of

ACTOR, COMMAND, COMPONENT, HTTP = ArtifactKind
BEFORE = row_of("app", kind=COMMAND, env={"A": "1"}, args=("-l",), concurrency=3)


def request(**wish: Any) -> DeployRequest:
    """Ask for the application in this form."""
    return DeployRequest(ApplicationSpec("app", "cd" * 32, **wish), replace=True)


def compiled(kind: ArtifactKind) -> Any:
    """Return an artifact of this kind."""
    return SimpleNamespace(report=SimpleNamespace(kind=kind, language=Language.RUST))


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ({}, ({"A": "1"}, ("-l",), 3)),
        ({"env": {"B": "2"}}, ({"B": "2"}, ("-l",), 3)),
        ({"args": ("-c", "")}, ({"A": "1"}, ("-c", ""), 3)),
        ({"concurrency": 1}, ({"A": "1"}, ("-l",), 1)),
    ],
)
def test_next_version_when_it_does_not_say_then_it_keeps(wish: Any, kept: object) -> None:
    """Variables, arguments and concurrency stay until others are named."""
    record = next_record(BEFORE, request(**wish), compiled(COMPONENT))
    assert (record.env, record.args, record.concurrency) == kept
    assert (record.id, record.generation) == (BEFORE.id, BEFORE.generation + 1)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("wish", [None, False, True])
def test_next_version_when_it_does_not_say_whether_it_is_public_then_as_before(
    before: bool, wish: bool | None
) -> None:
    """Only who says so opens an application, or closes it."""
    record = next_record(replace(BEFORE, public=before), request(public=wish), compiled(ACTOR))
    assert record.public is (before if wish is None else wish)


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ((), ("api.example.com",)),
        (("B.example.com.:0443", "b.example.com:443"), ("b.example.com:443",)),
        (("none",), ()),
    ],
)
def test_next_version_when_it_names_no_hosts_then_it_keeps_those_before(
    wish: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    """What an application may call stays as it is until somebody says otherwise, or none."""
    before = replace(BEFORE, allow_hosts=("api.example.com",))
    assert next_record(before, request(allow_hosts=wish), compiled(ACTOR)).allow_hosts == kept


@pytest.mark.parametrize(
    ("wish", "env", "secrets"),
    [
        ({}, {"A": "1", "B": "2"}, {"DB": "db"}),
        ({"secrets": {"A": "a"}}, {"B": "2"}, {"A": "a"}),
        ({"env": {"DB": "x"}}, {"DB": "x"}, {}),
        ({"env": {"C": "3"}}, {"C": "3"}, {"DB": "db"}),
    ],
)
def test_next_version_when_a_variable_becomes_a_secret_then_its_value_goes(
    wish: Any, env: object, secrets: object
) -> None:
    """Secrets are kept as variables are; a variable that is asked for as the other kind is that."""
    before = replace(BEFORE, env={"A": "1", "B": "2"}, secrets={"DB": "db"})
    record = next_record(before, request(**wish), compiled(ACTOR))
    assert (record.env, record.secrets) == (env, secrets)


def test_next_version_when_it_is_to_keep_no_secrets_then_only_its_own() -> None:
    """So that a secret that is not needed any more can be deleted."""
    before = replace(BEFORE, secrets={"DB": "db", "KEY": "key"})
    for secrets in ({}, {"KEY": "other"}):
        asked = replace(request(secrets=secrets), no_secrets=True)
        assert next_record(before, asked, compiled(ACTOR)).secrets == secrets


def test_next_version_when_it_is_an_actor_then_what_only_a_command_has_goes() -> None:
    """An actor in place of a command is no error for what the command was given."""
    record = next_record(BEFORE, request(), compiled(ACTOR))
    assert (record.env, record.args, record.concurrency) == ({"A": "1"}, (), 0)


def test_next_version_when_what_is_kept_and_what_is_new_are_too_long_then_invalid_argument() -> (
    None
):
    """The bound is that of what a machine is given, not of what a request says."""
    before = row_of("app", kind=COMMAND, env={"A": "1" * 70_000})
    with pytest.raises(InvalidArgument, match="exceed the limit of 131072"):
        next_record(before, request(args=("a" * 70_000,)), compiled(COMMAND))


@pytest.mark.parametrize("wish", [{"args": ("-l",)}, {"concurrency": 2}])
def test_deploy_when_an_actor_is_given_what_only_a_command_takes_then_invalid_argument(
    wish: Any,
) -> None:
    """It is told before anything is stopped or started."""
    with pytest.raises(InvalidArgument, match="is an actor"):
        record_of(request(**wish), compiled(ACTOR))
    with pytest.raises(InvalidArgument, match="is an actor"):
        next_record(BEFORE, request(**wish), compiled(ACTOR))


@pytest.mark.parametrize(
    ("kind", "said", "at_once"),
    [
        *((COMMAND, 0, 2), (COMPONENT, 0, 2), (COMMAND, 5, 5)),
        *((HTTP, 0, HTTP_CONCURRENCY), (HTTP, 3, 3), (ACTOR, 0, 1), (ACTOR, 1, 1)),
    ],
)
def test_concurrency_when_it_is_not_said_then_it_is_the_default_of_the_kind(
    kind: ArtifactKind, said: int, at_once: int
) -> None:
    """A command as many as virtual CPUs, unless another number was given; an actor one."""
    record = record_of(request(concurrency=said, vm_config=VmConfig(2, 64)), compiled(kind))
    assert record.at_once == at_once
