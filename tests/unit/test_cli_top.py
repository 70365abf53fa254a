"""`plexspaces top`: the table, its order, and what programs read; its screen is in integration."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console, Group
from support.command import Command
from support.fake_node import FakeNode
from support.fake_telemetry import MS, NODE, activity

from plexspaces_node.api.convert_telemetry import record
from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.cli.bars import marks_of
from plexspaces_node.cli.keys import keys_of
from plexspaces_node.cli.top_table import Now, Sort, heading, table
from plexspaces_node.errors import PermissionDenied
from plexspaces_node.telemetry import ActivityUpdate

IDLE = activity(
    "idle",
    recent=pb.TimeSpent(),
    total=pb.TimeSpent(messages=1, link_ns=500 * MS),
    messages_per_s=0.0,
    p50_ns=0,
    p99_ns=0,
)
QUIET = activity("quiet", 90, 1, memory_bytes=99 << 20, restarts=0, cpu_percent=80.0)
TALKY = activity("shop/talky", 20, 900, messages_per_s=812.25, p99_ns=2240 * MS)
BROKEN = activity(
    *("broken", 0, 0),
    recent=pb.TimeSpent(),
    total=pb.TimeSpent(),
    state="Failed",
    last_error="trap \x1b[2J\nunreachable",
    memory_bytes=0,
    messages_per_s=0.0,
)
FIRST = pb.WatchActivityResponse(
    applications=[IDLE, QUIET, TALKY, BROKEN], node=NODE, time_unix_ns=1
)
NEXT = pb.WatchActivityResponse(
    applications=[activity("quiet", 90, 10)], removed=["idle"], node=NODE, time_unix_ns=2
)


def now(*updates: pb.WatchActivityResponse) -> Now:
    """What is known after these updates."""
    known = Now()
    for update in updates:
        known.take(record(ActivityUpdate, update))
    return known


def drawn(known: Now, width: int, sort: Sort = Sort.COORDINATION) -> list[str]:
    """The lines of the heading and the table in a terminal without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False)
    marks = marks_of(console)
    rows = table(known.applications(sort), marks, width=width, cpu_known=known.looks > 1)
    console.print(Group(*heading(known, marks), rows))
    return stream.getvalue().splitlines()


@pytest.fixture
def top(plexspaces: Command, fake_node: FakeNode) -> Command:
    """The command, and a node with four applications of which one goes away."""
    fake_node.telemetry.updates = [FIRST, NEXT]
    return plexspaces


class TestPrinted:
    """What is printed where nobody watches."""

    def test_top_when_stdout_is_no_terminal_then_one_table(
        self, top: Command, fake_node: FakeNode
    ) -> None:
        """By coordination; no bars, nothing cut; what does not run is explained."""
        ran = top("top")
        assert ran.status == 0
        lines = ran.text.splitlines()
        assert lines[0].split()[:3] == ["NAME", "STATE", "LANGUAGE"]
        assert [line.split()[0] for line in lines[1:4]] == ["shop/talky", "quiet", "broken"]
        words = lines[1].split()
        assert words[1:] == [
            *("Running", "rust", "812.2", "21", "ms", "2240", "ms", "98%"),
            *("30/128", "12%", "2"),
        ]
        assert "idle" not in ran.text, "the second update counts"
        assert lines[4] == "broken: trap \\x1b[2J\\nunreachable"
        assert fake_node.telemetry.requests == [pb.WatchActivityRequest(interval_ms=500)]

    def test_top_when_for_programs_then_a_line_for_each_update(
        self, top: Command, fake_node: FakeNode
    ) -> None:
        """Each has every application, sorted; it ends with the node, as a failure."""
        more = activity("quiet", 95, 11)
        fake_node.telemetry.updates.append(pb.WatchActivityResponse(applications=[more]))
        ran = top("top", "--json", "--sort", "name", "--interval", "3", "--tenant", "shop")
        first, second = map(json.loads, ran.text.splitlines())
        assert [one["name"] for one in first["applications"]] == ["broken", "quiet", "shop/talky"]
        assert (first["time_unix_ns"], first["node"]["cpus"]) == (2, 2)
        assert first["applications"][1]["recent"]["compute_ns"] == 90 * MS
        assert second["applications"][1]["recent"]["compute_ns"] == 95 * MS
        assert second["node"] is None
        assert ran.status == 1
        assert f"the node at {fake_node.address} has ended" in ran.stderr
        asked = pb.WatchActivityRequest(tenant="shop", interval_ms=3000)
        assert fake_node.telemetry.requests == [asked]

    def test_top_when_once_for_programs_then_one_line(self, top: Command) -> None:
        """And then it is done."""
        ran = top("top", "--json", "--once")
        assert (ran.status, ran.text.count("\n")) == (0, 1)

    def test_top_when_there_are_no_applications_then_says_how_to_get_one(
        self, top: Command, fake_node: FakeNode
    ) -> None:
        """On stderr: on stdout is the table's head alone."""
        fake_node.telemetry.updates = [pb.WatchActivityResponse(node=NODE)] * 2
        ran = top("top")
        assert (ran.status, ran.text.count("\n")) == (0, 1)
        assert "plexspaces deploy" in ran.stderr

    def test_top_when_refused_then_the_nodes_own_words(
        self, top: Command, fake_node: FakeNode
    ) -> None:
        """It is not tried again."""
        fake_node.fail["WatchActivity"] = PermissionDenied("needs the scope read")
        ran = top("top")
        assert (ran.status, ran.stdout) == (1, b"")
        assert "needs the scope read" in ran.stderr

    @pytest.mark.parametrize("flags", [("--interval", "0.4"), ("--sort", "taste")])
    def test_top_when_used_wrongly_then_status_2(
        self, top: Command, fake_node: FakeNode, flags: tuple[str, str]
    ) -> None:
        """Nothing is asked of the node."""
        assert top("top", *flags).status == 2
        assert fake_node.calls == []


