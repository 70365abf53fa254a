"""What the nodes of a cluster tell each other through its registry: its keys, and what is in them.

Each kind of record has one writer, so that two never overwrite each other:

    node.NODE                the node itself: where it is reached and what it can run
    beat.NODE                the node itself, every second; the leader once, to declare it dead
    leader                   whoever leads
    app.TENANT.NAME          the node that a user has asked: what shall run
    placed.TENANT.NAME       the leader: where it runs
    status.NODE.TENANT.NAME  the node: what it has done about that

The revision of an application's `placed` record is its epoch: an actor's state is written under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from plexspaces_node.model import split_name


class NodeState(StrEnum):
    """What a node wants to be; whether it is alive, its beats tell."""

    UP = "up"
    DRAINING = "draining"
    """Its applications move to other nodes, and no others come."""


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the cluster.

    Attributes:
        http: HOST:PORT where it serves other nodes' messages; `grpc` their calls.
        route: HOST:PORT of its NATS server for other servers, "" if it has none of its own.
        server: the name of its NATS server, "" if it has none of its own.
        levels: the isolation level of its applications.
        memory_mib: how much memory its applications' VMs may have together.
        applications: how many applications it takes.
        labels: what `--on` selects by.
        incarnation: another number after each start.
    """

    id: str
    http: str
    grpc: str
    version: str
    level: str
    memory_mib: int
    applications: int
    incarnation: int
    route: str = ""
    server: str = ""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    state: NodeState = NodeState.UP


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sign of life.

    Attributes:
        count: one more each time.
        dead: whether the leader has declared the node dead; it may not serve its actors from then
            on, until it has written a beat again.
        left: whether the node has stopped by itself: it serves nothing any more.
    """

    incarnation: int
    count: int
    dead: bool = False
    left: bool = False


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads, and how often they have said so."""

    node: str
    count: int


class Wanted(StrEnum):
    """What a user wants of an application."""

    RUNNING = "running"
    STOPPED = "stopped"


class Application(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user has asked for: the fields of a deploy.

    Attributes:
        generation: raised by every change.
        version, language, kind, digest, vcpus, memory_mib, env, args, concurrency, allow_hosts,
            secrets, public: as in `registry.ApplicationRecord`.
        replicas: how many nodes run it; 1 for an actor.
        on: the labels that its nodes must have.
        level: the isolation level that its nodes must have, "" for any.
        source: a node that has its artifact.
        deploying: the node whose client still waits for the deploy, "" when it is done. Until then
            it is not an application, and what is left of it is removed when that node ends.
        before: what ran before, while it is being replaced, so that it can be put back; encoded.
        force: it is stopped even if its state cannot be saved.
    """

    name: str
    id: str
    generation: int
    version: str
    language: str
    kind: str
    digest: str
    vcpus: int
    memory_mib: int
    created_ns: int
    source: str
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    args: tuple[str, ...] = ()
    concurrency: int = 0
    allow_hosts: tuple[str, ...] = ()
    secrets: Mapping[str, str] = msgspec.field(default_factory=dict)
    public: bool = False
    wanted: Wanted = Wanted.RUNNING
    replicas: int = 1
    on: Mapping[str, str] = msgspec.field(default_factory=dict)
    level: str = ""
    request_id: str = ""
    deploying: str = ""
    before: bytes = b""
    force: bool = False

    def __repr__(self) -> str:
        # Not its environment and arguments, in which there may be secrets.
        return f"<Application {self.name} {self.generation} {self.wanted}>"


class Placed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an application runs.

    Attributes:
        nodes: which run it; for an actor at most one, its owner. Fewer than wanted if no others
            have room: `why` says it then.
        standby: which keep its artifact, compiled, to take over quickly.
        leaving: which still serve it until enough of `nodes` do.
    """

    id: str
    nodes: tuple[str, ...]
    standby: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    why: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node has done about an application that is placed on it.

    Attributes:
        id: the application's.
        generation: of the `Application` that it has acted on.
        epoch: the revision of the `Placed` record that it has acted on.
        state: of `model.ApplicationState`; "Ready" for a standby that has the artifact, "Gone" for
            a node that serves it no more and has handed over its state.
        error, code, hint: of what failed, "" for nothing.
        timings: of the deploy or start, as in `registry.ApplicationRecord`, encoded.
        phase: what it does just now of a start, as a deploy tells its client; "" for nothing.
        failure: of an actor's own error its kind, "failed" or "trapped"; "" for any other.
    """

    id: str
    generation: int
    epoch: int
    state: str
    error: str = ""
    code: str = ""
    hint: str = ""
    vm_id: str = ""
    timings: bytes = b""
    phase: str = ""
    failure: str = ""


REMOVED = 0
"""The incarnation of no node: the beat of one that is being removed though it is alive."""

READY, GONE = "Ready", "Gone"
"""States that only `Status` has."""

LEADER = "leader"
"""The key of `Leader`."""


def node_key(node: str) -> str:
    """Return the key of a node's `Node`."""
    return f"node.{node}"


def beat_key(node: str) -> str:
    """Return the key of a node's `Beat`."""
    return f"beat.{node}"


def application_key(name: str) -> str:
    """Return the key of an application's `Application`, by its full name."""
    return "app." + ".".join(split_name(name))


def placed_key(name: str) -> str:
    """Return the key of an application's `Placed`, by its full name."""
    return "placed." + ".".join(split_name(name))


def status_key(node: str, name: str) -> str:
    """Return the key of a node's `Status` of an application, by its full name."""
    return f"status.{node}." + ".".join(split_name(name))
