"""What a Python actor hands out, built by the real compiler and run by the real agent, is freed.

Each case hands out more than there is room for: an actor that kept it would trap on the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.actors import compiled
from support.languages import CONFORMANCE, built_from
from support.peer import ACTOR, PLATFORM, Given, Peer, Replied

from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB

MEMORY_BYTES = 32 * MIB
"""What an actor has, interpreter and all, and what each case hands out."""
SIZE = 100_000
NO = link.Failure(origin=PLATFORM, code="resource_exhausted", message="no room")


@dataclass(frozen=True)
class Call:
    """A function of the host that takes bytes.

    Attributes:
        name: the message that makes the actor call it.
        message: what that message holds beside the bytes, which are its `field`.
        frame: what the call becomes on the link.
    """

    name: str
    message: dict[str, str]
    field: str
    frame: type[link.Put | link.Tell | link.Ask]


CALLS = [
    Call("put", {"key": "k"}, "value", link.Put),
    Call("tell", {"to": "other", "type": "t"}, "data", link.Tell),
    Call("ask", {"to": "other", "type": "t"}, "data", link.Ask),
]


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conformance actor, compiled as a node does."""
    directory = tmp_path_factory.mktemp("python")
    return compiled(
        built_from(CONFORMANCE / "python", directory / "built.wasm").path.read_bytes(), directory
    )


@pytest.fixture
def actor(tmp_path: Path, code: Path) -> Iterator[Peer]:
    with Peer(tmp_path) as peer:
        assert isinstance(peer.load(code, memory_bytes=MEMORY_BYTES), link.Loaded)
        yield peer


def sent(actor: Peer, call: Call, data: str) -> Replied:
    """Have the actor call the host with the data, and return what it replies."""
    message = {**call.message, call.field: data}
    return actor.invoke(call.name, json.dumps(message).encode())


def handed(actor: Peer, call: Call) -> bytes:
    """Return what the host got since the last time."""
    [seen] = actor.bodies(call.frame)
    actor.seen.clear()
    return seen


@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_what_is_handed_to_the_host_does_not_fill_the_actor(actor: Peer, call: Call) -> None:
    """More than it has room for goes through one instance, whole, and the state lives on."""
    actor.invoke("count")
    actor.host_answers[call.frame] = Given(b"")
    for number in range(MEMORY_BYTES // SIZE):
        data = str(number % 10) * SIZE
        assert sent(actor, call, data).failure is None, number
        assert handed(actor, call) == data.encode()
    assert actor.invoke("state").payload == b"1"


@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_what_the_host_refuses_does_not_fill_the_actor(actor: Peer, call: Call) -> None:
    """The bytes are freed once when the host answers with an error, and the error holds none."""
    actor.invoke("count")
    actor.host_answers[call.frame] = Given(failure=NO)
    for number in range(MEMORY_BYTES // SIZE):
        data = str(number % 10) * SIZE
        failure = sent(actor, call, data).failure
        assert failure is not None
        assert failure.origin == ACTOR, (number, failure)
        assert handed(actor, call) == data.encode()
    assert actor.invoke("state").payload == b"1"
