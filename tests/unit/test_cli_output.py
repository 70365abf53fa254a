"""Formats, progress and the node's log."""

from __future__ import annotations

import io
import json
import logging

import pytest
from rich.console import Console

from plexspaces_node.cli import node_log
from plexspaces_node.cli.output import (
    milliseconds,
    moment,
    printable,
    size,
)
from plexspaces_node.cli.progress import DeployDisplay, counting, working
from plexspaces_node.client import Progress
from plexspaces_node.errors import Unavailable


@pytest.mark.parametrize(
    ("duration_ns", "shown"),
    [
        (0, "0 ms"),
        (1, "<0.01 ms"),
        (10_000, "0.01 ms"),
        (3_210_000, "3.21 ms"),
        (9_990_000, "9.99 ms"),
        (10_000_000, "10 ms"),
        (61_234_567_890, "61235 ms"),
    ],
)
def test_milliseconds_when_short_or_long_then_the_digits_that_matter(
    duration_ns: int, shown: str
) -> None:
    """What took time is never shown as nothing."""
    assert milliseconds(duration_ns) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB")]
)
def test_size_when_small_or_large_then_a_fitting_unit(size_bytes: int, shown: str) -> None:
    """Binary units, named as such."""
    assert size(size_bytes) == shown


def test_moment_when_before_or_after_the_epoch_then_utc_to_the_millisecond() -> None:
    """No local time zone, and a clock that is wrong does not crash a listing."""
    assert moment(1_700_000_000_123_999_999) == "2023-11-14T22:13:20.123Z"
    assert moment(-1) == "1969-12-31T23:59:59.999Z"


def test_printable_when_text_would_steer_a_terminal_then_it_is_shown_instead() -> None:
    """Escapes, bells and returns are made visible; letters and tabs stay."""
    assert printable("a\tß\x1b[2J\r\x07\u202e") == "a\tß\\x1b[2J\\r\\x07\\u202e"


def test_deploy_display_when_on_a_terminal_then_a_bar_with_the_bytes() -> None:
    """A person watching sees how much is sent and which phase has begun."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with DeployDisplay(console) as display:
        display(Progress("upload", 512 * 1024, 2 * 1024 * 1024))
        display._display.refresh()
        display(Progress("compile"))
        display._display.refresh()
    assert "512.0 KiB of 2.0 MiB" in written.getvalue()
    assert "compiling" in written.getvalue()


def test_counting_when_not_on_a_terminal_then_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A log of a CI run gets no bar of control characters."""
    with counting("calc: 2 messages", 2) as on_message:
        on_message()
        on_message()
    assert capsys.readouterr() == ("", "calc: 2 messages\n")


def test_working_when_on_a_terminal_then_it_moves_shows_the_time_and_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody wonders for half a minute whether a compiler still runs."""
    monkeypatch.setenv("TERM", "xterm")
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with working("building", console) as step:
        step("calc: compiling with rustc")
    shown = written.getvalue()
    assert "calc: compiling with rustc" in shown
    assert "0:00:0" in shown
    assert shown.endswith("\x1b[2K")


def test_working_when_not_on_a_terminal_then_a_line_a_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is read later gets the steps, and nothing where there are none."""
    with working("building") as step:
        step("calc: compiling")
    assert capsys.readouterr() == ("", "calc: compiling\n")


def test_node_log_when_not_on_a_terminal_then_json_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A collector gets one object an event, exceptions and extra fields included."""
    log = logging.getLogger("plexspaces_node.node.applications.supervisor")
    with node_log.to_stderr("info", "auto"):
        log.debug("not shown")
        try:
            raise Unavailable("gone")
        except Unavailable:
            log.exception("application %s failed", "calc", extra={"vm_id": "vm-1"})
    captured = capsys.readouterr()
    assert captured.out == ""
    (event,) = (json.loads(line) for line in captured.err.splitlines())
    assert (event["event"], event["level"]) == ("application calc failed", "error")
    assert event["vm_id"] == "vm-1"
    assert "Unavailable: gone" in event["exception"]
    assert event["timestamp"].endswith("Z")


def test_node_log_when_console_then_one_readable_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A person at a terminal reads a line, and only from the level asked for."""
    log = logging.getLogger("plexspaces_node.node")
    with node_log.to_stderr("warning", "console"):
        log.info("not shown")
        log.warning("address in use")
    (line,) = capsys.readouterr().err.splitlines()
    assert "address in use" in line
    assert not line.startswith("{")
