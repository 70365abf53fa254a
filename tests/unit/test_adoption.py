"""A node that founds a cluster brings its applications, with the states of its actors."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.buckets import MemoryBucket
from support.records import record_of

from plexspaces_node.errors import WrongState
from plexspaces_node.model import PhaseTimings
from plexspaces_node.node.cluster.actor_state import ReplicatedStore
from plexspaces_node.node.cluster.adoption import publish_applications
from plexspaces_node.node.cluster.desired import record_of as local_record
from plexspaces_node.node.cluster.desires import Desires
from plexspaces_node.node.cluster.founding import check_brings_nothing
from plexspaces_node.node.cluster.state_keys import StateKeys
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.registry.registry import Registry

pytestmark = pytest.mark.virtual_time(threads_s=0.005)


async def test_publish_when_an_actor_has_keys_then_the_cluster_has_them_in_the_end(
    tmp_path: Path,
) -> None:
    """When this node takes it over; with nothing lost on the way."""
    bucket, states = MemoryBucket(), MemoryBucket()
    view = ClusterView(bucket.view())
    desires = Desires(bucket.view(), view)
    async with Registry.open(tmp_path / "registry") as registry:
        record = record_of("shop/cart")
        await registry.insert_application(record)
        record = await registry.set_deployed(record.name, PhaseTimings())
        await registry.kv_put(record.name, "total", b"42")
        assert await publish_applications("a", registry, desires) == 1
        # Again, as after an error.
        assert await publish_applications("a", registry, desires) == 1
        asked = await desires.get(record.name)
        assert asked is not None
        assert (asked.id, asked.generation, asked.source) == (record.id, record.generation, "a")
        assert asked.deploying == ""
        assert local_record(asked).digest == record.digest
        store = ReplicatedStore(registry, states.view(), node="a", on_fenced=lambda _: None)
        await store.take(record.name, record.id, 7)
        assert await store.kv_get(record.name, "total") == b"42"
        key = StateKeys(record.name, record.id).value("total")
        entry = await states.view().get(key)
        assert entry is not None


async def test_publish_when_a_name_is_anothers_then_it_is_refused(tmp_path: Path) -> None:
    """Nothing is taken away without a word."""
    bucket = MemoryBucket()
    desires = Desires(bucket.view(), ClusterView(bucket.view()))
    async with (
        Registry.open(tmp_path / "one") as one,
        Registry.open(tmp_path / "two") as two,
    ):
        for registry, id_ in ((one, "app-1"), (two, "app-2")):
            record = record_of("cart", id=id_)
            await registry.insert_application(record)
            await registry.set_deployed(record.name, PhaseTimings())
        assert await publish_applications("a", one, desires) == 1
        await check_brings_nothing(one, bucket.view())
        with pytest.raises(WrongState, match="1 applications of its own"):
            await check_brings_nothing(two, bucket.view())
        with pytest.raises(WrongState, match="another application 'cart'"):
            await publish_applications("b", two, desires)
