"""The plot of `run`: what it says is what was measured, as a picture and in a terminal."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from plexspaces_node.cli.plot import Axis, Plot, Row, check_target, write_picture
from plexspaces_node.cli.plot_svg import picture_of
from plexspaces_node.cli.plot_text import print_plot
from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.tracker import PerformanceReport

MS = 1_000_000
SVG = "{http://www.w3.org/2000/svg}"


def row(name: str, compute_ms: int, *parts_ms: int, language: str = "go") -> Row:
    """A row with these times: VM, upload, compile, load, messages."""
    vm, upload, compiled, load, messages = (part * MS for part in parts_ms)
    report = PerformanceReport(
        name, language, compute_ms * MS, vm, upload, compiled, load, messages, 10
    )
    return Row(name, language, report)


def plot(*rows: Row) -> Plot:
    """A plot of these rows."""
    return Plot(rows, "10 messages per application · isolation: process")


SLOW = row("slow", 8552, 4, 0, 0, 11, 12, language="python")
COLD = row("cold", 236, 4, 20, 2199, 8, 9)


def texts(root: ElementTree.Element) -> list[str]:
    """Every text that the picture shows."""
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def widths(root: ElementTree.Element, style: str) -> list[float]:
    """How long the bars of a kind are, from top to bottom; not the legend's."""
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("class") == style]
    return [float(bar.attrib["width"]) for bar in bars if bar.get("height") != "10"]


def drawn(shown: Plot, width: int = 80, **console: object) -> str:
    """The plot as it is in a terminal."""
    stream = io.StringIO()
    print_plot(shown, Console(file=stream, width=width, **console))  # type: ignore[arg-type]
    return stream.getvalue()


class TestPicture:
    """The SVG file."""

    def test_picture_when_parsed_then_each_measured_number_is_in_it(self) -> None:
        """Times as in the report, ratios, names, shares of coordination, and what was measured."""
        root = ElementTree.fromstring(picture_of(plot(SLOW, COLD)))
        shown = texts(root)
        for text in ("slow", "8552 ms", "27 ms", "✓ 316.74×", "⚠ 0.11×", "2240 ms", "compile 98 %"):
            assert text in shown
        assert "python" in shown
        assert "10 messages per application · isolation: process" in shown

    def test_picture_when_read_aloud_then_the_same_numbers(self) -> None:
        """It is one image with a title and a description that has every number."""
        root = ElementTree.fromstring(picture_of(plot(COLD)))
        assert root.get("role") == "img"
        labels = {one.get("id"): one.text or "" for one in root}
        title, description = (root.attrib["aria-labelledby"]).split()
        assert labels[title] == "Compute and coordination per language"
        assert (
            "cold (go): compute 236 ms, coordination 2240 ms (VM 4.00 ms, upload 20 ms, "
            "compile 2199 ms, load 8.00 ms, messages 9.00 ms), compute over coordination ⚠ 0.11×."
        ) in labels[description]

    def test_picture_when_names_are_hostile_then_they_are_text(self) -> None:
        """Markup is escaped, what XML forbids is made visible, and long names are cut."""
        name = "</text><script>alert(1)</script>\x1b\x00" + "x" * 500
        picture = picture_of(Plot((row(name, 1, 1, 1, 1, 1, 1),), "\x07&<" * 200))
        root = ElementTree.fromstring(picture)
        assert b"<script" not in picture
        assert not [one for one in root.iter() if "script" in one.tag]
        assert all(len(text) <= 128 for text in texts(root))

    def test_picture_when_shown_then_it_refers_to_nothing_and_knows_dark_pages(self) -> None:
        """It can be mailed, and put on any page."""
        picture = picture_of(plot(SLOW)).decode()
        for sign in ("href", "url(", "@import", "<image", "<script"):
            assert sign not in picture
        assert picture.count("http") == 1, "the namespace alone"
        assert "@media (prefers-color-scheme: dark)" in picture

    def test_bars_when_the_axis_is_linear_then_as_long_as_the_times(self) -> None:
        """Twice the time is twice the length."""
        root = ElementTree.fromstring(
            picture_of(plot(row("a", 100, 10, 0, 0, 10, 30), row("b", 50, 5, 5, 5, 5, 5)))
        )
        (long, short), (first, second) = widths(root, "compute"), widths(root, "coordination")
        assert long == pytest.approx(2 * short)
        assert first == pytest.approx(long / 2)
        assert second == pytest.approx(long / 4)
        assert "time, linear" in texts(root)

    def test_bars_when_a_time_is_0_then_there_is_none(self) -> None:
        """Nothing is drawn for nothing, and nothing fails."""
        root = ElementTree.fromstring(picture_of(plot(row("idle", 0, 0, 0, 0, 0, 0))))
        assert (widths(root, "compute"), widths(root, "coordination")) == ([], [])
        assert texts(root).count("0 ms") == 2
        assert "n/a" in texts(root)

    def test_parts_when_drawn_then_their_widths_are_their_shares(self) -> None:
        """On an axis of their own, which is linear whatever the other is."""
        root = ElementTree.fromstring(picture_of(plot(row("a", 9000, 1, 0, 2, 3, 4))))
        parts = {
            str(one.get("class")).removeprefix("part "): float(one.attrib["width"])
            for one in root.iter(f"{SVG}rect")
            if str(one.get("class")).startswith("part ")
        }
        whole = sum(parts.values())
        shares = {name: round(width / whole, 3) for name, width in parts.items()}
        assert shares == {"vm": 0.1, "compile": 0.2, "load": 0.3, "messages": 0.4}


