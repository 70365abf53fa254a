"""Tokens, quotas and secrets that the nodes of a cluster share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from support.buckets import MemoryBucket, View
from support.shared_nodes import CLUSTER, Sharing, alone, sharing, until

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import (
    AlreadyExists,
    NotFound,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.info import NewSecret
from plexspaces_node.node.access.identity import ALL, LOCAL
from plexspaces_node.node.access.stopped import StoppedNode
from plexspaces_node.node.cluster.founding import check_brings_nothing, publish
from plexspaces_node.node.cluster.grant_records import (
    encode_token,
    quota_key,
    secret_key,
    secret_of_key,
    subject_of_key,
    token_key,
    token_of_key,
)
from plexspaces_node.node.cluster.mirror import Mirror
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import SYNCED, Entry
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.secrets import MOST_SECRETS
from plexspaces_node.node.secrets.cipher import SecretUnusable
from plexspaces_node.quota import Key, Subject
from plexspaces_node.tasks import cancel

SHOP = Subject("shop")
Made = tuple[MemoryBucket, list[View], list[Sharing]]


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Made]:
    """Three nodes of a cluster, with their views of its bucket."""
    bucket = MemoryBucket()
    async with AsyncExitStack() as stack:
        views = [bucket.view() for _ in range(3)]
        opened = [
            await stack.enter_async_context(sharing(tmp_path / name, view))
            for name, view in zip("abc", views, strict=True)
        ]
        yield bucket, views, opened


async def made(node: Sharing, name: str = "ci", tenant: str = "shop") -> NewSecret:
    """Create a token at a node."""
    return await node.tokens.create(LOCAL, name, scopes=["deploy"], tenant=tenant)


def valid(node: Sharing, token: NewSecret) -> Callable[[], bool]:
    """Return what tells whether a node lets somebody in by a token."""
    return lambda: node.tokens.known.by_token(token.secret.encode()) is not None


async def value_of(node: Sharing, name: str = "db") -> str:
    """Return the value that an application of the tenant `shop` would get."""
    return (await node.secrets.values_of("shop/cart", {"X": name}))["X"]


async def has(node: Sharing, name: str = "db") -> bool:
    """Return whether a node has a secret."""
    return bool(await node.registry.secrets.get("shop", [name]))


class TestTokens:
    async def test_create_when_at_any_node_then_valid_at_all(self, nodes: Made) -> None:
        """At the node that was asked at once; and every node asks its callers from then on."""
        _, _, each = nodes
        for index, tenant in enumerate(("shop", ALL, "bank")):
            token = await made(each[index], tenant=tenant)
            assert valid(each[index], token)()
            for node in each:
                await until(valid(node, token))
                assert node.tokens.exist()
        names = [(one.tenant, one.name, one.state) for one in each[0].tokens.list()]
        assert names == [(ALL, "ci", "valid"), ("bank", "ci", "valid"), ("shop", "ci", "valid")]

    async def test_create_when_two_nodes_use_the_name_then_one_fails(self, nodes: Made) -> None:
        """Exactly one, however they race; the token of the other works everywhere."""
        _, _, each = nodes
        results = await asyncio.gather(*(made(node) for node in each), return_exceptions=True)
        kept = [one for one in results if isinstance(one, NewSecret)]
        assert len(kept) == 1
        assert sum(isinstance(one, AlreadyExists) for one in results) == 2
        for node in each:
            await until(valid(node, kept[0]))
            assert len(node.tokens.list()) == 1

    async def test_create_when_nodes_race_for_the_first_then_with_one_key(
        self, nodes: Made
    ) -> None:
        """Tokens of different names, each made at another node, all work everywhere."""
        _, _, each = nodes
        tokens = await asyncio.gather(
            *(made(node, f"ci{number}") for number, node in enumerate(each))
        )
        for node in each:
            for token in tokens:
                await until(valid(node, token))

    async def test_revoke_when_at_another_node_then_it_and_its_streams_end(
        self, nodes: Made
    ) -> None:
        """Within the time that the bucket takes to tell."""
        _, _, each = nodes
        token = await made(each[0])
        for node in each:
            await until(valid(node, token))
        identity = each[1].tokens.known.by_token(token.secret.encode())
        assert identity is not None
        ended = asyncio.Event()
        each[1].tokens.known.watch(identity, ended.set)
        await each[2].tokens.revoke("ci")
        assert not valid(each[2], token)()
        await ended.wait()
        assert not valid(each[1], token)()
        await until(lambda: each[0].tokens.list(), [])
        assert await each[0].registry.tokens.load() == []

    async def test_revoke_when_created_again_elsewhere_then_the_former_stays_invalid(
        self, nodes: Made
    ) -> None:
        """Also at a node that hears of both at once, and the new one has its own rights."""
        _, views, each = nodes
        former = await made(each[0])
        await until(valid(each[2], former))
        views[2].is_cut = True
        await each[0].tokens.revoke("ci")
        later = await each[0].tokens.create(LOCAL, "ci", scopes=["read"], tenant="shop")
        views[2].is_cut = False
        await until(valid(each[2], later))
        assert not valid(each[2], former)()
        identity = each[2].tokens.known.by_token(later.secret.encode())
        assert identity is not None
        assert set(identity.scopes) == {"read"}

    async def test_rotate_when_at_another_node_then_the_grace_holds_everywhere(
        self, nodes: Made
    ) -> None:
        """The new secret works at once, the one before for a while."""
        _, _, each = nodes
        first = await made(each[0])
        await until(valid(each[1], first))
        second = await each[1].tokens.rotate("ci", grace_s=60)
        for node in each:
            await until(valid(node, second))
            assert valid(node, first)()
        await until(valid(each[2], second))
        third = await each[2].tokens.rotate("ci")
        for node in each:
            await until(valid(node, third))
            assert not valid(node, first)()
            assert not valid(node, second)()

    async def test_rotate_when_changed_elsewhere_meanwhile_then_refused(self, nodes: Made) -> None:
        """Otherwise a secret would be given out that is worth nothing."""
        bucket, views, each = nodes
        token = await made(each[0])
        for node in each:
            await until(valid(node, token))
        views[1].is_cut = True
        second = await each[0].tokens.rotate("ci")
        with pytest.raises(Unavailable, match="does not answer"):
            await each[1].tokens.rotate("ci")
        views[1].is_cut = False
        results = await asyncio.gather(
            each[1].tokens.rotate("ci"), each[2].tokens.rotate("ci"), return_exceptions=True
        )
        kept = [one for one in results if isinstance(one, NewSecret)]
        refused = [one for one in results if isinstance(one, PlexSpacesError)]
        assert all(isinstance(one, WrongState) for one in refused)
        # One of two that both succeed has heard of the other.
        record = msgspec.json.decode(bucket.all["token.shop.ci"].value or b"")
        (last,) = (one for one in (second, *kept) if one.token.id == record["id"])
        for node in each:
            await until(valid(node, last))
            for one in (token, second, *kept):
                await until(valid(node, one), one is last)

    async def test_change_when_cut_off_then_refused_and_reading_goes_on(self, nodes: Made) -> None:
        """A node that is cut off lets in whom it knows, and hears later what was revoked."""
        _, views, each = nodes
        token = await made(each[0])
        await until(valid(each[1], token))
        views[1].is_cut = True
        for change in (made(each[1], "other"), each[1].tokens.revoke("ci")):
            with pytest.raises(Unavailable) as caught:
                await change
            assert caught.value.hint == "plexspaces nodes"
        await each[0].tokens.revoke("ci")
        assert valid(each[1], token)()
        assert len(each[1].tokens.list()) == 1
        views[1].is_cut = False
        await until(valid(each[1], token), False)

    async def test_change_when_its_answer_is_lost_then_it_is_done_once(self, nodes: Made) -> None:
        """What is found to be written counts as written."""
        bucket, views, each = nodes
        views[0].loses_answers = True
        token = await made(each[0])
        for node in each:
            await until(valid(node, token))
        rotated = await each[0].tokens.rotate("ci")
        for node in each:
            await until(valid(node, rotated))
        await each[0].tokens.revoke("ci")
        for node in each:
            await until(valid(node, rotated), False)
        assert bucket.all["token.shop.ci"].value is None

    async def test_start_when_revoked_meanwhile_then_it_ends(self, tmp_path: Path) -> None:
        """A node that was off does not let in whom the cluster has forgotten."""
        bucket = MemoryBucket()
        async with sharing(tmp_path / "a", bucket.view()) as one:
            async with sharing(tmp_path / "b", bucket.view()) as other:
                token = await made(one)
                await until(valid(other, token))
                await until(lambda: _names(other), ["ci"])
            await one.tokens.revoke("ci")
            async with sharing(tmp_path / "b", bucket.view()) as other:
                await until(valid(other, token), False)
                await until(lambda: _names(other), [])

    async def test_start_when_cut_off_then_tokens_work(self, tmp_path: Path) -> None:
        """A node starts and serves while the bucket is away, as it was."""
        bucket = MemoryBucket()
        async with sharing(tmp_path / "a", bucket.view()) as node:
            token = await made(node)
        view = bucket.view()
        view.is_cut = True
        async with sharing(tmp_path / "a", view) as node:
            assert node.tokens.exist()
            assert valid(node, token)()

    async def test_used_when_told_again_then_when_it_was_used_stays(self, nodes: Made) -> None:
        """Each node knows of its own uses."""
        _, _, each = nodes
        token = await made(each[0])
        await until(valid(each[1], token))
        used = each[1].tokens.list()[0].last_used_unix_ns
        assert used
        await each[0].tokens.rotate("ci", grace_s=60)
        await until(lambda: each[1].tokens.list()[0].id != token.token.id)
        assert each[1].tokens.list()[0].last_used_unix_ns >= used

    async def test_key_when_of_another_cluster_then_it_is_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whoever has not the token of the cluster cannot exchange the key, nor add tokens."""
        bucket = MemoryBucket()
        async with sharing(tmp_path / "z", bucket.view(), ClusterToken(b"z" * 32)) as other:
            await made(other)
        async with sharing(tmp_path / "a", bucket.view()) as node:
            await until(lambda: "key of the tokens' hashes yet" in caplog.text)
            assert not node.tokens.exist()
            assert node.tokens.list() == []


