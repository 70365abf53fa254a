"""Quotas: how they are written, what they count, whom they refuse and what the refusal says."""

from __future__ import annotations

import asyncio
import os
import shutil
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_driver import FakeDriver
from support.records import record_of

from plexspaces_node.errors import InvalidArgument, ResourceExhausted
from plexspaces_node.model import VmConfig
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.node.applications.quotas import Gate, Quotas, TokenBucket
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.shares import Shares
from plexspaces_node.node.outgoing.call import CallFailed, Code
from plexspaces_node.node.outgoing.outgoing import MOST_OF_TENANT
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.quota import Key, Subject, key_of, parsed, shown
from plexspaces_node.tasks import called_back
from plexspaces_node.vm.host.cgroups import NodeCgroups

SHOP = Subject("shop")
CART = Subject("shop", "cart")
S = 1_000_000_000


class Clock:
    """A clock that only the test moves, in nanoseconds."""

    def __init__(self) -> None:
        self.now = 5 * S

    def __call__(self) -> int:
        return self.now


class TestValues:
    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [
            (Key.MEMORY_MIB, "2048", 2048),
            (Key.MEMORY_MIB, "2GiB", 2048),
            (Key.MEMORY_MIB, "1.5 GiB", 1536),
            (Key.MEMORY_MIB, "1", 1),
            (Key.ARTIFACT_BYTES, "10MiB", 10 * 2**20),
            (Key.KEYVALUE_BYTES, "1GB", 10**9),
            (Key.LOG_BYTES, "4096", 4096),
            (Key.CPU_PERCENT, "50%", 50),
            (Key.MESSAGES_PER_S, "100", 100),
            (Key.MESSAGES_PER_S, "none", 0),
        ],
    )
    def test_value_when_written_then_read(self, key: Key, text: str, value: int) -> None:
        """Numbers as they are, bytes with their units, and none."""
        assert parsed(key, text) == value

    @pytest.mark.parametrize(
        ("key", "text"),
        [
            (Key.MEMORY_MIB, "2 parsecs"),
            (Key.MESSAGES_PER_S, "10MiB"),
            (Key.MESSAGES_PER_S, "1.5"),
            (Key.MESSAGES_PER_S, "-1"),
            (Key.LOG_BYTES, "100"),
            (Key.OUTGOING_BYTES, "1"),
            (Key.IN_FLIGHT, str(2**60)),
            (Key.IN_FLIGHT, "9" * 5000),
            (Key.LOG_BYTES, "9" * 400 + ".5"),
            (Key.APPLICATIONS, ""),
            (Key.APPLICATIONS, "0"),
            (Key.MEMORY_MIB, "0 GiB"),
        ],
    )
    def test_value_when_it_means_nothing_then_invalid_with_an_example(
        self, key: Key, text: str
    ) -> None:
        """The hint has a value that works."""
        with pytest.raises(InvalidArgument) as caught:
            parsed(key, text)
        assert f"{key}=" in (caught.value.hint or "")

    def test_key_when_unknown_then_every_key_is_named(self) -> None:
        """A typing error is answered with what there is."""
        with pytest.raises(InvalidArgument, match="no quota 'memory'") as caught:
            key_of("memory")
        assert "memory_mib" in (caught.value.hint or "")

    def test_shown_when_bytes_then_with_a_unit(self) -> None:
        """People read units."""
        assert shown(Key.MEMORY_MIB, 2048) == "2 GiB"
        assert shown(Key.LOG_BYTES, 512) == "512 B"
        assert shown(Key.CPU_PERCENT, 50) == "50 %"
        assert shown(Key.IN_FLIGHT, 7) == "7"


