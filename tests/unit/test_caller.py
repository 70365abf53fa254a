"""What one node tells another of who calls, and what is not believed."""

from __future__ import annotations

import pytest

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.access.identity import LOCAL, NOBODY, UNGUARDED, Identity, Kind, Scope
from plexspaces_node.node.applications.waits import MOST_WAITING
from plexspaces_node.node.cluster.caller import (
    MOST_BYTES,
    application_identity,
    caller_text,
    parse_caller,
    parse_waiting,
    waiting_text,
)

TOKEN = Identity(Kind.TOKEN, "ci", frozenset({Scope.DEPLOY, Scope.INVOKE}), "shop", "cart-*")


@pytest.mark.parametrize(
    "identity", [LOCAL, UNGUARDED, NOBODY, TOKEN, application_identity("shop/cart")]
)
def test_caller_when_told_then_the_same(identity: Identity) -> None:
    """The node's own constants are the objects, for they are compared so."""
    text = caller_text(identity, peer="unix:é\n", scheme="https", is_local=True)
    assert text.isascii()
    assert b"\n" not in text
    caller, found = parse_caller(text)
    assert found == identity
    assert (caller.peer, caller.scheme, caller.is_local) == ("unix:é\n", "https", True)
    if identity in (LOCAL, UNGUARDED, NOBODY):
        assert found is identity


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        caller_text(TOKEN).replace(b"token", b"king"),
        caller_text(TOKEN).replace(b"deploy", b"root"),
        caller_text(TOKEN)[:-1] + b',"more":1}',
        caller_text(TOKEN)[:-1] + b',"scheme":"ftp"}',
        caller_text(TOKEN).replace(b"ci", b"c" * 300),
        caller_text(TOKEN) + b" " * MOST_BYTES,
        b"[" * 100_000,
    ],
)
def test_caller_when_it_is_anything_else_then_refused(text: bytes) -> None:
    """What a later version says too: nobody gets more than was meant."""
    with pytest.raises(InvalidArgument):
        parse_caller(text)


def test_waiting_when_told_then_the_same() -> None:
    """In their order; nobody is nothing."""
    for waiting in ((), ("a",), ("shop/a", "b")):
        assert parse_waiting(waiting_text(waiting)) == waiting


@pytest.mark.parametrize("text", ["A", "a,", ",", "a/b/c", ",".join(["a"] * (MOST_WAITING + 1))])
def test_waiting_when_it_is_anything_else_then_refused(text: str) -> None:
    """Names only, and not more than one node tells another."""
    with pytest.raises(InvalidArgument):
        parse_waiting(text)
