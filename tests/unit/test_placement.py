"""Where applications run: rules by example, and properties of whatever there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clusters import a_node, an_application

from plexspaces_node.node.cluster.placement import Placement, place
from plexspaces_node.node.cluster.records import (
    Application,
    Node,
    NodeState,
    Placed,
    Status,
    Wanted,
)

NODES = tuple("abcdefg")


def after(placed: Mapping[str, Placed], changes: Mapping[str, Placed | None]) -> dict[str, Placed]:
    """Return where applications are once changes are made."""
    both = {**placed, **changes}
    return {name: where for name, where in both.items() if where is not None}


def placed_of(
    nodes: Sequence[Node], applications: Sequence[Application], alive: str | None = None
) -> dict[str, Placed]:
    """Place applications that have no place yet."""
    ids = {node.id for node in nodes} if alive is None else set(alive)
    by_id = {node.id: node for node in nodes}
    return after({}, place(by_id, ids, {one.name: one for one in applications}, {}))


def states(**by_node: str) -> dict[str, Status]:
    """Return what nodes say of the application `x`."""
    return {
        node: Status(id="x", generation=1, epoch=1, state=state) for node, state in by_node.items()
    }


def move(
    nodes: Sequence[Node],
    where: Placed,
    statuses: Mapping[str, Status] | None = None,
    *,
    dead: str = "",
    asked: Application | None = None,
) -> Placed:
    """Return where the application `x` is next."""
    asked = asked or an_application("x")
    alive = {node.id for node in nodes} - set(dead)
    by_id = {node.id: node for node in nodes}
    changes = place(by_id, alive, {"x": asked}, {"x": where}, lambda _: statuses or {})
    result = changes.get("x", where)
    assert result is not None
    return result


def test_place_when_there_are_two_nodes_then_an_actor_has_an_owner_and_a_standby() -> None:
    """And on one node an owner alone."""
    placed = placed_of([a_node("a"), a_node("b")], [an_application("x")])["x"]
    assert {*placed.nodes, *placed.standby} == {"a", "b"}
    assert len(placed.nodes) == 1
    assert placed_of([a_node("a")], [an_application("x")])["x"] == Placed(id="x", nodes=("a",))


def test_place_when_replicas_are_wanted_then_each_is_on_a_node_of_its_own() -> None:
    """An actor is one, whatever was asked for."""
    nodes = [a_node(name) for name in "abcd"]
    placed = placed_of(nodes, [an_application("x", kind="command", replicas=3)])["x"]
    assert len(set(placed.nodes)) == 3
    assert placed.standby == ()
    assert len(placed_of(nodes, [an_application("x", replicas=3)])["x"].nodes) == 1


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (an_application("x", level="qemu"), "no node that is up has the level qemu"),
        (an_application("x", on={"zone": "c"}), "no node that is up has the label zone=c"),
        (an_application("x", memory_mib=4096), "no other node has room for 4096 MiB"),
    ],
)
def test_place_when_no_node_can_have_it_then_it_has_no_place_and_says_why(
    asked: Application, why: str
) -> None:
    """The command that helps is named."""
    placed = placed_of([a_node("a", labels={"zone": "a"}), a_node("b")], [asked])["x"]
    assert placed.nodes == ()
    assert placed.why == f"{why}; see: plexspaces nodes"


def test_place_when_there_are_fewer_nodes_than_replicas_then_each_has_one() -> None:
    """And it is said that more would be needed."""
    asked = an_application("x", kind="command", replicas=3)
    placed = placed_of([a_node("a"), a_node("b")], [asked])["x"]
    assert sorted(placed.nodes) == ["a", "b"]
    assert placed.why == "3 replicas need as many nodes, and fewer are up; see: plexspaces nodes"


def test_place_when_labels_and_level_are_asked_for_then_its_nodes_have_them() -> None:
    """Its standby too."""
    nodes = [
        a_node("a", labels={"zone": "a", "disk": "ssd"}, level="qemu"),
        a_node("b", labels={"zone": "a"}, level="process"),
        a_node("c", labels={"zone": "a"}, level="qemu"),
        a_node("d", labels={"zone": "b"}, level="qemu"),
    ]
    placed = placed_of(nodes, [an_application("x", level="qemu", on={"zone": "a"})])["x"]
    assert {*placed.nodes, *placed.standby} == {"a", "c"}


def test_place_when_the_owner_is_dead_then_the_standby_takes_over() -> None:
    """Another one stands by, and nothing moves back."""
    nodes = [a_node(name) for name in "abc"]
    moved = move(nodes, Placed(id="x", nodes=("a",), standby=("b",)), dead="a")
    assert moved == Placed(id="x", nodes=("b",), standby=("c",))
    assert move(nodes, moved) == moved


def test_place_when_the_standby_has_no_room_then_another_takes_over() -> None:
    """It needs the artifact first, but is up sooner than a node without room."""
    nodes = [a_node("a"), a_node("b", memory_mib=32), a_node("c")]
    moved = move(nodes, Placed(id="x", nodes=("a",), standby=("b",)), dead="a")
    assert moved == Placed(id="x", nodes=("c",), standby=("b",))


def test_place_when_nobody_can_replace_a_dead_node_then_it_stays_there() -> None:
    """So that the node finds it as it was once it is back; it is said why."""
    nodes = [a_node("a"), a_node("b", memory_mib=32)]
    where = Placed(id="x", nodes=("a",), standby=("b",))
    moved = move(nodes, where, dead="a")
    assert moved.nodes == ("a",)
    assert moved.why == "no other node has room for 64 MiB; see: plexspaces nodes"
    assert move(nodes, moved) == where


def test_place_when_a_node_is_removed_then_nothing_is_there_any_more() -> None:
    """Other than of one that is dead, nobody waits for it."""
    assert move([a_node("b", memory_mib=32)], Placed(id="x", nodes=("a",))).nodes == ()


def test_place_when_a_node_drains_then_another_serves_before_it_leaves() -> None:
    """A replica that serves stays until those after it do."""
    nodes = [a_node("a", state=NodeState.DRAINING), a_node("b"), a_node("c")]
    asked = an_application("x", kind="command", replicas=2)
    serving = states(a="Running", b="Running")
    first = move(nodes, Placed(id="x", nodes=("a", "b")), serving, asked=asked)
    assert first == Placed(id="x", nodes=("b", "c"), leaving=("a",))
    assert move(nodes, first, serving, asked=asked) == first
    serving = states(a="Running", b="Running", c="Running")
    assert move(nodes, first, serving, asked=asked) == Placed(id="x", nodes=("b", "c"))


def test_place_when_what_drains_does_not_serve_then_nobody_waits_for_it() -> None:
    """As one that is stopped."""
    nodes = [a_node("a", state=NodeState.DRAINING), a_node("b")]
    asked = an_application("x", kind="command", wanted=Wanted.STOPPED)
    moved = move(nodes, Placed(id="x", nodes=("a",)), states(a="Stopped"), asked=asked)
    assert moved == Placed(id="x", nodes=("b",))


def test_place_when_an_actors_node_drains_then_it_moves_once_its_standby_is_ready() -> None:
    """Two never own it; until then it serves where it is."""
    nodes = [a_node("a", state=NodeState.DRAINING), a_node("b"), a_node("c")]
    where = Placed(id="x", nodes=("a",), standby=("b",))
    assert move(nodes, where, states(a="Running")) == where
    assert move(nodes, where, states(a="Running", b="Ready")) == Placed(
        id="x", nodes=("b",), standby=("c",)
    )
    assert move(nodes, where, states(a="Failed")).nodes == ("b",)


def test_place_when_a_draining_actors_standby_has_no_room_then_another_stands_by() -> None:
    """So that it can move at all; if there is none, it stays and says why."""
    drains = a_node("a", state=NodeState.DRAINING)
    where = Placed(id="x", nodes=("a",), standby=("b",))
    nodes = [drains, a_node("b", memory_mib=32), a_node("c")]
    assert move(nodes, where, states(a="Running")).standby == ("c",)
    nodes = [drains, a_node("b", memory_mib=32)]
    stays = move(nodes, where, states(a="Running"))
    assert stays.nodes == ("a",)
    assert "no other node has room" in stays.why


def test_place_when_a_name_is_another_application_now_then_it_is_placed_anew() -> None:
    """Nothing of the former's record is taken over."""
    nodes = [a_node("a"), a_node("b")]
    moved = move(nodes, Placed(id="old", nodes=("b",), leaving=("a",), why="?"))
    assert moved.id == "x"
    assert moved.why == ""
    assert moved.leaving == ()


