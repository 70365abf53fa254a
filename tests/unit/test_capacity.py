"""What a node has room for: a bound holds however many ask at once, and is free after a failure."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.model import VmConfig
from plexspaces_node.node.applications.capacity import Bounds, Capacity, Held
from plexspaces_node.quota import Key, Subject


class Node:
    """What a node has."""

    def __init__(
        self, *, applications: int = 3, empty_vms: int = 2, memory_mib: int = 1000
    ) -> None:
        self.applications: dict[str, int] = {}
        self.vcpus: dict[str, int] = {}
        self.quotas: dict[tuple[Subject, Key], int] = {}
        self.empty_vms: dict[str, int] = {}
        bounds = Bounds(applications, empty_vms, memory_mib)
        self.capacity = Capacity(
            bounds,
            lambda: Held(self.applications, self.empty_vms, self.vcpus),
            lambda subject, key: self.quotas.get((subject, key), 0),
        )


def test_applications_when_they_are_being_made_then_they_count() -> None:
    """The one too many is refused before any is there, and taken once another has failed."""
    node = Node(applications=2)
    node.applications["there"] = 0
    with node.capacity.for_application("made", VmConfig(memory_mib=100)):
        with (
            pytest.raises(ResourceExhausted, match="has 2 applications") as caught,
            node.capacity.for_application("more", VmConfig(memory_mib=100)),
        ):
            pass
        assert "[limits] applications" in (caught.value.hint or "")
        # It is there now, and does not count twice.
        node.applications["made"] = 100
        assert len(node.applications) == 2
    del node.applications["made"]
    with node.capacity.for_application("more", VmConfig(memory_mib=100)):
        pass


def test_empty_vms_when_they_are_being_made_then_they_count() -> None:
    """Empty machines have a bound of their own."""
    node = Node(empty_vms=2)
    node.empty_vms["there"] = 64
    with node.capacity.for_empty_vm("made", 64):
        with (
            pytest.raises(ResourceExhausted, match="has 2 empty VMs") as caught,
            node.capacity.for_empty_vm("more", 64),
        ):
            pass
        assert "[limits] empty_vms" in (caught.value.hint or "")
        with node.capacity.for_application("app", VmConfig(memory_mib=64)):
            pass


def test_memory_when_it_is_promised_then_it_counts_for_both_kinds_together() -> None:
    """What runs, what is empty and what is being made has to fit into one number."""
    node = Node(memory_mib=1000)
    node.applications |= {"runs": 300, "stopped": 0}
    node.empty_vms["empty"] = 300
    with node.capacity.for_application("made", VmConfig(memory_mib=300)):
        with (
            pytest.raises(ResourceExhausted, match="101 MiB more would exceed") as caught,
            node.capacity.for_empty_vm("more", 101),
        ):
            pass
        assert "[limits] memory_mib" in (caught.value.hint or "")
        with node.capacity.for_application("stopped", VmConfig(memory_mib=100)):
            pass


def test_memory_when_an_application_takes_an_empty_machine_then_it_counts_once() -> None:
    """The machine is there already, whatever size the deploy names."""
    node = Node(memory_mib=500)
    node.empty_vms["vm"] = 400
    with node.capacity.for_application("app", VmConfig(memory_mib=10), vm_id="vm"):
        del node.empty_vms["vm"]
        with (
            pytest.raises(ResourceExhausted, match="MiB more would exceed this node"),
            node.capacity.for_application("other", VmConfig(memory_mib=101)),
        ):
            pass
        node.applications["app"] = 400
        with node.capacity.for_application("other", VmConfig(memory_mib=100)):
            pass


def test_memory_when_a_version_takes_no_more_than_the_one_before_then_it_passes() -> None:
    """A bound that was lowered keeps nobody from replacing what there is."""
    node = Node(memory_mib=200)
    node.applications |= {"one": 300, "two": 300}
    with (
        node.capacity.for_application("one", VmConfig(memory_mib=300)),
        node.capacity.for_application("two", VmConfig(memory_mib=200)),
    ):
        pass
    with (
        pytest.raises(ResourceExhausted, match="1 MiB more would exceed"),
        node.capacity.for_application("one", VmConfig(memory_mib=301)),
    ):
        pass


def test_claims_when_many_end_in_any_order_then_nothing_is_left() -> None:
    """What was kept for one is free for the next, however the one ended."""
    node = Node(applications=3, memory_mib=300)
    for _ in range(3):
        with ExitStack() as stack:
            for name in ("a", "b", "c"):
                stack.enter_context(node.capacity.for_application(name, VmConfig(memory_mib=100)))
            with pytest.raises(ResourceExhausted):
                stack.enter_context(node.capacity.for_application("d", VmConfig(memory_mib=1)))


@pytest.mark.parametrize(
    ("subject", "key", "limit", "why"),
    [
        (Subject("shop"), Key.APPLICATIONS, 1, "has 1 and would have 2"),
        (Subject("shop"), Key.MEMORY_MIB, 350, "has 200 MiB and would have 400 MiB"),
        (Subject("shop"), Key.VCPUS, 3, "has 2 and would have 4"),
        (Subject("shop", "stock"), Key.MEMORY_MIB, 128, "has 0 B and would have 200 MiB"),
    ],
)
def test_quota_when_one_more_would_exceed_it_then_refused_with_whose_and_how_much(
    subject: Subject, key: Key, limit: int, why: str
) -> None:
    """What is being made counts; another tenant is not touched by it."""
    node = Node(applications=9, memory_mib=10_000)
    node.quotas[subject, key] = limit
    size = VmConfig(vcpus=2, memory_mib=200)
    with node.capacity.for_application("shop/cart", size):
        with (
            pytest.raises(ResourceExhausted, match=why) as caught,
            node.capacity.for_application("shop/stock", size),
        ):
            pass
        assert f"{subject} has reached its quota {key}={limit}" in caught.value.message
        assert f"quota show {subject.flags}" in (caught.value.hint or "")
        with node.capacity.for_application("stock", size):
            pass


def test_quota_when_it_was_lowered_then_what_there_is_can_be_replaced_and_started() -> None:
    """Only what grows is refused: a version of the same size takes the place of the one before."""
    node = Node(applications=9, memory_mib=10_000)
    node.applications |= {"shop/cart": 200, "shop/stock": 0}
    node.quotas[Subject("shop"), Key.APPLICATIONS] = 1
    node.quotas[Subject("shop"), Key.MEMORY_MIB] = 100
    with node.capacity.for_application("shop/cart", VmConfig(memory_mib=200)):
        pass
    with (
        pytest.raises(ResourceExhausted, match="memory_mib=100"),
        node.capacity.for_application("shop/stock", VmConfig(memory_mib=64)),
    ):
        pass


def test_artifacts_when_several_are_deployed_at_once_then_the_later_know_the_earlier() -> None:
    """Of the same tenant, and without the application's own."""
    node, size = Node(), VmConfig(memory_mib=1)
    with (
        node.capacity.for_application("shop/cart", size, artifact="a") as first,
        node.capacity.for_application("shop/stock", size, artifact="b") as second,
        node.capacity.for_application("cart", size, artifact="c") as third,
    ):
        assert [set(one) for one in (first, second, third)] == [set(), {"a"}, set()]
