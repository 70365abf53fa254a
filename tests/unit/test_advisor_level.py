"""The rule `level`: what another isolation level would save or cost, by figures of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plexspaces_node import level_figures
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.level_figures import LevelFigures
from plexspaces_node.node.advisor import level, thresholds
from plexspaces_node.node.advisor.advice import Advice, Rule
from plexspaces_node.node.advisor.figures import Figures
from plexspaces_node.node.advisor.level import Load
from plexspaces_node.node.telemetry.timeline import Spent

US = 1000
MS = 1000 * US
DAY_NS = 86_400 * 1_000_000_000
NOW_NS = 1_800_000_000 * 1_000_000_000
LOAD = Load("app", messages=1000, rate=100.0, compute_s=0.01, time_s=0.1)
"""100 messages a second of 1 ms, of which a tenth is compute."""


def figures(name: str, **changes: Any) -> LevelFigures:
    """A level that passes a message in 100 µs."""
    made: dict[str, Any] = {
        "link_ns": 100 * US,
        "compute_ns": 2 * MS,
        "vm_ns": 5 * MS,
        "load_ns": 3 * MS,
        "messages": 200,
        "starts": 3,
        "measured_unix_ns": NOW_NS,
        "version": "1",
    }
    return LevelFigures(level=name, **(made | changes))


def advised(here: LevelFigures, *others: LevelFigures, load: Load = LOAD) -> list[Advice]:
    known = {one.level: one for one in (here, *others)}
    return list(level.advise(load, known, here=here.level, node_id="n1"))


def test_weaker_level_that_saves_much_is_told_with_what_is_lost() -> None:
    """300 µs of each of 100 messages a second are 30 ms."""
    [advice] = advised(figures("qemu", link_ns=400 * US), figures("process"))
    assert (advice.rule, advice.application) == (Rule.LEVEL, "app")
    assert advice.saved_s_per_s == pytest.approx(0.03)
    assert "take 30 % less time; but no virtual machine is left" in advice.advice
    assert "only for code that you trust" in advice.advice
    assert advice.command == "plexspaces start-node --node-id n1 --isolation process"


def test_weaker_level_is_told_from_a_tenth_of_the_time_on() -> None:
    """It is never told as if it were free."""
    assert advised(figures("qemu", link_ns=201 * US), figures("process"))
    assert not advised(figures("qemu", link_ns=199 * US), figures("process"))
    assert not advised(figures("firecracker"), figures("qemu"))


def test_stronger_level_that_costs_little_is_told_with_its_cost() -> None:
    """Up to a tenth of the time of messages."""
    [advice] = advised(figures("process"), figures("qemu", link_ns=199 * US))
    assert advice.saved_s_per_s == pytest.approx(-0.0099)
    assert "take 10 % more time; each then runs in a virtual machine" in advice.advice
    assert advice.reckoning.count("9.9 ms of each second more") == 1
    assert not advised(figures("process"), figures("qemu", link_ns=201 * US))


def test_levels_of_equal_strength_are_told_apart_by_their_order() -> None:
    """From QEMU to Firecracker is stronger, and the other way weaker."""
    slow, fast = {"link_ns": 900 * US}, {"link_ns": 100 * US}
    [up] = advised(figures("qemu", **slow), figures("firecracker", **fast))
    assert up.saved_s_per_s > 0
    assert "jailer" in up.advice
    [down] = advised(figures("firecracker", **slow), figures("qemu", **fast))
    assert "QEMU is a larger program" in down.advice


def test_compute_counts_if_it_differs_by_more_than_runs_do() -> None:
    """An emulated VM computes slower; a tenth is chance."""
    here = figures("process")
    load = LOAD._replace(compute_s=0.09)
    assert level.cost_s(load, here, figures("qemu", compute_ns=2199 * US)) == 0
    there = figures("qemu", compute_ns=6 * MS, emulated=True)
    assert level.cost_s(load, here, there) == pytest.approx(0.18)
    [advice] = level.advise(
        load._replace(time_s=10.0), {"process": here, "qemu": there}, here="process", node_id="n1"
    )
    assert "qemu, which is emulated here," in advice.advice


def test_level_without_figures_or_messages_is_not_told() -> None:
    """What lacks is listed with the command that measures it."""
    qemu, process = figures("qemu", link_ns=900 * US), figures("process")
    few = LOAD._replace(messages=thresholds.MESSAGES - 1)
    assert not advised(qemu, process, load=few)
    assert not list(level.advise(LOAD, {"process": process}, here="qemu", node_id="n1"))
    [line] = level.missing({"process": process}, "qemu")
    assert "what qemu costs" in line
    assert line.endswith("plexspaces advise --measure")
    [line] = level.missing({"process": process}, "process")
    assert "firecracker and qemu" in line
    everything = {name: figures(name) for name in ("firecracker", "qemu", "process")}
    assert not list(level.missing(everything, "process"))


def test_old_figures_and_those_of_another_version_are_not_used() -> None:
    """They may no longer be true."""
    known = {"process": figures("process")}
    assert level.usable(known, "1", NOW_NS + thresholds.LEVEL_DAYS * DAY_NS) == known
    assert not level.usable(known, "1", NOW_NS + thresholds.LEVEL_DAYS * DAY_NS + 1)
    assert not level.usable(known, "2", NOW_NS)


def test_load_is_that_of_applications_with_enough_messages() -> None:
    """Together, per second; named if there is only one."""
    busy = Figures("busy", 10.0, 10.0, Spent(100, 0, 10 * MS, 0, 0, 90 * MS))
    few = Figures("few", 10.0, 10.0, Spent(99, 0, 10 * MS, 0, 0, 90 * MS))
    load = level.load_of([busy, few])
    assert load[:3] == ("", 100, 10.0)
    assert load[3:] == pytest.approx((0.001, 0.01))
    assert level.load_of([busy]).application == "busy"
    assert level.load_of([few]) == Load("few", 0, 0, 0.0, 0.0)


# ---- the file --------------------------------------------------------------------------------


def test_figures_that_are_written_are_read(tmp_path: Path) -> None:
    """Levels that were not measured this time keep theirs."""
    path = tmp_path / "levels" / "host.json"
    level_figures.write(path, [figures("process"), figures("qemu")])
    level_figures.write(path, [figures("process", link_ns=7)])
    assert level_figures.read(path) == {
        "process": figures("process", link_ns=7),
        "qemu": figures("qemu"),
    }
    assert [each.name for each in path.parent.iterdir()] == ["host.json"]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b'[{"level": "process"}]',
        b"\xff" * 100,
        b"[" + b" " * 70_000 + b"]",
    ],
)
def test_file_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    """A node gives its other advice."""
    path = tmp_path / "host.json"
    path.write_bytes(content)
    assert level_figures.read(path) == {}
    assert level_figures.read(tmp_path / "missing") == {}
    assert level_figures.read(tmp_path) == {}
    assert level_figures.read(None) == {}


def test_implausible_figures_are_left_out(tmp_path: Path) -> None:
    """Nothing is divided by them."""
    path = tmp_path / "levels" / "host.json"
    for wrong in (
        figures("process", compute_ns=0),
        figures("process", link_ns=-1),
        figures("process", vm_ns=10**18),
        figures("heaven"),
    ):
        level_figures.write(path, [wrong])
        assert level_figures.read(path) == {}


def test_file_is_of_the_user_and_the_host() -> None:
    """A home directory may be on several hosts."""
    path = level_figures.default_path({"XDG_DATA_HOME": "/data"})
    assert path is not None
    assert path.parent == Path("/data/plexspaces/levels")
    assert level_figures.default_path({}) is None


def test_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """And leaves nothing."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument):
        level_figures.write(tmp_path / "file" / "host.json", [figures("process")])
    (tmp_path / "levels" / "host.json").mkdir(parents=True)
    (tmp_path / "levels").chmod(0o700)
    with pytest.raises(InvalidArgument, match="cannot be written"):
        level_figures.write(tmp_path / "levels" / "host.json", [figures("process")])
    assert [each.name for each in (tmp_path / "levels").iterdir()] == ["host.json"]