class TestTokenBucket:
    def test_burst_when_it_is_used_up_then_the_wait_is_exact(self) -> None:
        """One second's worth at once, then each token when it is due, to the nanosecond."""
        now = 5 * S
        bucket = TokenBucket(10, now)
        for _ in range(10):
            assert bucket.wait_ns(now) == 0
            bucket.take(now)
        assert bucket.used(now) == 10
        wait = bucket.wait_ns(now)
        assert 0 < wait <= S // 10 + 1
        assert bucket.wait_ns(now + wait - 2) > 0
        assert bucket.wait_ns(now + wait) == 0

    def test_rate_when_asked_for_long_then_it_holds(self) -> None:
        """In ten seconds: the burst and ten seconds' worth, not more."""
        bucket, taken = TokenBucket(7, 0), 0
        for now in range(0, 10 * S, S // 100):
            if not bucket.wait_ns(now):
                bucket.take(now)
                taken += 1
        assert 75 <= taken <= 78

    def test_spend_when_more_than_there_is_then_the_pause_pays_it_back(self) -> None:
        """A large piece is paid for afterwards."""
        bucket = TokenBucket(1000, 0)
        assert bucket.spend(1000, 0) == 0
        assert bucket.spend(500, 0) == pytest.approx(0.5)


def refused(gate: Gate) -> ResourceExhausted:
    """Return the error of a message that is not admitted."""
    refusal = gate.admit()
    assert refusal is not None
    return refusal.error()


class TestGate:
    def test_gate_when_there_are_no_quotas_then_open(self) -> None:
        """Nothing is counted for an application without quotas."""
        gate = Quotas().gate("cart")
        assert gate.is_open
        assert gate.admit() is None

    def test_messages_when_over_the_rate_then_says_whose_quota_and_when_to_come_back(self) -> None:
        """The time is the one after which a message is admitted."""
        clock = Clock()
        quotas = Quotas(clock=clock)
        gate = quotas.gate("shop/cart")
        quotas.change(SHOP, {Key.MESSAGES_PER_S: 2})
        assert [gate.admit(), gate.admit()] == [None, None]
        error = refused(gate)
        assert "tenant 'shop' has reached its quota messages_per_s=2" in error.message
        assert "come back in 501 ms" in error.message or "in 500 ms" in error.message
        assert error.hint == "plexspaces quota show --tenant shop"
        after_s = error.retry_after_s
        assert after_s == pytest.approx(0.5)
        assert after_s is not None
        clock.now += int(after_s * S) + 1
        assert gate.admit() is None

    def test_messages_when_one_of_two_quotas_is_used_up_then_the_other_is_not_charged(self) -> None:
        """A refused message costs no token of the tenant."""
        clock = Clock()
        quotas = Quotas(
            {SHOP: {Key.MESSAGES_PER_S: 10}, CART: {Key.MESSAGES_PER_S: 1}}, clock=clock
        )
        gate = quotas.gate("shop/cart")
        assert gate.admit() is None
        for _ in range(50):
            assert "application 'shop/cart'" in refused(gate).message
        bucket = quotas.meter(SHOP).messages
        assert bucket is not None
        assert bucket.used(clock()) == 1

    def test_tenant_when_its_applications_share_a_quota_then_others_are_untouched(self) -> None:
        """Both applications of the tenant use one bucket; another tenant has its own."""
        quotas = Quotas({SHOP: {Key.MESSAGES_PER_S: 2}}, clock=Clock())
        assert quotas.gate("shop/cart").admit() is None
        assert quotas.gate("shop/stock").admit() is None
        refused(quotas.gate("shop/cart"))
        assert quotas.gate("cart").admit() is None

    def test_in_flight_when_reached_then_refused_until_one_is_answered(self) -> None:
        """The number is asked for, so that a quota set meanwhile counts what is in flight."""
        flying = {CART: 3, SHOP: 4}
        quotas = Quotas()
        quotas.in_flight = flying.__getitem__
        gate = quotas.gate("shop/cart")
        quotas.change(SHOP, {Key.IN_FLIGHT: 4})
        error = refused(gate)
        assert "in_flight=4: 4 are in flight" in error.message
        assert error.retry_after_s is None
        flying[SHOP] = 3
        assert gate.admit() is None

    def test_in_flight_when_far_from_it_then_not_counted_for_each_message(self) -> None:
        """All applications of a tenant are asked; never more are admitted than may be."""
        asked: list[int] = []
        flying = 0

        def count(_: Subject) -> int:
            asked.append(flying)
            return flying

        quotas = Quotas({SHOP: {Key.IN_FLIGHT: 100}})
        quotas.in_flight = count
        gates = [quotas.gate("shop/cart"), quotas.gate("shop/stock")]
        for number in range(100):
            assert gates[number % 2].admit() is None
            flying += 1
        assert asked == [0]
        for gate in gates:
            refused(gate)
        flying -= 30
        for number in range(30):
            assert gates[number % 2].admit() is None
            flying += 1
        assert asked == [0, 100, 100, 70]
        refused(gates[0])
        # What is admitted while there is none is not counted.
        quotas.change(SHOP, {Key.IN_FLIGHT: 0})
        flying = 150
        quotas.change(SHOP, {Key.IN_FLIGHT: 120})
        refused(gates[1])

    def test_quota_when_removed_then_the_gate_is_open(self) -> None:
        """None is as if there had never been one."""
        quotas = Quotas({CART: {Key.MESSAGES_PER_S: 1}})
        gate = quotas.gate("shop/cart")
        assert not gate.is_open
        quotas.change(CART, {Key.MESSAGES_PER_S: 0})
        assert gate.is_open
        assert quotas.limits(CART) == {}

    def test_outgoing_calls_when_at_the_quota_then_one_more_fails_and_an_end_makes_room(
        self,
    ) -> None:
        """The application is told the quota; other calls are not ended."""
        quotas = Quotas({SHOP: {Key.OUTGOING_CALLS: 1}})
        quotas.gate("shop/cart").begin_call()
        with pytest.raises(CallFailed, match="outgoing_calls=1"):
            quotas.gate("shop/stock").begin_call()
        quotas.gate("shop/cart").end_call()
        quotas.gate("shop/stock").begin_call()
        assert quotas.meter(Subject("shop", "cart")).calls == 0

    def test_outgoing_calls_when_a_tenant_has_most_of_the_nodes_then_no_more(self) -> None:
        """Without a quota too: the rest is for others."""
        quotas = Quotas()
        gates = [quotas.gate(f"shop/cart-{number}") for number in range(4)]
        for number in range(MOST_OF_TENANT):
            gates[number % 4].begin_call()
        with pytest.raises(CallFailed, match="192 HTTP requests of tenant 'shop'") as refused:
            gates[0].begin_call()
        assert refused.value.code is Code.CONNECTION_LIMIT_REACHED
        quotas.gate("rival/till").begin_call()
        gates[0].end_call()
        gates[1].begin_call()

    def test_log_bytes_when_the_tenant_has_several_applications_then_they_share(self) -> None:
        """A tenant's bound is divided; the node's and the application's own bounds hold too."""
        quotas = Quotas({SHOP: {Key.LOG_BYTES: 100_000}, CART: {Key.LOG_BYTES: 20_000}})
        assert quotas.log_bytes("shop/stock", beside=2, most=2_000_000) == 50_000
        assert quotas.log_bytes("shop/cart", beside=2, most=2_000_000) == 20_000
        assert quotas.log_bytes("shop/stock", beside=2, most=10_000) == 10_000
        assert quotas.log_bytes("cart", beside=2, most=2_000_000) == 2_000_000


class TestRefusals:
    @pytest.mark.virtual_time
    async def test_refusals_when_somebody_comes_back_at_once_then_as_often_as_they_may_send(
        self,
    ) -> None:
        """Of eight callers that never wait, about as many messages are refused as admitted."""
        loop = asyncio.get_running_loop()
        quotas = Quotas({SHOP: {Key.MESSAGES_PER_S: 50}}, clock=lambda: int(loop.time() * S))
        gate, counts = quotas.gate("shop/cart"), [0, 0]
        end = loop.time() + 10

        async def call() -> None:
            while loop.time() < end:
                refusal = gate.admit()
                if refusal is None:
                    counts[0] += 1
                    await asyncio.sleep(0.001)
                    continue
                counts[1] += 1
                with pytest.raises(ResourceExhausted):
                    await called_back(partial(refusal.tell, size=10))

        await asyncio.gather(*(call() for _ in range(8)))
        assert 500 <= counts[0] <= 560
        assert counts[1] <= 600
        assert quotas.meter(SHOP).held == 0

    @pytest.mark.virtual_time
    async def test_refusal_when_its_sender_leaves_or_it_is_long_then_it_is_not_held(self) -> None:
        """Neither keeps a place among those that are held, nor the memory of a payload."""
        quotas = Quotas({CART: {Key.MESSAGES_PER_S: 1}})
        gate, told = quotas.gate("shop/cart"), list[ResourceExhausted]()
        assert gate.admit() is None
        refusals = [gate.admit() for _ in range(4)]
        assert all(refusals)
        first, second, long, left = (one for one in refusals if one is not None)
        with pytest.raises(ResourceExhausted):
            first.tell(told.append, size=10)
        second.tell(told.append, size=10)
        with pytest.raises(ResourceExhausted):
            long.tell(told.append, size=1 << 20)
        leave = left.tell(told.append, size=10)
        assert quotas.meter(SHOP).held == 2
        leave()
        leave()
        assert quotas.meter(SHOP).held == 1
        await asyncio.sleep(2)
        assert len(told) == 1
        assert quotas.meter(SHOP).held == 0


class TestRows:
    async def test_quotas_when_the_registry_is_reopened_then_they_are_there(
        self, tmp_path: Path
    ) -> None:
        """Set, changed and removed quotas survive the node."""
        path = tmp_path / "registry.db"
        async with Registry.open(path) as registry:
            await registry.quotas.store(SHOP, {Key.VCPUS: 4, Key.IN_FLIGHT: 9})
            await registry.quotas.store(CART, {Key.VCPUS: 1})
            await registry.quotas.store(SHOP, {Key.VCPUS: 2, Key.IN_FLIGHT: 0})
        async with Registry.open(path) as registry:
            assert await registry.quotas.load() == {SHOP: {Key.VCPUS: 2}, CART: {Key.VCPUS: 1}}

    async def test_keys_when_at_a_quota_then_refused_and_changing_one_is_not(
        self, tmp_path: Path
    ) -> None:
        """By number of keys of the application, and by bytes of the whole tenant."""
        quotas = Quotas({CART: {Key.KEYVALUE_KEYS: 1}, SHOP: {Key.KEYVALUE_BYTES: 300}})
        async with Registry.open(tmp_path / "registry.db") as registry:
            for name in ("shop/cart", "shop/stock", "cart"):
                await registry.insert_application(record_of(name, id=name))
            cart, stock = quotas.store_bound("shop/cart"), quotas.store_bound("shop/stock")
            await registry.kv_put("shop/cart", "a", b"1" * 100, cart)
            with pytest.raises(ResourceExhausted, match="keyvalue_keys=1"):
                await registry.kv_put("shop/cart", "b", b"", cart)
            await registry.kv_put("shop/cart", "a", b"2" * 100, cart)
            with pytest.raises(ResourceExhausted, match=r"tenant 'shop'.*keyvalue_bytes=300"):
                await registry.kv_put("shop/stock", "a", b"1" * 200, stock)
            await registry.kv_put("shop/stock", "a", b"1" * 50, stock)
            assert quotas.store_bound("cart") is None
            await registry.kv_put("cart", "a", b"1" * 500)
            tenant, each = await registry.quotas.stores("shop", ("shop/cart", "shop/stock"))
            assert tenant.keys == 2
            assert [use.keys for use in each] == [1, 1]
            await registry.kv_delete("shop/cart", "a")
            await registry.kv_delete("shop/cart", "a")
            assert (await registry.quotas.stores("shop", ("shop/cart",)))[1][0].keys == 0
            default, _ = await registry.quotas.stores("default", ())
            assert default.keys == 1


def test_upload_when_no_deploy_could_have_it_then_refused() -> None:
    """Before its bytes are sent; of one tenant only."""
    quotas = Quotas({SHOP: {Key.ARTIFACT_BYTES: 1000}})
    node: Any = SimpleNamespace(quotas=quotas)
    upkeep = QuotaUpkeep(node, Roster())
    upkeep.check_upload("shop", 1000)
    upkeep.check_upload("*", 1001)
    with pytest.raises(ResourceExhausted, match="artifact_bytes=1000"):
        upkeep.check_upload("shop", 1001)


class SlowGroups(NodeCgroups):
    """Groups that are made only once a test says so."""

    began, go_on, left = Event(), Event(), Event()

    def enter(self, *wanted: Any) -> None:
        self.began.set()
        self.go_on.wait()
        super().enter(*wanted)

    def leave(self, tenant: str, group: str) -> bool:
        self.left.set()
        return super().leave(tenant, group)


class TestShares:
    async def test_shares_when_there_are_no_cgroups_then_said_and_nothing_done(self) -> None:
        """The reason is what listings show."""
        shares = Shares(note="this host uses cgroup v1")
        can = FakeDriver().capabilities
        assert await shares.enter("cart", "app-1", 1, VmConfig(), can) == "this host uses cgroup v1"
        await shares.leave("cart")
        assert not shares.enforced

    async def test_shares_when_a_quota_changes_then_the_groups_follow(self, tmp_path: Path) -> None:
        """A tenant's and an application's, while they run and when they start."""
        quotas = Quotas({CART: {Key.CPU_PERCENT: 20}})
        groups = NodeCgroups(tmp_path, ["cpu"], remove=shutil.rmtree)
        shares = Shares(groups)
        shares.follow(quotas)
        can = FakeDriver().capabilities
        config = VmConfig(vcpus=2)
        # One without children, who are moved too.
        vm = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        for name in ("shop/cart", "shop/stock"):
            await shares.enter(name, f"app-{name[5:]}", vm.pid, config, can)

        def percent(group: str) -> str:
            return (tmp_path / group / "cpu.max").read_text().split()[0]

        await shares.enter("shop/none", "app-none", 0, config, can)
        assert not (tmp_path / "shop/app-none/cgroup.procs").exists()
        assert percent("shop") == "max"
        assert percent("shop/app-cart") == "20000"
        assert percent("shop/app-stock") == "300000"
        assert str(vm.pid) in (tmp_path / "shop/app-cart/cgroup.procs").read_text()
        await vm.communicate(b"")
        quotas.change(SHOP, {Key.CPU_PERCENT: 50})
        quotas.change(CART, {Key.CPU_PERCENT: 0})
        await asyncio.gather(*shares._changes)
        assert percent("shop") == "50000"
        assert percent("shop/app-cart") == "300000"
        await shares.leave("shop/cart")
        await shares.leave("shop/cart")
        assert not (tmp_path / "shop/app-cart").exists()

    async def test_shares_when_a_start_is_cancelled_then_no_group_is_left(
        self, tmp_path: Path
    ) -> None:
        """A thread that still makes it is waited for, before it is removed."""
        groups = SlowGroups(tmp_path, ["cpu"], remove=shutil.rmtree)
        shares, can = Shares(groups), FakeDriver().capabilities
        entering = asyncio.ensure_future(
            shares.enter("shop/cart", "app-1", os.getpid(), VmConfig(), can)
        )
        await asyncio.to_thread(groups.began.wait)
        entering.cancel()
        leaving = asyncio.ensure_future(shares.leave("shop/cart"))
        for _ in range(100):
            await asyncio.sleep(0)
        was_early = groups.left.is_set()
        groups.go_on.set()
        await asyncio.wait({entering, leaving})
        assert not was_early
        assert entering.cancelled()
        assert list(tmp_path.iterdir()) == []

    async def test_shares_when_the_kernel_refuses_then_the_application_runs_and_it_is_said(
        self, tmp_path: Path
    ) -> None:
        """A share that could not be set is no reason to have no application."""
        shares = Shares(NodeCgroups(tmp_path / "gone", ["cpu"], remove=shutil.rmtree))
        can = FakeDriver().capabilities
        assert "has no CPU share" in await shares.enter("cart", "app-1", 1, VmConfig(), can)
