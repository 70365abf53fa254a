"""`plexspaces top` in a terminal: what it draws, what keys do, and that it leaves no trace."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest
from support.fake_node import FakeNode
from support.fake_telemetry import NODE, activity
from support.screen import (
    CURSOR_HIDDEN,
    CURSOR_SHOWN,
    FIRST_SCREEN,
    OTHER_SCREEN,
    Screen,
    on_screen,
)

from plexspaces_node.api.generated import telemetry_pb2 as pb

Top = Callable[..., AbstractContextManager[Screen]]


def many(count: int) -> pb.WatchActivityResponse:
    """What a node says of many applications, the first with the most coordination."""
    each = [activity(f"app-{number}", 9000, 900 - number) for number in range(count)]
    return pb.WatchActivityResponse(applications=each, node=NODE)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A node that says nothing more after its first update."""
    with FakeNode() as running:
        running.telemetry.updates, running.telemetry.stays = [many(40)], True
        yield running


@pytest.fixture
def top(node: FakeNode) -> Top:
    """The command in a terminal."""
    return partial(on_screen, "top", "--node-address", node.address)


def test_top_when_left_by_its_key_then_the_terminal_is_as_before(top: Top, node: FakeNode) -> None:
    """It draws on the other screen, hides the cursor, and undoes both; the node is left too."""
    with top() as screen:
        before = screen.mode()
        screen.until("app-0", "1–19 of 40", "sorted by coordination")
        assert screen.drawn.startswith(OTHER_SCREEN)
        assert CURSOR_HIDDEN in screen.drawn
        assert screen.mode() != before
        screen.press("q")
        assert screen.ended() == 0
        assert screen.drawn.endswith(CURSOR_SHOWN + FIRST_SCREEN)
        assert screen.mode() == before
    assert node.telemetry.left.wait(20)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_top_when_ended_by_a_signal_then_the_terminal_is_as_before(
    top: Top, number: signal.Signals, status: int
) -> None:
    """The status tells which signal, as with every command."""
    with top() as screen:
        before = screen.mode()
        screen.until("app-0")
        screen.signal(number)
        assert screen.ended() == status
        assert FIRST_SCREEN in screen.drawn
        assert CURSOR_SHOWN in screen.drawn
        assert screen.mode() == before


def test_top_when_ctrl_c_is_pressed_then_it_ends_and_ctrl_z_does_nothing(top: Top) -> None:
    """A stopped program would leave the other screen behind."""
    with top() as screen:
        at = screen.until("app-0")
        screen.press("\x1as")
        screen.until("sorted by compute", since=at)
        screen.press("\x03")
        assert screen.ended() == 130


def test_top_when_keys_are_pressed_then_it_sorts_and_scrolls(top: Top) -> None:
    """Up to the last row and no further; another order begins at the top."""
    with top() as screen:
        at = screen.until("1–19 of 40")
        screen.press("\x1b[B")
        at = screen.until("2–20 of 40", since=at)
        screen.press("\x1b[6~" * 5)
        at = screen.until("22–40 of 40", "app-39", since=at)
        screen.press("\x1b[A")
        at = screen.until("21–39 of 40", since=at)
        screen.press("s")
        screen.until("1–19 of 40", "sorted by compute", since=at)


def test_top_when_the_terminal_changes_then_it_fills_it(top: Top) -> None:
    """More rows, and columns that there was no room for."""
    with top() as screen:
        at = screen.until("1–19 of 40")
        assert b"LANGUAGE" not in screen.drawn
        screen.resize(140, 60)
        screen.until("LANGUAGE", "app-39", since=at)
        screen.resize(20, 3)
        screen.press("q")
        assert screen.ended() == 0


def test_top_when_there_are_no_applications_then_says_how_to_get_one(
    top: Top, node: FakeNode
) -> None:
    """Below the table's head, which would say nothing."""
    node.telemetry.updates = [pb.WatchActivityResponse(node=NODE)]
    with top() as screen:
        screen.until("0 applications", "no applications yet", "plexspaces deploy .")
        screen.press("q")
        assert screen.ended() == 0


def test_top_when_colours_are_not_wanted_then_none(top: Top) -> None:
    """`NO_COLOR` is respected; bars differ by their characters."""
    with top(environ={"NO_COLOR": "1"}) as screen:
        screen.until("app-0", "███████▒")
        assert b"\x1b[3" not in screen.drawn
        assert b"\x1b[9" not in screen.drawn


def test_top_when_the_node_goes_and_comes_again_then_it_shows_it_again(
    top: Top, node: FakeNode
) -> None:
    """It says that it tries, and forgets what the node before said."""
    with top() as screen:
        at = screen.until("app-0")
        node.__exit__(None, None, None)
        at = screen.until("disconnected, trying again", since=at)
        with FakeNode(address=node.address) as following:
            again = pb.WatchActivityResponse(applications=[activity("risen")])
            following.telemetry.updates, following.telemetry.stays = [again], True
            screen.until("1 application, 1 running", "risen", since=at)
            screen.press("q")
            assert screen.ended() == 0


def test_top_when_no_node_ever_answered_then_it_ends_with_an_error(
    top: Top, node: FakeNode
) -> None:
    """A wrong address is not waited for; the error stands on the first screen."""
    node.__exit__(None, None, None)
    with top() as screen:
        assert screen.ended() == 1
        after = screen.drawn.rpartition(FIRST_SCREEN)[2]
        assert b"error" in after
        assert node.address.encode() in after


def test_top_when_the_terminal_cannot_draw_then_one_table(top: Top, node: FakeNode) -> None:
    """As where stdout is no terminal."""
    node.telemetry.updates *= 2
    with top(environ={"TERM": "dumb"}) as screen:
        assert screen.ended() == 0
        assert b"app-39" in screen.drawn
        assert b"\x1b" not in screen.drawn