async def _names(node: Sharing) -> list[str]:
    return [one.name for one in await node.registry.tokens.load()]


class TestQuotas:
    async def test_set_when_at_any_node_then_in_force_at_all(self, nodes: Made) -> None:
        """Also removed ones; and after a restart, from the node's own file."""
        _, _, each = nodes
        await each[0].upkeep.set(SHOP, {Key.IN_FLIGHT: 7, Key.MEMORY_MIB: 64})
        assert each[0].quotas.limit(SHOP, Key.IN_FLIGHT) == 7
        await each[1].upkeep.set(SHOP, {Key.IN_FLIGHT: 0})
        for node in each:
            await until(lambda: dict(node.quotas.limits(SHOP)), {Key.MEMORY_MIB: 64})  # noqa: B023
            await until(node.registry.quotas.load, {SHOP: {Key.MEMORY_MIB: 64}})
        await each[2].upkeep.set(SHOP, {Key.MEMORY_MIB: 0})
        for node in each:
            await until(node.registry.quotas.load, {})

    async def test_set_when_two_nodes_set_different_ones_then_both_hold(self, nodes: Made) -> None:
        """Neither overwrites what the other has written."""
        _, _, each = nodes
        keys = (Key.IN_FLIGHT, Key.MEMORY_MIB, Key.VCPUS)
        await asyncio.gather(
            *(node.upkeep.set(SHOP, {key: 9}) for node, key in zip(each, keys, strict=True))
        )
        for node in each:
            await until(lambda: dict(node.quotas.limits(SHOP)), dict.fromkeys(keys, 9))  # noqa: B023

    async def test_set_when_cut_off_then_refused_and_the_former_hold(self, nodes: Made) -> None:
        """At the node too that was asked."""
        _, views, each = nodes
        await each[0].upkeep.set(SHOP, {Key.IN_FLIGHT: 7})
        views[0].is_cut = True
        with pytest.raises(Unavailable, match="quotas"):
            await each[0].upkeep.set(SHOP, {Key.IN_FLIGHT: 8})
        assert each[0].quotas.limit(SHOP, Key.IN_FLIGHT) == 7