class TestAxis:
    """Linear or logarithmic."""

    @pytest.mark.parametrize(("high", "is_logarithmic"), [(50, False), (51, True)])
    def test_axis_when_times_differ_much_then_logarithmic(
        self, high: int, is_logarithmic: bool
    ) -> None:
        """Linear as long as the shortest can be seen."""
        assert Axis.of(iter([1 * MS, high * MS, 0])).is_logarithmic is is_logarithmic

    def test_axis_when_logarithmic_then_powers_of_ten_and_the_shortest_is_seen(self) -> None:
        """Each tick is as far from the next; no bar has no length."""
        axis = Axis.of(iter([10 * MS, 9_000 * MS]))
        ticks = list(axis.ticks())
        assert [tick.label for tick in ticks] == ["1 ms", "10 ms", "100 ms", "1 s"]
        assert ticks[1].at - ticks[0].at == pytest.approx(ticks[3].at - ticks[2].at)
        assert axis.at(10 * MS) > 0.1
        assert (axis.at(0), axis.at(9_000 * MS)) == (0, 1)

    @pytest.mark.parametrize(
        ("high_ms", "labels"),
        [
            (10, ["0", "2 ms", "4 ms", "6 ms", "8 ms", "10 ms"]),
            (1300, ["0", "500 ms", "1 s"]),
            (0.004, ["0", "1 µs", "2 µs", "3 µs", "4 µs"]),
        ],
    )
    def test_axis_when_linear_then_round_steps(self, high_ms: float, labels: list[str]) -> None:
        """From 0 on, in the unit that fits."""
        axis = Axis.of(iter([int(high_ms * MS)]))
        assert [tick.label for tick in axis.ticks()] == labels


class TestTerminal:
    """The plot on stderr."""

    def test_terminal_when_80_columns_then_every_line_fits_and_says_what_was_measured(self) -> None:
        """Bars by characters, numbers beside them, a legend."""
        lines = drawn(plot(SLOW, COLD)).splitlines()
        assert max(map(len, lines)) <= 80
        text = "\n".join(lines)
        for said in ("slow (python)   ✓ 316.74×", "8552 ms", "27 ms", "V VM", "█ compute"):
            assert said in text
        made_of = [line.split()[2] for line in lines if "made of" in line]
        assert [one.count("C") * 100 // len(one) for one in made_of] == [0, 98]
        assert len(set(map(len, made_of))) == 1

    def test_terminal_when_it_has_no_blocks_then_ascii(self) -> None:
        """Nothing of the bars is lost where only ASCII can be shown."""
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
        print_plot(plot(COLD), Console(file=stream, width=80))
        stream.seek(0)
        text = stream.read()
        assert "####" in text
        assert "====" in text

    def test_terminal_when_colours_are_not_wanted_then_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`NO_COLOR` is respected, and a terminal without it gets colours."""
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert "\x1b[38;5;" in drawn(plot(COLD), force_terminal=True)
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b[38;5;" not in drawn(plot(COLD), force_terminal=True)

    def test_terminal_when_a_name_is_hostile_then_it_steers_nothing(self) -> None:
        """Escapes are shown; markup of rich is text."""
        text = drawn(plot(row("[red]\x1b[2J", 1, 1, 1, 1, 1, 1)))
        assert "[red]\\x1b[2J" in text
        assert "\x1b" not in text


class TestTarget:
    """The file of the picture."""

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            ("run.png", "'run.png' does not end with .svg"),
            ("", "'' does not end with .svg"),
            ("there.svg", "'there.svg' is a directory"),
            ("none/run.svg", "does not exist"),
            ("pipe.svg", "'pipe.svg' is not a regular file"),
            ("x" * 300 + ".svg", "cannot be written"),
            ("a\0b.svg", "cannot be written"),
        ],
    )
    def test_target_when_no_picture_can_be_there_then_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
    ) -> None:
        """Each says what is wrong with it."""
        monkeypatch.chdir(tmp_path)
        Path("there.svg").mkdir()
        os.mkfifo("pipe.svg")
        with pytest.raises(InvalidArgument, match=said):
            check_target(target)

    def test_target_when_written_then_whole_and_as_readable_as_other_files(
        self, tmp_path: Path
    ) -> None:
        """It takes the place of a file, also through a link, and leaves nothing beside it."""
        link, file = tmp_path / "link.SVG", tmp_path / "run.svg"
        link.symlink_to(file)
        file.write_text("old")
        target = check_target(str(link))
        assert target == file.resolve()
        before = os.umask(0o022)
        try:
            write_picture(target, b"<svg/>")
        finally:
            os.umask(before)
        assert file.read_bytes() == b"<svg/>"
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert {one.name for one in tmp_path.iterdir()} == {"link.SVG", "run.svg"}

    def test_target_when_a_link_to_another_kind_of_file_then_refused(self, tmp_path: Path) -> None:
        """Else a link that somebody left in /tmp would have any file of the user's replaced."""
        link, file = tmp_path / "run.svg", tmp_path / "notes.txt"
        link.symlink_to(file)
        for content in ("", "mine"):
            with pytest.raises(InvalidArgument, match=r"a link to what does not end with \.svg"):
                check_target(str(link))
            file.write_text(content)

    def test_target_when_it_cannot_be_written_after_all_then_an_error_and_nothing_left(
        self, tmp_path: Path
    ) -> None:
        """The directory became a file's place while it was measured."""
        path = tmp_path / "run.svg"
        path.mkdir()
        with pytest.raises(Unavailable, match=r"run.svg' was not written: Is a directory"):
            write_picture(path, b"<svg/>")
        assert list(tmp_path.iterdir()) == [path]
