"""The shelves: records that check themselves, the table of states, the pinned runtime."""

from __future__ import annotations

import pytest

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import (
    APPLICATION_TRANSITIONS,
    ENVIRONMENT_LIMIT_BYTES,
    ApplicationSpec,
    ApplicationState,
    ArtifactKind,
    VmConfig,
    artifact_name,
    check_full_name,
    check_name,
    file_name,
    full_name,
    host_name,
    split_name,
)

DIGEST = "0" * 64


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 63, "x1-y2"])
def test_name_within_the_rule_is_taken(name: str) -> None:
    """Names are DNS labels."""
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "../x", "ä", "a" * 64, "a\n"])
def test_name_outside_the_rule_is_refused_with_the_value(name: str) -> None:
    """A name becomes a path and a socket, so nothing else passes."""
    with pytest.raises(InvalidArgument) as caught:
        check_name(name)
    assert repr(name) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("full", "tenant", "name"),
    [
        ("cart", "default", "cart"),
        ("shop/cart", "shop", "cart"),
        ("default/cart", "default", "cart"),
    ],
)
def test_full_name_when_split_then_its_tenant_and_its_name(
    full: str, tenant: str, name: str
) -> None:
    """A name without a tenant is one of `default`, and is written without it."""
    check_full_name(full)
    assert split_name(full) == (tenant, name)
    assert full_name(tenant, name) == full.removeprefix("default/")


@pytest.mark.parametrize(
    "full", ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a/B", "A/b", "a%2fb", "a//b", "a\\b"]
)
def test_full_name_outside_the_rule_is_refused(full: str) -> None:
    """No name leads out of its tenant."""
    with pytest.raises(InvalidArgument):
        check_full_name(full)


@pytest.mark.parametrize("before", ["rival/", "default/", "../", "a/b/", " ", "F"])
def test_digest_when_something_is_before_it_then_it_names_no_artifact(before: str) -> None:
    """Not that of another tenant either, for whom `default` is written without a name."""
    digest = "0" * 64
    assert artifact_name("default", digest) == digest
    assert artifact_name("shop", digest) == f"shop/{digest}"
    for tenant in ("default", "shop"):
        with pytest.raises(InvalidArgument):
            artifact_name(tenant, before + digest)


@pytest.mark.parametrize(
    ("full", "file", "host"),
    [
        ("cart", "cart", "cart"),
        ("shop/cart", "shop~cart", "cart.shop"),
        ("../x", "..~x", "x..."),
        ("a/../../x", "a~..~..~x", "../../x.a"),
    ],
)
def test_full_name_when_on_disk_then_one_segment(full: str, file: str, host: str) -> None:
    """Also one that was not checked, which is nobody's host."""
    assert (file_name(full), host_name(full)) == (file, host)


@pytest.mark.parametrize(("vcpus", "memory_mib"), [(0, 256), (-1, 256), (1, 0), (1, -5)])
def test_machine_of_no_size_is_refused(vcpus: int, memory_mib: int) -> None:
    """A machine has at least one CPU and some memory."""
    with pytest.raises(InvalidArgument, match=r"-?\d"):
        VmConfig(vcpus, memory_mib)


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": "abc"},
        {"digest": "G" * 64},
        {"version": ""},
        {"version": "a b"},
        {"env": {"1A": "x"}},
        {"env": {"A": "x\0y"}},
        {"env": {"A": "\udcff"}},
        {"env": {"A=": "x"}},
        {"env": {"A\0": "x"}},
        {"env": {"A" * 256: "x"}},
        {"env": {"PLEXSPACES_MESSAGE_TYPE": "x"}},
        {"args": ("x\0y",)},
        {"args": ("\udcff",)},
        {"concurrency": -1},
        {"concurrency": 1025},
        {"name": "No"},
    ],
)
def test_spec_with_a_wrong_part_is_refused(wrong: dict[str, object]) -> None:
    """An application that cannot be is never made."""
    good: dict[str, object] = {"name": "a", "digest": DIGEST}
    with pytest.raises(InvalidArgument):
        ApplicationSpec(**(good | wrong))  # type: ignore[arg-type]


def test_spec_with_a_trace_of_its_own_is_taken() -> None:
    """A program may have been given a TRACEPARENT long before the platform set one."""
    spec = ApplicationSpec(name="a", digest=DIGEST, env={"TRACEPARENT": "mine"})
    assert spec.env == {"TRACEPARENT": "mine"}


@pytest.mark.parametrize(
    "spoken",
    [
        {"env": {"A": "ä" * 65_536}},
        {"env": {f"N{number}": "x" * 100 for number in range(1300)}},
        {"args": ("x" * 131_072,)},
        {"args": ("",) * 131_073},
        {"env": {"A": "x" * 70_000}, "args": ("x" * 70_000,)},
    ],
)
def test_spec_with_more_than_a_load_can_carry_is_refused_with_the_limit(
    spoken: dict[str, object],
) -> None:
    """What was deployed can be started again: one bound for all that a load says, in bytes."""
    with pytest.raises(InvalidArgument, match=f"limit of {ENVIRONMENT_LIMIT_BYTES}") as caught:
        ApplicationSpec("a", DIGEST, **spoken)  # type: ignore[arg-type]
    assert "xxx" not in caught.value.message
    assert caught.value.hint


def test_spec_with_as_much_as_a_load_can_carry_is_taken() -> None:
    """The limit itself is allowed."""
    ApplicationSpec("a", DIGEST, env={"A": "x" * 65_535}, args=("x" * 65_535,))


@pytest.mark.parametrize("spoken", [{"args": ("-l",)}, {"concurrency": 2}])
def test_spec_of_a_command_is_refused_for_an_actor(spoken: dict[str, object]) -> None:
    """An actor has no arguments and one message at a time; a command of either form has both."""
    spec = ApplicationSpec("a", DIGEST, **spoken)  # type: ignore[arg-type]
    spec.check_kind(ArtifactKind.COMMAND)
    spec.check_kind(ArtifactKind.COMMAND_COMPONENT)
    spec.check_kind(ArtifactKind.HTTP_COMPONENT)
    with pytest.raises(InvalidArgument, match="'a' is an actor") as caught:
        spec.check_kind(ArtifactKind.ACTOR)
    assert caught.value.hint
    ApplicationSpec("a", DIGEST, concurrency=1).check_kind(ArtifactKind.ACTOR)


def test_every_state_has_its_moves_and_can_reach_stopped() -> None:
    """The table is whole, and nothing gets stuck."""
    assert set(APPLICATION_TRANSITIONS) == set(ApplicationState)
    for state in ApplicationState:
        seen = {state}
        while new := {m for s in seen for m in APPLICATION_TRANSITIONS[s]} - seen:
            seen |= new
        assert ApplicationState.STOPPED in seen