class TestSecrets:
    async def test_set_when_at_any_node_then_used_at_all(self, nodes: Made) -> None:
        """Encrypted in the bucket, and its versions count on over the nodes."""
        bucket, _, each = nodes
        for version, node in enumerate(each, 1):
            value = f"value {version}"
            assert await node.secrets.set("shop", "db", value.encode()) == version
            for other in each:
                await until(lambda: _usable(other), value)  # noqa: B023
            record = bucket.all["secret.shop.db"].value
            assert record is not None
            assert value.encode() not in record

    async def test_set_when_nodes_race_then_each_has_a_version(self, nodes: Made) -> None:
        """None is lost silently: the last one holds, everywhere."""
        _, _, each = nodes
        versions = await asyncio.gather(
            *(node.secrets.set("shop", "db", str(n).encode()) for n, node in enumerate(each))
        )
        assert sorted(versions) == [1, 2, 3]
        last = str(versions.index(3))
        for node in each:
            await until(lambda: _usable(node), last)  # noqa: B023

    async def test_set_when_its_users_shall_restart_then_on_the_other_nodes_too(
        self, nodes: Made
    ) -> None:
        """The node that was asked restarts its own by itself; a first version has no users."""
        _, _, each = nodes
        await each[0].secrets.set("shop", "db", b"1", restart=True)
        for node in each:
            await until(lambda: _usable(node), "1")  # noqa: B023
        await each[0].secrets.set("shop", "db", b"2", restart=True)
        await until(lambda: each[1].restarted, [("shop", "db")])
        await until(lambda: each[2].restarted, [("shop", "db")])
        await each[1].secrets.set("shop", "db", b"3")
        await until(lambda: _usable(each[0]), "3")
        assert each[0].restarted == []

    async def test_delete_when_used_at_another_node_then_refused_unless_forced(
        self, nodes: Made
    ) -> None:
        """Who uses it is told of the whole cluster."""
        _, _, each = nodes
        await each[0].secrets.set("shop", "db", b"1")
        await until(lambda: has(each[1]))
        each[1].users = {"db": ("shop/cart",)}
        assert (await each[1].secrets.list("shop"))[0].used_by == ("shop/cart",)
        with pytest.raises(WrongState, match="is used by shop/cart"):
            await each[1].secrets.delete("shop", "db")
        assert await each[1].secrets.delete("shop", "db", force=True) == ("shop/cart",)
        for node in each:
            await until(lambda: has(node), False)  # noqa: B023
        with pytest.raises(NotFound, match="no secret 'db'"):
            await each[0].secrets.delete("shop", "db")

    async def test_set_when_cut_off_then_refused_and_reading_goes_on(self, nodes: Made) -> None:
        """Applications start with the values that the node knows."""
        _, views, each = nodes
        await each[0].secrets.set("shop", "db", b"1")
        views[0].is_cut = True
        with pytest.raises(Unavailable, match="secrets"):
            await each[0].secrets.set("shop", "db", b"2")
        with pytest.raises(Unavailable, match="secrets"):
            await each[0].secrets.delete("shop", "db")
        assert await value_of(each[0]) == "1"

    async def test_set_when_its_answer_is_lost_then_one_version(self, nodes: Made) -> None:
        """It is not written again."""
        _, views, each = nodes
        views[0].loses_answers = True
        assert await each[0].secrets.set("shop", "a.b", b"1") == 1
        await until(lambda: has(each[1], "a.b"))
        assert await value_of(each[1], "a.b") == "1"

    async def test_set_when_there_are_too_many_then_refused(self, nodes: Made) -> None:
        """As on a single node."""
        _, _, each = nodes
        rows = each[0].registry.secrets
        now = await each[0].secrets.set("shop", "db", b"1")
        assert now == 1
        await until(lambda: has(each[0]))
        for number in range(MOST_SECRETS - 1):
            await rows.put("shop", f"s{number}", 1, lambda _: ("k", b""))
        with pytest.raises(ResourceExhausted, match="the limit is"):
            await each[0].secrets.set("shop", "one-more", b"1")
        assert await each[0].secrets.set("shop", "db", b"2") == 2


