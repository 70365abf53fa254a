"""Where applications run: a function of the nodes, the applications, and where they run now.

It has no clock, no chance and no I/O: whoever calls it with the same gets the same, whatever the
order. The rules, the most important first:

- What runs stays where it is, as long as its node is alive, up, and has the level and labels.
- A node never gets more than it has room for. What it has already stays when its room shrinks.
- Replicas are on nodes of their own. Where there is a choice, the node with the least load gets it.
- An application that runs on one node has a standby, which keeps a copy of its artifact.
- A node that drains is emptied: another serves before it stops. An actor moves when its standby is
  ready.
- What was on a node that is away moves; an actor to its standby, if that has room. If nobody else
  can have it, it stays there until that node is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice

from plexspaces_node.model import ApplicationState, ArtifactKind
from plexspaces_node.node.cluster.known import everywhere
from plexspaces_node.node.cluster.records import (
    READY,
    Application,
    Node,
    Placed,
    Status,
    Wanted,
)
from plexspaces_node.node.cluster.room import Rooms

_ROUNDS = 10
"""How often what was freed is given to others before more is waited for."""

_SEE = "; see: plexspaces nodes"


def place(
    nodes: Mapping[str, Node],
    alive: Set[str],
    applications: Mapping[str, Application],
    placed: Mapping[str, Placed],
    statuses: Callable[[str], Mapping[str, Status]] = lambda _: {},
) -> dict[str, Placed | None]:
    """Return what has to change, by full name; None for a record that goes.

    `alive` are the ids of nodes that are; `statuses` returns what nodes have done about an
    application.
    """
    placement = Placement()
    for node in nodes.values():
        placement.set_node(node.id, node, alive=node.id in alive)
    for name, application in applications.items():
        placement.set_application(name, application)
    for name, where in placed.items():
        placement.set_placed(name, where)
    for name in applications:
        if found := statuses(name):
            placement.set_statuses(name, found)
    return placement.changes()


@dataclass(slots=True, eq=False)
class _One:
    """An application on its way to its places.

    Attributes:
        now: where it is counted: the record that is there or was proposed, less what cannot stay.
        before: the record itself.
        stays: which of its nodes run it from now on; `added` others do.
        to_leave: which it has to leave, and which serve it until then.
        away: which are not alive.
        waits: whether it is an actor that leaves its node once its standby is ready.
    """

    name: str
    application: Application | None = None
    now: Placed | None = None
    before: Placed | None = None
    statuses: Mapping[str, Status] = field(default_factory=dict)
    stays: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    to_leave: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    waits: bool = False

    @property
    def asked(self) -> Application:
        """What the user has asked for, of one that is there."""
        assert self.application is not None
        return self.application

    @property
    def memory_mib(self) -> int:
        """How much memory it has on each node."""
        return self.application.memory_mib if self.application is not None else 0

    @property
    def is_actor(self) -> bool:
        """Whether two nodes must never run it at once."""
        return self.asked.kind == ArtifactKind.ACTOR

    @property
    def missing(self) -> int:
        """How many more nodes shall run it."""
        wanted = 1 if self.is_actor else self.asked.replicas
        return wanted - len(self.stays) - len(self.added)

    def is_in(self, node: str, state: str) -> bool:
        """Return whether a node says that the application is in a state there."""
        status = self.statuses.get(node)
        return status is not None and status.id == self.asked.id and status.state == state

    def serves_on(self, node: str) -> bool:
        """Return whether it runs there and shall, as far as is known."""
        return self.asked.wanted is Wanted.RUNNING and self.is_in(node, ApplicationState.RUNNING)

    def is_new_on(self, node: str) -> bool:
        """Return whether a node has not yet acted on what is asked for now."""
        status = self.statuses.get(node)
        return status is None or status.generation != self.asked.generation


class Placement:
    """The same, kept up: what changed is looked at again, and nothing else.

    After any number of changes `place` of the same finds nothing more to do.
    """

    def __init__(self) -> None:
        """Neither nodes nor applications yet."""
        self._rooms = Rooms()
        self._all: dict[str, _One] = {}
        # In the order in which it came.
        self._dirty: dict[str, None] = {}
        # What is looked at again once there is more room, and once there are other nodes.
        self._short: set[str] = set()
        self._alone: set[str] = set()

    def __repr__(self) -> str:
        return f"<Placement of {len(self._all)} applications, {len(self._short)} short>"

    def set_node(self, node: str, record: Node | None, *, alive: bool) -> None:
        """Say how a node is now; None for one that has been removed."""
        names = set(self._rooms.names_on(node))
        if self._rooms.set_node(node, record, alive=alive):
            self._dirty.update(dict.fromkeys(names | self._alone))

    def set_application(self, name: str, application: Application | None) -> None:
        """Say what is asked for; None for an application that is gone."""
        one = self._one(name)
        if one.application == application:
            return
        self._occupy(one, -1)
        if one.memory_mib > (application.memory_mib if application is not None else 0):
            self._rooms.freed()
        one.application = application
        self._occupy(one, 1)
        self._dirty[name] = None
        for node in _occupied(one.now):
            site = self._rooms.site(node)
            if site is not None and site.has_too_much():
                self._dirty.update(dict.fromkeys(site.names))

    def set_placed(self, name: str, placed: Placed | None) -> None:
        """Say where an application is; None for nowhere."""
        one = self._one(name)
        if one.before != placed:
            one.before = placed
            self._move(one, placed)
            self._dirty[name] = None

    def set_statuses(self, name: str, statuses: Mapping[str, Status]) -> None:
        """Say what nodes have done about an application."""
        self._one(name).statuses = dict(statuses)
        self._dirty[name] = None

    @property
    def is_at_rest(self) -> bool:
        """Whether `changes` has nothing to look at."""
        return not self._dirty

    def changes(self, most: int | None = None) -> dict[str, Placed | None]:
        """Return what has to change, by full name, and take it as done.

        Whoever could not write one of them says with `set_placed` how it is. Looks at no more than
        `most` of what has changed, and takes some 50 µs for each; see `is_at_rest`.
        """
        result: dict[str, Placed | None] = {}
        # What one frees, another may need.
        for _ in range(_ROUNDS):
            if self._rooms.take_freed():
                self._dirty.update(dict.fromkeys(self._short))
            if not self._dirty:
                break
            some = list(self._dirty) if most is None else list(islice(self._dirty, most))
            for name in some:
                del self._dirty[name]
            self._place([self._all[name] for name in some], result)
            if most is not None:
                break
        return result

    def _place(self, dirty: Iterable[_One], result: dict[str, Placed | None]) -> None:
        waiting = []
        for one in dirty:
            if one.application is None:
                self._forget(one, result)
            else:
                waiting.append(one)
        # Large ones first, while there is room; one place for each before anybody gets a second.
        waiting.sort(key=lambda one: (-one.memory_mib, one.name))
        self._rooms.none_yields()
        for one in waiting:
            self._keep(one)
        for one in waiting:
            if not one.stays:
                self._add(one, 1)
        for one in waiting:
            self._add(one, one.missing)
        for one in waiting:
            placed = self._decided(one)
            for node in one.added:
                self._rooms.occupy(node, one.memory_mib, -1)
            self._move(one, placed)
            if placed != one.before:
                result[one.name] = one.before = placed

    def _one(self, name: str) -> _One:
        if (one := self._all.get(name)) is None:
            one = self._all[name] = _One(name)
        return one

    def _forget(self, one: _One, result: dict[str, Placed | None]) -> None:
        self._short.discard(one.name)
        self._alone.discard(one.name)
        self._move(one, None)
        if one.before is not None:
            result[one.name] = None
        del self._all[one.name]

    def _occupy(self, one: _One, sign: int) -> None:
        if one.now is None:
            return
        for node in _occupied(one.now):
            self._rooms.occupy(node, one.memory_mib, sign)
        for node in one.now.leaving:
            self._rooms.is_left(node, one.memory_mib, sign)

    def _move(self, one: _One, placed: Placed | None) -> None:
        """Count an application where it is from now on."""
        if one.now is placed:
            return
        if one.now is not None and placed is not None and _is_counted_as(one.now, placed):
            one.now = placed
            return
        self._occupy(one, -1)
        if _occupied(one.now) - _occupied(placed):
            self._rooms.freed()
        was = everywhere(one.now) if one.now is not None else ()
        for node in one.now.standby if one.now is not None else ():
            self._rooms.stand_by(node, -1)
        one.now = placed
        self._occupy(one, 1)
        for node in placed.standby if placed is not None else ():
            self._rooms.stand_by(node, 1)
        there = everywhere(placed) if placed is not None else ()
        for node in there:
            self._rooms.enter(node, one.name)
        for node in was:
            if node not in there:
                self._rooms.leave(node, one.name)

    def _keep(self, one: _One) -> None:
        """Find what can stay, and give up what nobody needs."""
        one.stays, one.added, one.to_leave, one.away = [], [], [], []
        one.waits = False
        if one.now is None:
            return
        if one.now.id != one.asked.id:
            # It is another's, of the same name.
            self._move(one, None)
            return
        for node in (*one.now.nodes, *one.now.leaving):
            site = self._rooms.site(node)
            if site is None or node in one.stays or node in one.to_leave:
                continue
            if not site.alive:
                one.away.append(node)
            elif not site.can_run(one.asked):
                one.to_leave.append(node)
            elif site.has_too_much() and one.is_new_on(node):
                site.yielding_mib += one.memory_mib
                one.to_leave.append(node)
            elif one.missing > 0:
                one.stays.append(node)
        # Nobody else needs what it gives up before it has what it moves to.
        kept = {*one.stays, *one.to_leave, *one.away}
        nodes = tuple(node for node in one.now.nodes if node in kept)
        leaving = tuple(node for node in one.now.leaving if node in kept)
        self._move(
            one, Placed(id=one.asked.id, nodes=nodes, standby=one.now.standby, leaving=leaving)
        )

    def _add(self, one: _One, count: int) -> None:
        """Give an application so many more nodes, as far as there are."""
        if count < 1:
            return
        one.waits = self._waits_for_standby(one)
        if one.waits:
            return
        for _ in range(count):
            ready = [node for node in _standby(one) if self._can_take(one, node)]
            without = {*one.stays, *one.added, *one.to_leave}
            node = ready[0] if ready else self._rooms.choose(one.asked, without)
            if node is None:
                return
            one.added.append(node)
            self._rooms.occupy(node, one.memory_mib)

    def _can_take(self, one: _One, node: str) -> bool:
        """Return whether a node that has the artifact can run it now."""
        site = self._rooms.site(node)
        return (
            site is not None
            and site.can_run(one.asked)
            and site.has_room(one.memory_mib)
            and node not in (*one.stays, *one.added, *one.to_leave)
        )

    def _waits_for_standby(self, one: _One) -> bool:
        """Return whether an actor serves, has to leave its node, and its next one is not ready."""
        if not one.is_actor or not any(map(one.serves_on, one.to_leave)):
            return False
        return not any(
            self._can_take(one, node) and one.is_in(node, READY) for node in _standby(one)
        )

    def _decided(self, one: _One) -> Placed:
        """Return where an application is from now on."""
        missing = one.missing
        run = {*one.stays, *one.added}
        # Nobody else can have it: it stays where it is, unless others serve it meanwhile.
        stuck = one.away if run else (*one.to_leave, *one.away)
        run.update(stuck[:missing])
        old = one.now.nodes if one.now is not None else ()
        # Those of `leaving` that run it again come after.
        again = one.now.leaving if one.now is not None else ()
        nodes = tuple(dict.fromkeys(node for node in (*old, *again, *one.added) if node in run))
        leaving: tuple[str, ...] = ()
        if not one.is_actor and not self._is_served(one, nodes):
            leaving = tuple(
                node for node in one.to_leave if node not in run and one.serves_on(node)
            )
        standby = self._standby(one, nodes)
        short = missing > 0 and not (one.waits and standby and self._can_take(one, standby[0]))
        (self._short.add if short else self._short.discard)(one.name)
        is_alone = len(nodes) < 2 and not standby
        (self._alone.add if is_alone else self._alone.discard)(one.name)
        why = _why(one, self._rooms) if short else ""
        return Placed(id=one.asked.id, nodes=nodes, standby=standby, leaving=leaving, why=why)

    def _is_served(self, one: _One, nodes: Sequence[str]) -> bool:
        """Return whether the nodes serve that are alive."""
        alive = [node for node in nodes if self._rooms.is_alive(node)]
        return bool(alive) and all(map(one.serves_on, alive))

    def _standby(self, one: _One, nodes: Sequence[str]) -> tuple[str, ...]:
        """Return who keeps the artifact beside the one node that runs it."""
        if len(nodes) > 1:
            return ()
        for node in _standby(one)[:1]:
            site = self._rooms.site(node)
            if site is None or node in nodes or not site.can_run(one.asked):
                continue
            # One that waits moves there, unlike one that may never have to.
            if not one.waits or site.has_room(one.memory_mib):
                return (node,)
        chosen = self._rooms.choose(one.asked, nodes) if one.waits else None
        if chosen is None:
            chosen = self._rooms.choose_standby(one.asked, nodes)
        return (chosen,) if chosen is not None else ()


def _standby(one: _One) -> tuple[str, ...]:
    return one.now.standby if one.now is not None else ()


def _is_counted_as(placed: Placed, other: Placed) -> bool:
    return (
        placed.nodes == other.nodes
        and placed.standby == other.standby
        and placed.leaving == other.leaving
    )


def _occupied(placed: Placed | None) -> Set[str]:
    """Return the nodes on which an application takes room."""
    return {*placed.nodes, *placed.leaving} if placed is not None else frozenset()


def _why(one: _One, rooms: Rooms) -> str:
    """Return why an application has fewer places than it should."""
    asked = one.asked
    labels = [f"the label {label}={value}" for label, value in sorted(asked.on.items())]
    needs = " and ".join([f"the level {asked.level}"] * bool(asked.level) + labels)
    fitting = len(rooms.fitting(asked))
    wanted = 1 if one.is_actor else asked.replicas
    if not fitting:
        fact = f"no node that is up has {needs}" if needs else "no node is up"
    elif fitting < wanted:
        with_ = f" with {needs}" if needs else ""
        fact = f"{wanted} replicas need as many nodes{with_}, and fewer are up"
    else:
        fact = f"no other node has room for {asked.memory_mib} MiB"
        fact += f" and has {needs}" if needs else ""
    return fact + _SEE