def test_place_when_an_application_is_gone_then_its_record_goes() -> None:
    """Of one that never had a place there is nothing to do."""
    assert place({}, set(), {}, {"x": Placed(id="x", nodes=("a",))}) == {"x": None}


def test_place_when_an_application_grows_beyond_its_node_then_it_moves() -> None:
    """What was there before stays."""
    nodes = {name: a_node(name, memory_mib=100) for name in "ab"}
    placed = {name: Placed(id=name, nodes=("a",), standby=("b",)) for name in ("x", "y")}
    asked = {
        "x": an_application("x", memory_mib=80, generation=2),
        "y": an_application("y", memory_mib=50),
    }
    statuses = {
        name: {"a": Status(id=name, generation=1, epoch=1, state="Running")} for name in placed
    }
    statuses["x"]["b"] = Status(id="x", generation=2, epoch=1, state="Ready")
    changes = place(nodes, set("ab"), asked, placed, lambda name: statuses[name])
    assert changes == {"x": Placed(id="x", nodes=("b",), standby=("a",))}


# Whatever there is.

states_of_nodes = st.sampled_from(NodeState)
some_labels = st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from("ab"), max_size=2)
some_nodes = st.fixed_dictionaries(
    {},
    optional={
        name: st.builds(
            a_node,
            st.just(name),
            memory_mib=st.sampled_from([100, 300, 1000]),
            applications=st.sampled_from([1, 3, 10]),
            labels=some_labels,
            level=st.sampled_from(["process", "qemu"]),
            state=st.sampled_from([NodeState.UP, NodeState.UP, NodeState.DRAINING]),
        )
        for name in NODES
    },
)
some_asked = st.fixed_dictionaries(
    {},
    optional={
        name: st.builds(
            an_application,
            st.just(name),
            kind=st.sampled_from(["actor", "command"]),
            memory_mib=st.sampled_from([10, 64, 100]),
            replicas=st.integers(1, 4),
            on=st.one_of(st.just({}), some_labels),
            level=st.sampled_from(["", "", "qemu"]),
            wanted=st.sampled_from([Wanted.RUNNING, Wanted.RUNNING, Wanted.STOPPED]),
        )
        for name in ("v", "w", "x", "y", "z", "t/x")
    },
)
some_ids = st.lists(st.sampled_from(NODES), unique=True, max_size=4)
some_alive = st.sets(st.sampled_from(NODES))