async def _usable(node: Sharing) -> str:
    try:
        return await value_of(node)
    except SecretUnusable:
        return ""


HOSTILE = [
    ("token.shop.ci", b""),
    ("token.shop.ci", b"{"),
    ("token.shop.ci", b"[" * 100_000),
    ("token.shop.ci", b"null"),
    ("token.shop.ci", b"{}"),
    ("token.shop.ci", b" " * 300_000),
    ("token.shop.CI", "ok"),
    ("token.shop", "ok"),
    ("token.shop.ci.more", "ok"),
    ("token.*.ci", "ok"),
    ("token.shop.ci", {"hash": "AAAA"}),
    ("token.shop.ci", {"applications": "../*"}),
    ("token.shop.ci", {"expires_ns": 2**70}),
    ("token.shop.ci", {"expires_ns": -1}),
    ("token.shop.ci", {"scopes": ["admin"] * 100}),
    ("token-key", b"{}"),
    ("token-key", b'{"sealed":"AAAA"}'),
    ("quota.shop", b"[1]"),
    ("quota.shop", b'{"in_flight":-1}'),
    ("quota.shop", b'{"in_flight":"7"}'),
    ("quota.shop.cart.more", b'{"in_flight":7}'),
    ("quota.SHOP", b'{"in_flight":7}'),
    ("quota.", b'{"in_flight":7}'),
    ("secret.shop.db", b"{}"),
    ("secret.shop.db", b'{"version":0,"key_id":"","sealed":"","created_ns":1,"changed_ns":1}'),
    ("secret.shop", b'{"version":1,"key_id":"","sealed":"","created_ns":1,"changed_ns":1}'),
    ("secret.shop.-", b'{"version":1,"key_id":"","sealed":"","created_ns":1,"changed_ns":1}'),
]


