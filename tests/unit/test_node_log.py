"""The node's log where nobody reads it: what waits, what is dropped, what is told."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.patience import patient

from plexspaces_node.cli import node_log

_log = logging.getLogger("plexspaces_node.node")


@contextmanager
def _stderr_is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield the other end of a small pipe; the log's thread has to end with it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with open(writer, "w", encoding="utf-8") as stderr, monkeypatch.context() as patch:
        # In the test itself: between the phases of a test pytest puts its own in its place.
        patch.setattr(sys, "stderr", stderr)
        try:
            yield reader
        finally:
            os.close(reader)
            for thread in threading.enumerate():
                if thread.name == node_log.THREAD:
                    thread.join(patient(10.0))
    assert node_log.THREAD not in [thread.name for thread in threading.enumerate()]


def test_log_when_nobody_reads_it_then_nothing_waits_and_its_end_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither an event nor a line written beside the log nor the end waits for a reader."""
    with _stderr_is_a_pipe(monkeypatch) as reader:
        with node_log.to_stderr("info", "auto", end_timeout_s=0.01):
            for i in range(2 * node_log.QUEUED_LINES):
                _log.info("event %d", i)
                sys.stderr.write("beside it\n")
        assert 0 < len(os.read(reader, 65536)) <= 4096


def test_log_when_it_is_read_again_then_it_tells_how_many_lines_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every line is written or counted among those that were dropped."""
    logged = 2 * node_log.QUEUED_LINES
    said = bytearray()
    with _stderr_is_a_pipe(monkeypatch) as reader:
        with node_log.to_stderr("info", "auto", end_timeout_s=patient(10.0)):
            for i in range(logged):
                _log.info("event %d", i)
            while b"dropped" not in said:
                said += os.read(reader, 65536)
                _log.info("event again")
                logged += 1
            reading = threading.Thread(target=_read, args=(reader, said))
            reading.start()
        sys.stderr.close()
        reading.join(patient(10.0))
    dropped = [int(count) for count in re.findall(rb"(\d+) lines were dropped", said)]
    assert dropped[0] > 0
    assert said.count(b'"event": "event ') + sum(dropped) == logged


def _read(reader: int, said: bytearray) -> None:
    while data := os.read(reader, 65536):
        said += data


@pytest.mark.parametrize("form", ["console", "json"])
def test_traceback_when_logged_then_without_local_variables(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """They can be an application's environment, with its secrets."""

    def fail(environment: dict[str, str]) -> None:
        raise RuntimeError(f"of {len(environment)}")

    with node_log.to_stderr("info", form):
        environment = {"DB_URL": "-".join(("s3cret", form))}
        try:
            fail(environment)
        except RuntimeError:
            _log.exception("it failed")
    said = capsys.readouterr().err
    assert "RuntimeError: of 1" in said
    assert "fail(environment)" in said
    assert f"s3cret-{form}" not in said