class TestTable:
    """The table itself."""

    @pytest.mark.parametrize(
        ("sort", "names"),
        [
            (Sort.COORDINATION, ["shop/talky", "quiet", "idle", "broken"]),
            (Sort.COMPUTE, ["quiet", "shop/talky", "broken", "idle"]),
            (Sort.MESSAGES, ["shop/talky", "quiet", "idle", "broken"]),
            (Sort.P50, ["broken", "quiet", "shop/talky", "idle"]),
            (Sort.P99, ["shop/talky", "broken", "quiet", "idle"]),
            (Sort.MEMORY, ["quiet", "idle", "shop/talky", "broken"]),
            (Sort.CPU, ["quiet", "broken", "idle", "shop/talky"]),
            (Sort.RESTARTS, ["broken", "idle", "shop/talky", "quiet"]),
            (Sort.NAME, ["broken", "idle", "quiet", "shop/talky"]),
        ],
    )
    def test_table_when_sorted_then_the_largest_first_and_equal_ones_by_name(
        self, sort: Sort, names: list[str]
    ) -> None:
        """Each column's order."""
        assert [one.name for one in now(FIRST).applications(sort)] == names

    def test_sort_when_the_next_is_asked_for_then_each_comes_once(self) -> None:
        """The key goes round in a circle."""
        seen = [Sort.COORDINATION]
        while (following := seen[-1].next) is not seen[0]:
            seen.append(following)
        assert seen == list(Sort)

    def test_table_when_80_columns_then_each_line_fits(self) -> None:
        """A name is cut sooner than a number."""
        long = activity("shop/checkout-service-with-a-long-name", 20, 900)
        lines = drawn(now(FIRST, pb.WatchActivityResponse(applications=[long], node=NODE)), 80)
        assert max(map(len, lines)) <= 80
        text = "\n".join(lines)
        assert "5 applications, 4 running" in text
        assert "node fake-1, process: CPU 7.5 %, 90.0 MiB, late by 2.00 ms" in text
        assert "shop/checkout-" in text
        assert "…" in text
        talky = next(line for line in lines if line.startswith("shop/talky"))
        assert "█▒▒▒▒▒▒▒  98%  30/128" in talky
        assert "LANGUAGE" not in text

    def test_table_when_wide_then_names_are_whole_and_languages_told(self) -> None:
        """What there is room for is shown."""
        name = "shop/checkout-service-with-a-long-name"
        text = "\n".join(drawn(now(pb.WatchActivityResponse(applications=[activity(name)])), 140))
        assert name in text
        assert "LANGUAGE" in text
        assert "█" * 18 + "▒" * 2 + "  10%" in text

    def test_table_when_looked_at_once_then_no_processor_time(self) -> None:
        """What is not known is not 0."""
        text = "\n".join(drawn(now(FIRST), 80))
        assert "7.5 %" not in text
        assert "12%" not in text
        assert "12%" in "\n".join(drawn(now(FIRST, FIRST), 80))

    def test_table_when_there_is_nothing_then_it_is_empty(self) -> None:
        """A node without applications is no fault; one that may not be seen is not told."""
        lines = drawn(now(pb.WatchActivityResponse()), 80)
        assert lines[0].rstrip() == "0 applications, 0 running · 0.0 messages/s"
        assert len(lines) == 2

    def test_bar_when_there_is_little_of_one_then_it_is_seen(self) -> None:
        """A thousandth of coordination is not none."""
        told = pb.WatchActivityResponse(applications=[activity("a", 999, 1)])
        assert "███████▒   0%" in "\n".join(drawn(now(told), 80))


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("qs", ["q", "s"]),
        ("\x1b[A\x1bOB", ["up", "down"]),
        ("\x1b[5~x\x1b[6~", ["page up", "x", "page down"]),
        ("\x1b[1;5Cq", ["\x1b[1;5C", "q"]),
        ("\x1b", ["\x1b"]),
        ("", []),
    ],
)
def test_keys_when_a_terminal_sends_them_then_each_is_one(sent: str, keys: list[str]) -> None:
    """Several characters may be one key, and an unknown one is not taken for letters."""
    assert list(keys_of(sent)) == keys