class TestHostile:
    @pytest.mark.parametrize(("key", "value"), HOSTILE)
    async def test_record_when_it_cannot_be_one_then_nothing_changes_and_one_warning(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        key: str,
        value: bytes | str | dict[str, object],
    ) -> None:
        """Whoever writes to the bucket brings no node to a halt, and what held holds."""
        caplog.set_level(logging.WARNING)
        bucket = MemoryBucket()
        async with sharing(tmp_path / "a", bucket.view()) as node:
            token = await made(node)
            await node.upkeep.set(SHOP, {Key.IN_FLIGHT: 7})
            await node.secrets.set("shop", "db", b"1")
            sealed = bucket.all["secret.shop.db"].value
            good = encode_token((await node.registry.tokens.load())[0])
            if isinstance(value, dict):
                value = msgspec.json.encode({**msgspec.json.decode(good), **value})
            elif isinstance(value, str):
                value = good
            for _ in range(3):
                bucket.write(key, value)
            await node.tokens.create(LOCAL, "later", scopes=["read"], tenant="shop")
            bucket.write("quota.bank", b'{"in_flight":3,"of_a_later_version":1}')
            bucket.write("secret.shop.later", sealed)
            await until(lambda: has(node, "later"))
            await until(lambda: node.quotas.limit(Subject("bank"), Key.IN_FLIGHT), 3)
            await until(lambda: len(caplog.records), 1)
            assert valid(node, token)()
            assert [one.name for one in node.tokens.list()] == ["ci", "later"]
            assert node.quotas.bounded() == {SHOP, Subject("bank")}
            assert node.quotas.limit(SHOP, Key.IN_FLIGHT) == 7
            assert await value_of(node) == "1"

    async def test_record_when_it_cannot_be_read_then_it_can_be_set_anew(
        self, tmp_path: Path
    ) -> None:
        """By whoever sets the secret or the quota of that name."""
        bucket = MemoryBucket()
        bucket.write("secret.shop.db", b"nonsense")
        bucket.write("quota.shop", b"nonsense")
        async with sharing(tmp_path / "a", bucket.view()) as node:
            assert await node.secrets.set("shop", "db", b"1") == 1
            await node.upkeep.set(SHOP, {Key.VCPUS: 2})
            assert await value_of(node) == "1"
            assert node.quotas.limit(SHOP, Key.VCPUS) == 2

    def test_key_when_made_of_names_then_read_back(self) -> None:
        """Names with dots, and tokens of all tenants."""
        assert token_of_key(token_key(ALL, "ci")) == (ALL, "ci")
        assert token_of_key(token_key("shop", "ci")) == ("shop", "ci")
        assert secret_of_key(secret_key("shop", "a..b_C.")) == ("shop", "a..b_C.")
        for subject in (SHOP, Subject("shop", "cart")):
            assert subject_of_key(quota_key(subject)) == subject