@st.composite
def some_placed(draw: st.DrawFn, asked: Mapping[str, Application]) -> dict[str, Placed]:
    """Return places of applications, as any former leader may have left them."""
    result = {}
    for name in draw(st.sets(st.sampled_from(["gone", *asked]))):
        kind = asked[name].kind if name in asked else "actor"
        ids = draw(some_ids)
        ran = 1 if kind == "actor" else draw(st.integers(0, len(ids)))
        standby = tuple(ids[ran : ran + 1])
        leaving = tuple(ids[ran + 1 :]) if kind != "actor" else ()
        result[name] = Placed(id=name, nodes=tuple(ids[:ran]), standby=standby, leaving=leaving)
    return result


@st.composite
def some_statuses(draw: st.DrawFn, placed: Mapping[str, Placed]) -> dict[str, dict[str, Status]]:
    """Return what nodes say of what is placed on them."""
    result: dict[str, dict[str, Status]] = {}
    for name, where in placed.items():
        for node in (*where.nodes, *where.leaving, *where.standby):
            state = draw(st.sampled_from(["", "Running", "Ready", "Failed", "Gone"]))
            if state:
                status = Status(id=name, generation=draw(st.integers(1, 2)), epoch=1, state=state)
                result.setdefault(name, {})[node] = status
    return result


