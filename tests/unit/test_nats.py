"""The files of a NATS server, routes, and answers of JetStream: what is hostile stays a text."""

from __future__ import annotations

import asyncio
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nats_servers import program

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from plexspaces_node.node.nats import jetstream, routes, streams
from plexspaces_node.node.nats.bucket import Conflict, Entry, Fence
from plexspaces_node.node.nats.connection import Message
from plexspaces_node.node.nats.server_files import ServerFiles, quoted
from plexspaces_node.node.nats.watching import Progress
from plexspaces_node.node.nats.writes import Writes, batches

TOKEN = ClusterToken(bytes(32))
HOSTILE = (
    'x" }\nauthorization { user: x, password: x }\n',
    "$HOME",
    "a\\",
    'a\\"',
    "include evil.conf",
    "# no comment",
    "ä ö ü",
)


def files(directory: Path, **changes: Any) -> ServerFiles:
    given_by_name: dict[str, Any] = {
        "directory": directory,
        "name": "a",
        "cluster": "shop",
        "token": TOKEN,
        "host": "127.0.0.1",
        "route_port": 9400,
    }
    return ServerFiles(**{**given_by_name, **changes})


def accepted(config: Path) -> bool:
    """Whether a real server would start with a configuration."""
    found = program()
    assert found
    done = subprocess.run([found, "-t", "-c", str(config)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_config_when_names_are_hostile_then_they_are_texts_in_it(tmp_path: Path, name: str) -> None:
    """No name ends its text: outside of texts the configuration is that of any other."""
    directory = tmp_path / "nats"
    hostile = files(directory, name=name, cluster=name)
    assert outside_of_texts(hostile.config_text(4222, [])) == outside_of_texts(
        files(directory).config_text(4222, [])
    )


@given(st.text(st.characters(codec="utf-8")))
def test_quoted_when_any_text_then_it_does_not_end_before_its_end(text: str) -> None:
    """Whatever a text is, it is one text for the server, or refused."""
    try:
        written = quoted(text)
    except InvalidArgument:
        return
    assert outside_of_texts(written) == '""'
    assert "\n" not in written


def outside_of_texts(config: str) -> str:
    """Return a configuration without what is in its texts, read as NATS's lexer reads them."""
    found, is_inside, is_escaped = [], False, False
    for letter in config:
        if is_escaped:
            is_escaped = False
        elif is_inside and letter == "\\":
            is_escaped = True
        elif letter == '"':
            is_inside = not is_inside
            found.append(letter)
        elif not is_inside:
            found.append(letter)
    assert not is_inside
    return "".join(found)


def test_config_when_a_real_server_reads_it_then_accepted(tmp_path: Path) -> None:
    """The server takes the configuration, also in a directory with an odd name."""
    odd = files(tmp_path / 'a "$HOME" \\n #', joins=True)
    odd.directory.parent.mkdir(exist_ok=True)
    odd.lay_out()
    odd.write_config(4222, ["[::1]:9400", "host-b:1"])
    assert accepted(odd.config)
    for path in odd.directory.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    state = odd.data / "jetstream" / "SYS" / "_js_" / "_meta_" / "peers.idx"
    assert struct.unpack("<IIH", state.read_bytes()) == (10_000, 0, 0)


@pytest.mark.parametrize("route", ["", "a", "a:b", "a:70000", 'a"]:1', "a b:1", "a:1/x"])
def test_config_when_a_route_is_none_then_refused(tmp_path: Path, route: str) -> None:
    """What is not HOST:PORT is in no configuration."""
    with pytest.raises(InvalidArgument):
        files(tmp_path).config_text(4222, [route])


def test_passwords_when_the_user_or_the_token_differs_then_they_do(tmp_path: Path) -> None:
    """Each user has another, the same on all servers; none is in what is shown of the files."""
    one = files(tmp_path)
    assert one.password("a") == files(tmp_path / "b", name="b").password("a")
    assert one.password("a") != one.password("b")
    assert one.password("a") != files(tmp_path, token=ClusterToken.new()).password("a")
    assert one.password("a") not in repr(one)


def test_routes_when_written_then_read(tmp_path: Path) -> None:
    """In order, each once, without what is none."""
    path = tmp_path / "cluster" / "routes.json"
    assert routes.read(path) == ()
    routes.write(path, routes.checked(["b:1", "a:1", "b:1", "nothing", "me:1"], but="me:1"))
    assert routes.read(path) == ("a:1", "b:1")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"routes": 1}', '{"routes": [1, "a:1"]}'])
def test_routes_when_the_file_is_damaged_then_what_can_be_read(
    tmp_path: Path, content: str
) -> None:
    """A damaged file does not keep a node from starting."""
    path = tmp_path / "routes.json"
    path.write_text(content)
    path.chmod(0o600)
    assert routes.read(path) == (("a:1",) if "a:1" in content else ())


def test_routes_when_there_are_many_then_some_are_kept() -> None:
    """Whatever others tell, the file stays small."""
    assert len(routes.checked(f"host-{number}:1" for number in range(1000))) == routes.MOST


@pytest.mark.parametrize(("level", "missing"), [(0, 2), (1, 1), (2, 0), (5, 0)])
def test_level_when_it_is_low_then_what_is_missing_is_named(level: int, missing: int) -> None:
    """A server that would ignore fences is refused, and why is said in words."""
    assert len(jetstream.missing_features(level)) == missing
    if missing:
        with pytest.raises(Unsupported, match="fenced by another key"):
            jetstream.check_level(level)
    else:
        jetstream.check_level(level)


@pytest.mark.parametrize(
    ("number", "code", "error"),
    [
        (10008, 503, Unavailable),
        (10023, 503, ResourceExhausted),
        (10077, 503, ResourceExhausted),
        (10164, 400, Unavailable),
        (1, 400, Internal),
        (1, 503, Unavailable),
    ],
)
def test_errors_when_of_jetstream_then_of_the_product(
    number: int, code: int, error: type[Exception]
) -> None:
    """Whoever calls learns whether to try again."""
    with pytest.raises(error):
        jetstream.refuse(jetstream.ApiError(number, code, "text"), "a write")


def test_decode_when_the_answer_is_rubbish_then_internal() -> None:
    """What is not JSON is no answer."""
    with pytest.raises(Internal):
        jetstream.decode(answer(b"\xff"))


def answer(data: bytes) -> Message:
    return Message("", "", data, {})


class Answering:
    """A connection on which each request has the next of these answers."""

    name = "test"

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[Mapping[str, str]] = []
        self.at_once = self.most_at_once = 0

    async def request(
        self, subject: str, payload: bytes, headers: Mapping[str, str], *, timeout_s: float
    ) -> Message:
        self.asked.append(headers)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        return answer(self._answers.pop(0).encode())


CROSSED = '{"error": {"code": 400, "err_code": 10164, "description": "wrong last sequence"}}'
MOVED = '{"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 7"}}'


@pytest.mark.virtual_time
async def test_write_when_another_is_under_way_then_tried_again() -> None:
    """A refusal that says nothing about the fence is none."""
    connection = Answering(CROSSED, CROSSED, '{"seq": 9}')
    writes = Writes(cast(Any, connection), "test")
    assert await writes.write("key.a", b"", Fence("fence.a", 3)) == 9
    assert connection.asked[-1]["Nats-Expected-Last-Subject-Sequence"] == "3"
    assert connection.asked[-1]["Nats-Expected-Last-Subject-Sequence-Subject"] == (
        "$KV.test.fence.a"
    )


@pytest.mark.virtual_time
async def test_write_when_others_are_always_under_way_then_unavailable() -> None:
    """It does not try for ever."""
    writes = Writes(cast(Any, Answering(*[CROSSED] * 1000)), "test")
    with pytest.raises(Unavailable):
        await writes.write("key.a", b"", Fence("fence.a", 3))


@pytest.mark.virtual_time
async def test_write_when_the_fence_has_moved_then_conflict() -> None:
    """A refusal with a number is the fence's."""
    writes = Writes(cast(Any, Answering(MOVED)), "test")
    with pytest.raises(Conflict, match="7"):
        await writes.write("key.a", b"", Fence("fence.a", 3))


@pytest.mark.virtual_time
async def test_write_when_many_have_one_fence_then_one_at_a_time() -> None:
    """Those under one fence take turns, those under another do not wait for them."""
    connection = Answering(*['{"seq": 1}'] * 20)
    writes = Writes(cast(Any, connection), "test")
    await asyncio.gather(
        *(writes.write("key.a", b"", Fence("fence.a", 3)) for _ in range(10)),
        *(writes.write("key.b", b"", Fence("fence.b", 3)) for _ in range(10)),
    )
    assert connection.most_at_once == 2


def test_batches_when_values_are_large_or_many_then_bounded() -> None:
    """Each batch has at most 500 messages and 2 MiB, a larger value one of its own; in order."""
    entries = [(f"k.{number}", bytes(900_000)) for number in range(5)]
    entries += [(f"s.{number}", b"") for number in range(1200)]
    found = list(batches(entries))
    assert [one for batch in found for one in batch] == entries
    assert all(len(batch) <= 500 for batch in found)
    assert all(sum(len(value) for _, value in batch) <= 2 * 1024 * 1024 for batch in found)
    assert list(batches([])) == []


def test_watch_when_it_goes_on_then_from_where_it_was() -> None:
    """After a gap it asks for what follows; in another stream for everything, and tells it."""
    watch = Progress()
    assert watch.begin("monday") is None
    assert watch.take("a", b"1", 5) == Entry("a", b"1", 5)
    assert watch.take("b", None, 6) is None
    # Not whole yet: once more from the beginning, and nothing is told twice.
    assert watch.begin("monday") is None
    assert watch.take("a", b"1", 5) is None
    watch.synced_s = 0.0
    assert watch.begin("monday") is None, "too long ago"
    watch.synced_s = float("inf")
    assert watch.begin("monday") == 7
    assert watch.begin("tuesday") is None
    assert watch.take("a", b"1", 5) == Entry("a", b"1", 5)
    assert watch.vanished(set()) == [Entry("a", None, 6)]


def test_replicas_when_one_is_behind_then_it_does_not_count() -> None:
    """Only whole copies count, and none while nobody leads."""
    others = [{"current": True}, {"current": False}, {"current": True, "offline": True}]
    assert streams.whole_replicas({"cluster": {"leader": "a", "replicas": others}}) == 2
    assert streams.whole_replicas({"cluster": {"replicas": others}}) == 0
    assert streams.whole_replicas({}) == 1