class TestFounding:
    async def test_found_when_a_node_has_some_then_all_nodes_have_them(
        self, tmp_path: Path
    ) -> None:
        """Tokens work on, with the secrets that users have; values are encrypted anew."""
        bucket = MemoryBucket()
        async with alone(tmp_path / "a") as node:
            token = await made(node)
            await node.upkeep.set(SHOP, {Key.IN_FLIGHT: 7})
            await node.secrets.set("shop", "db", b"1")
            for _ in range(2):
                await publish(
                    bucket.view(), CLUSTER, node.registry, node.tokens, node.secrets.source
                )
        async with (
            sharing(tmp_path / "a", bucket.view()) as one,
            sharing(tmp_path / "b", bucket.view()) as other,
        ):
            for each in (one, other):
                await until(valid(each, token))
                await until(lambda: _usable(each), "1")  # noqa: B023
                await until(lambda: each.quotas.limit(SHOP, Key.IN_FLIGHT), 7)  # noqa: B023

    async def test_found_when_the_key_of_secrets_is_missing_then_refused(
        self, tmp_path: Path
    ) -> None:
        """Before anybody sees a cluster in which they are worth nothing."""
        async with alone(tmp_path / "a") as node:
            await node.secrets.set("shop", "db", b"1")
            (tmp_path / "a" / "key").unlink()
            with pytest.raises(SecretUnusable, match=r"its key .* is missing"):
                await publish(
                    MemoryBucket().view(), CLUSTER, node.registry, node.tokens, node.secrets.source
                )

    async def test_join_when_a_node_has_some_of_its_own_then_refused(self, tmp_path: Path) -> None:
        """They are not dropped without a word."""
        async with alone(tmp_path / "a") as node:
            await check_brings_nothing(node.registry)
            await made(node)
            await node.upkeep.set(SHOP, {Key.IN_FLIGHT: 7})
            with pytest.raises(WrongState, match="1 tokens, 1 quotas of its own"):
                await check_brings_nothing(node.registry)
            bucket = MemoryBucket()
            bucket.write(quota_key(SHOP), b"{}")
            with pytest.raises(WrongState, match="has 1 tokens of its own"):
                await check_brings_nothing(node.registry, bucket.view())
            [token] = await node.registry.tokens.load()
            bucket.write(token_key(token.tenant, token.name), b"{}")
            await check_brings_nothing(node.registry, bucket.view())

    async def test_stopped_when_of_a_cluster_then_its_tokens_are_not_changed(
        self, tmp_path: Path
    ) -> None:
        """They would not be the cluster's, and end at the next start."""
        async with StoppedNode.open(tmp_path / "a", "a") as stopped:
            await stopped.create_token("ci", scopes=["read"])
        async with Registry.open(tmp_path / "a" / "registry.db") as registry:
            await registry.cluster.write([Entry("meta", b"{}", 1)], 1)
        with pytest.raises(WrongState, match="of a node of a cluster"):
            async with StoppedNode.open(tmp_path / "a", "a"):
                pass

    async def test_view_when_it_tells_then_remembered_and_in_force(self, tmp_path: Path) -> None:
        """As a node has it: one watch, for what it runs, what it remembers and whom it lets in."""
        bucket = MemoryBucket()
        async with sharing(tmp_path / "a", bucket.view()) as one, alone(tmp_path / "b") as other:
            token = await made(one)
            mirror, view = Mirror(other.registry.cluster), ClusterView(bucket.view())
            grants = other.share("b", bucket.view())
            entries = await mirror.load()
            view.follow("", mirror.note)
            grants.follow(view)
            view.load(entries)
            tasks = [asyncio.create_task(each.run()) for each in (mirror, grants, view)]
            await view.synced.wait()
            mirror.note(SYNCED)
            await grants.end_untold()
            await until(valid(other, token))
            await mirror.written()
            assert len((await other.registry.cluster.load()).records) == 2
            await one.tokens.revoke("ci")
            await until(valid(other, token), False)
            await mirror.written()
            assert len((await other.registry.cluster.load()).records) == 1
            await cancel(*tasks)