Case = tuple[
    dict[str, Node],
    set[str],
    dict[str, Application],
    dict[str, Placed],
    dict[str, dict[str, Status]],
]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a cluster as a leader may find it."""
    asked = draw(some_asked)
    placed = draw(some_placed(asked))
    return draw(some_nodes), draw(some_alive), asked, placed, draw(some_statuses(placed))


def run(case: Case) -> dict[str, Placed | None]:
    """Return what has to change in a case."""
    nodes, alive, asked, placed, statuses = case
    return place(nodes, alive & set(nodes), asked, placed, lambda name: statuses.get(name, {}))


def result_of(case: Case) -> dict[str, Placed]:
    """Return where everything is afterwards."""
    return after(case[3], run(case))


def used(asked: Mapping[str, Application], placed: Mapping[str, Placed]) -> dict[str, Counter[str]]:
    """Return what is taken of each node: memory and applications."""
    result: dict[str, Counter[str]] = {name: Counter() for name in NODES}
    for name, where in placed.items():
        for node in {*where.nodes, *where.leaving}:
            if name in asked and asked[name].id == where.id:
                result[node]["memory"] += asked[name].memory_mib
                result[node]["applications"] += 1
    return result


@given(cases())
def test_place_when_done_then_no_node_has_more_than_its_room(case: Case) -> None:
    """Unless it had before, and then no more than that."""
    nodes, _, asked, placed, _ = case
    before, now = used(asked, placed), used(asked, result_of(case))
    for name, node in nodes.items():
        assert now[name]["memory"] <= max(node.memory_mib, before[name]["memory"])
        assert now[name]["applications"] <= max(node.applications, before[name]["applications"])


@given(cases())
def test_place_when_done_then_nodes_have_what_was_asked_for(case: Case) -> None:
    """What comes to a node comes to one that is alive, up, and has the level and the labels."""
    nodes, alive, asked, placed, _ = case
    for name, where in result_of(case).items():
        known = placed.get(name)
        had = {*known.nodes, *known.leaving} if known is not None else set()
        for node in {*where.nodes, *where.standby} - had:
            assert node in alive
            assert nodes[node].state is NodeState.UP
            assert asked[name].level in ("", nodes[node].level)
            assert asked[name].on.items() <= dict(nodes[node].labels).items()


@given(cases())
def test_place_when_done_then_every_application_is_where_it_can_be(case: Case) -> None:
    """Never on a node twice, nor on more than wanted; an actor never on two; and `why` if fewer."""
    nodes, _, asked, _, _ = case
    results = result_of(case)
    assert set(results) == set(asked)
    for name, where in results.items():
        wanted = 1 if asked[name].kind == "actor" else asked[name].replicas
        everywhere = (*where.nodes, *where.standby, *where.leaving)
        assert len(set(everywhere)) == len(everywhere)
        assert len(where.nodes) <= wanted
        assert len(where.standby) <= 1
        assert set(everywhere) <= set(nodes)
        assert asked[name].kind != "actor" or not where.leaving
        if len(where.nodes) < wanted:
            assert where.why
        if where.why:
            assert where.why.endswith("; see: plexspaces nodes")


@given(cases())
def test_place_when_its_result_is_placed_then_nothing_changes(case: Case) -> None:
    """It comes to rest at once."""
    nodes, alive, asked, _, statuses = case
    assert run((nodes, alive, asked, result_of(case), statuses)) == {}


@given(cases(), st.randoms(use_true_random=False))
def test_place_when_everything_comes_in_another_order_then_the_result_is_the_same(
    case: Case, random: object
) -> None:
    """A leader and the next one decide alike."""
    nodes, alive, asked, placed, statuses = case

    def mixed(some: Mapping[str, object]) -> dict[str, object]:
        items = list(some.items())
        random.shuffle(items)  # type: ignore[attr-defined]
        return dict(items)

    again = (mixed(nodes), alive, mixed(asked), mixed(placed), mixed(statuses))
    assert run(again) == run(case)  # type: ignore[arg-type]


@given(cases())
def test_place_when_a_node_can_keep_what_it_has_then_nothing_moves(case: Case) -> None:
    """What is on a node that is alive and fits stays there, whatever else comes or goes."""
    nodes, alive, asked, placed, _ = case
    results = result_of(case)
    for name, where in placed.items():
        if name not in asked:
            continue
        wanted = 1 if asked[name].kind == "actor" else asked[name].replicas
        fits = [
            node
            for node in where.nodes
            if node in alive
            and node in nodes
            and nodes[node].state is NodeState.UP
            and asked[name].level in ("", nodes[node].level)
            and asked[name].on.items() <= dict(nodes[node].labels).items()
            and used(asked, placed)[node]["memory"] <= nodes[node].memory_mib
        ]
        assert set(fits[:wanted]) <= set(results[name].nodes)


@given(cases(), st.sampled_from(NODES))
def test_place_when_a_node_comes_then_it_takes_only_what_had_no_place(
    case: Case, name: str
) -> None:
    """Nothing moves from where it runs, once everything is at rest."""
    nodes, alive, asked, _, _ = case
    rest = result_of((nodes, alive - {name}, asked, {}, {}))
    up = {**nodes, name: a_node(name)}
    then = result_of((up, alive | {name}, asked, rest, {}))
    for one, where in rest.items():
        assert set(where.nodes) <= set(then[one].nodes) or nodes.keys() == up.keys()
        if len(then[one].nodes) > len(where.nodes):
            assert where.why


@settings(max_examples=40)
@given(st.lists(cases(), min_size=2, max_size=4), st.data())
def test_placement_when_kept_up_then_as_if_placed_at_once(
    steps: list[Case], data: st.DataObject
) -> None:
    """After any changes nothing is left that placing everything anew would do."""
    placement = Placement()
    names: set[str] = set()
    placed: dict[str, Placed] = {}
    for nodes, alive, asked, moved, statuses in steps:
        for node in NODES:
            placement.set_node(node, nodes.get(node), alive=node in alive)
        names |= asked.keys() | moved.keys()
        for name in sorted(names):
            placement.set_application(name, asked.get(name))
            if data.draw(st.booleans()):
                placed.pop(name, None)
                if (where := moved.get(name)) is not None:
                    placed[name] = where
                placement.set_placed(name, where)
            placement.set_statuses(name, statuses.get(name, {}))
        placed = after(placed, placement.changes())
        assert run((nodes, alive, asked, placed, statuses)) == {}
        assert placement.changes() == {}


def test_place_when_there_are_many_then_the_load_is_even() -> None:
    """Of 60 nodes and 3,000 applications none has much more than its share."""
    nodes = [a_node(f"n{number}", applications=100, memory_mib=10_000) for number in range(60)]
    asked = [
        an_application(f"a{number}", kind="command", replicas=1 + number % 3)
        for number in range(1500)
    ]
    placed = placed_of(nodes, asked)
    counts = Counter(node for where in placed.values() for node in where.nodes)
    assert sum(counts.values()) == 3000
    assert max(counts.values()) - min(counts.values()) <= 4
    standbys = Counter(node for where in placed.values() for node in where.standby)
    assert max(standbys.values()) - min(standbys.values()) <= 4


def test_place_when_a_node_dies_then_only_what_was_on_it_moves() -> None:
    """Of many: to many, each to its standby, and its standbys' places to others."""
    nodes = {f"n{number}": a_node(f"n{number}", applications=100) for number in range(50)}
    nodes = {name: msgspec.structs.replace(node, memory_mib=10_000) for name, node in nodes.items()}
    asked = {f"a{number}": an_application(f"a{number}") for number in range(2000)}
    placed = after({}, place(nodes, set(nodes), asked, {}))
    changes = place(nodes, set(nodes) - {"n7"}, asked, placed)
    for name, where in changes.items():
        before = placed[name]
        assert where is not None
        assert "n7" in (*before.nodes, *before.standby)
        assert where.nodes == (before.standby if before.nodes == ("n7",) else before.nodes)
    took_over = Counter(where.nodes[0] for where in changes.values() if where is not None)
    assert max(took_over.values()) <= 8
