"""The metrics: their list and its documentation, what a scrape gets, and while others count."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from plexspaces_node.errors import Unavailable
from plexspaces_node.info import MessageTimings, NodeInfo
from plexspaces_node.model import MIB, PhaseTimings, VmConfig
from plexspaces_node.node.access.identity import LOCAL, Identity, Scope
from plexspaces_node.node.access.identity import Kind as IdentityKind
from plexspaces_node.node.applications.roster import Roster as NodeRoster
from plexspaces_node.node.machines.traffic import Traffic
from plexspaces_node.node.metrics.families import OF_APPLICATIONS, OF_NODE
from plexspaces_node.node.metrics.families import Kind as FamilyKind
from plexspaces_node.node.metrics.readings import Readings
from plexspaces_node.node.metrics.scrape import SCRAPES, Scraped, Scrapes, serve_metrics
from plexspaces_node.node.telemetry.activity import Activity, Start
from plexspaces_node.node.telemetry.span import Kind
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.quota import Key, QuotaUse, Subject, SubjectUse

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
INFO = NodeInfo("node", "0.1.0", "process", "", 1, 1, 1, 1, 1)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
READ = frozenset({Scope.READ})
SHOP = Identity(IdentityKind.TOKEN, "prometheus", READ, "shop")

USES = (
    SubjectUse(Subject("shop"), (QuotaUse(Key.MEMORY_MIB, 2048, 512),)),
    SubjectUse(
        Subject("shop", "cart"),
        (QuotaUse(Key.CPU_PERCENT, 150), QuotaUse(Key.MESSAGES_PER_S, 100, 7)),
    ),
    SubjectUse(Subject("rival"), (QuotaUse(Key.KEYVALUE_KEYS, 10, 9),)),
)


def application(name: str, telemetry: Telemetry, *, messages: int = 1) -> Any:
    """A running application that had messages, in this process instead of a VM."""
    activity = Activity(name, telemetry)
    for _ in range(messages):
        send(activity)
    machine = SimpleNamespace(
        application=name,
        agent=SimpleNamespace(in_flight=2),
        pid=os.getpid(),
        config=VmConfig(1, 64),
        state="Running",
        isolation="process",
    )
    intake = SimpleNamespace(waiting=1)
    return SimpleNamespace(
        name=name, activity=activity, restarts=0, state="Running", machine=machine, intake=intake
    )


def send(activity: Activity, kind: str = "add") -> None:
    """Count a message of 4 ms, of which 1 ms is compute and 2 ms are in the queue."""
    span = activity.begin(Kind.MESSAGE, kind, 100)
    activity.end(span, MessageTimings(4_000_000, 1_000_000, 500_000, 2_000_000), None, 30)
    activity.settle()


class Roster:
    """Those applications, and an empty VM."""

    def __init__(self, applications: Sequence[Any]) -> None:
        self.applications = {one.name: one for one in applications}

    def supervisors(self) -> tuple[Any, ...]:
        return tuple(self.applications.values())

    visible = NodeRoster.visible

    def machines(self) -> tuple[Any, ...]:
        empty = SimpleNamespace(application="", state="Empty", isolation="process")
        return (*(one.machine for one in self.supervisors()), empty)


def scrapes_of(*applications: Any, **kwargs: Any) -> Scrapes:
    """What answers scrapes of a node with these applications."""
    telemetry, roster = kwargs.pop("telemetry", Telemetry()), kwargs.pop("roster", None)
    any_roster: Any = roster or Roster(applications)

    async def uses() -> Sequence[SubjectUse]:
        return USES

    quotas = kwargs.pop("quotas", uses)
    return Scrapes(Readings(INFO, any_roster, telemetry, **kwargs), quotas)


def text_of(scrapes: Scrapes, viewer: Identity | None = None, accept: str = "") -> str:
    """What a viewer gets."""
    return scrapes.text(USES, viewer, accept=accept, encodings="").body.decode()


def parsed(text: str) -> dict[str, Metric]:
    """The families of a page, by the names that the documentation has."""
    parse: Any = text_string_to_metric_families
    return {one.name + "_total" * (one.type == "counter"): one for one in parse(text)}


@pytest.fixture
def shops() -> Scrapes:
    """A node of two tenants, and one application without messages."""
    telemetry = Telemetry()
    names = ("cart", "shop/cart", "shop/till", "rival/cart")
    applications = [application(name, telemetry) for name in names]
    applications.append(application("shop/new", telemetry, messages=0))
    applications[1].activity.restarts["vm_ended"] += 3
    timings = PhaseTimings(vm_ns=50_000_000)
    applications[1].activity.started(Start(1, "deploy", "", "", "1", timings))
    telemetry.dropped_spans = lambda: 9
    traffic = Traffic()
    traffic.sent_bytes, traffic.received_bytes = 11, 22
    scrapes = scrapes_of(
        *applications,
        telemetry=telemetry,
        traffic=traffic,
        audit_dropped=lambda: 5,
        damages=lambda: 7,
        store_bytes=lambda: 42,
    )
    scrapes.calls["grpc"] = lambda: 3
    return scrapes


def _documented() -> dict[str, tuple[set[str], str]]:
    rows = [row.split("|")[1:4] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    return {
        name.strip(" `"): ({one.strip() for one in labels.split(",")} - {""}, meaning.strip())
        for name, labels, meaning in rows
    }


def test_every_metric_is_documented_with_its_labels_and_its_meaning() -> None:
    """The page names exactly what is served, in the same words."""
    histogram = FamilyKind.HISTOGRAM
    assert _documented() == {
        one.name: ({*one.labels, *(("le",) if one.kind is histogram else ())}, one.meaning)
        for one in (*OF_APPLICATIONS, *OF_NODE)
    }


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_page_when_parsed_by_another_program_then_every_family_with_its_labels(
    shops: Scrapes, accept: str
) -> None:
    """Prometheus' own parsers read it; besides those of every process there is nothing else."""
    text = text_of(shops, accept=accept)
    parse: Any = text_string_to_metric_families
    if accept:
        parse = openmetrics.text_string_to_metric_families
    found = {one.name + "_total" * (one.type == "counter"): one for one in parse(text)}
    ours = {name for name in found if not name.startswith("process_")}
    assert ours == set(_documented())
    assert len(found) > len(ours)
    for name in ours:
        for sample in found[name].samples:
            le = {"le"} if sample.name.endswith("_bucket") else set()
            assert set(sample.labels) - {"le"} | le == _documented()[name][0] - {"le"} | le


def test_histogram_when_there_are_messages_then_cumulative_with_sum_and_count(
    shops: Scrapes,
) -> None:
    """The bucket that a duration is in, and all above it; the sum in seconds."""
    family = parsed(text_of(shops))["plexspaces_message_queue_seconds"]
    of_till = {"application": "till", "tenant": "shop"}
    found = {
        (sample.name.rpartition("_")[2], sample.labels.get("le", "")): sample.value
        for sample in family.samples
        if of_till.items() <= sample.labels.items()
    }
    assert found["bucket", "0.001"] == 0.0
    assert found["bucket", "0.0025"] == found["bucket", "60.0"] == found["bucket", "+Inf"] == 1.0
    assert found["count", ""] == 1.0
    assert found["sum", ""] == pytest.approx(0.002)


def test_histograms_when_an_application_had_no_message_then_it_has_none(shops: Scrapes) -> None:
    """A thousand that wait do not make a page of nothing; their counters are there."""
    lines = [line for line in text_of(shops).splitlines() if 'application="new"' in line]
    assert not any("_bucket" in line for line in lines)
    assert 'plexspaces_messages_total{application="new",tenant="shop"} 0.0' in lines


def test_exemplars_when_the_scraper_asks_for_openmetrics_then_the_traces_of_durations(
    shops: Scrapes,
) -> None:
    """The first message of each application was traced; the text format has no place for it."""
    parse: Any = openmetrics.text_string_to_metric_families
    told = parse(text_of(shops, accept=OPENMETRICS))
    found = [sample for family in told for sample in family.samples if sample.exemplar]
    assert {sample.name for sample in found} == {"plexspaces_message_duration_seconds_bucket"}
    assert len(found) == 4
    assert all(sample.labels["le"] == "0.005" for sample in found)
    exemplar = found[0].exemplar
    assert exemplar is not None
    assert exemplar.value == pytest.approx(0.004)
    assert len(exemplar.labels["trace_id"]) == 32
    assert "trace_id" not in text_of(shops)


def test_counts_are_told_in_base_units(shops: Scrapes) -> None:
    """Times in seconds, memory in bytes."""
    lines = text_of(shops).splitlines()
    cart = 'application="cart",tenant="shop"'
    for line in (
        f"plexspaces_compute_seconds_total{{{cart}}} 0.001",
        f"plexspaces_coordinate_seconds_total{{{cart}}} 0.003",
        f"plexspaces_messages_in_flight{{{cart}}} 3.0",
        f"plexspaces_message_payload_bytes_total{{{cart}}} 100.0",
        f"plexspaces_message_reply_bytes_total{{{cart}}} 30.0",
        f'plexspaces_application_state{{{cart},state="Running"}} 1.0',
        f'plexspaces_restarts_total{{{cart},reason="vm_ended"}} 3.0',
        f"plexspaces_vm_memory_limit_bytes{{{cart}}} {64 * MIB}.0",
        'plexspaces_vms{state="Running",isolation="process"} 5.0',
        'plexspaces_vms{state="Empty",isolation="process"} 1.0',
        'plexspaces_build_info{version="0.1.0",isolation="process"} 1.0',
        'plexspaces_deploy_phase_duration_seconds_bucket{phase="vm",le="0.025"} 0',
        'plexspaces_deploy_phase_duration_seconds_bucket{phase="vm",le="0.05"} 1',
        "plexspaces_event_loop_lag_seconds_count 0",
        'plexspaces_link_bytes_total{direction="sent"} 11.0',
        'plexspaces_link_bytes_total{direction="received"} 22.0',
        'plexspaces_calls_in_progress{protocol="grpc"} 3.0',
        "plexspaces_audit_dropped_total 5.0",
        "plexspaces_spans_dropped_total 9.0",
        "plexspaces_registry_damage_total 7.0",
        "plexspaces_artifact_store_bytes 42.0",
    ):
        assert line in lines
    values = parsed(text_of(shops))
    for name in ("plexspaces_vm_memory_bytes", "process_resident_memory_bytes"):
        assert values[name].samples[0].value > MIB
    assert 0 < values["plexspaces_vm_cpu_seconds_total"].samples[0].value < 10_000


def test_quotas_are_told_in_base_units(shops: Scrapes) -> None:
    """What is used of processor time another metric says."""
    lines = text_of(shops).splitlines()
    tenant, cart = 'application="",tenant="shop"', 'application="cart",tenant="shop"'
    memory, rate = (
        'key="memory_mib",unit="bytes"',
        'key="messages_per_s",unit="messages_per_second"',
    )
    for line in (
        f"plexspaces_quota_limit{{{tenant},{memory}}} {2048 * MIB}.0",
        f"plexspaces_quota_used{{{tenant},{memory}}} {512 * MIB}.0",
        f'plexspaces_quota_limit{{{cart},key="cpu_percent",unit="cpus"}} 1.5',
        f"plexspaces_quota_used{{{cart},{rate}}} 7.0",
        'plexspaces_quota_used{application="",tenant="rival",key="keyvalue_keys",unit="1"} 9.0',
    ):
        assert line in lines
    assert not any("quota_used" in line and "cpu_percent" in line for line in lines)


def test_scrape_when_somebody_has_to_do_with_one_tenant_then_it_has_no_other(
    shops: Scrapes,
) -> None:
    """Neither a label nor a count tells that there is another, nor what the node has in all."""
    text = text_of(shops, SHOP)
    assert 'plexspaces_messages_total{application="cart",tenant="shop"} 1.0' in text
    assert 'plexspaces_applications{state="Running"} 3.0' in text
    assert 'plexspaces_vms{state="Running",isolation="process"} 3.0' in text
    assert 'plexspaces_quota_limit{application="",tenant="shop"' in text
    assert not any(word in text for word in ("rival", "default", "Empty", "process_"))
    told = {name for name, family in parsed(text).items() if family.samples}
    assert told == {one.name for one in OF_APPLICATIONS}


def test_scrape_when_somebody_has_to_do_with_some_applications_then_no_quota_of_the_tenant(
    shops: Scrapes,
) -> None:
    """It says what the others have."""
    till = Identity(IdentityKind.TOKEN, "one", READ, "shop", "till")
    text = text_of(shops, till)
    assert 'application="cart"' not in text
    assert 'plexspaces_applications{state="Running"} 1.0' in text
    assert "plexspaces_quota_limit{" not in text
    cart = Identity(IdentityKind.TOKEN, "one", READ, "shop", "cart")
    assert 'plexspaces_quota_limit{application="cart",tenant="shop"' in text_of(shops, cart)
    everything = text_of(shops, LOCAL)
    for line in (
        'plexspaces_messages_total{application="cart",tenant="default"} 1.0',
        'plexspaces_messages_total{application="cart",tenant="rival"} 1.0',
        'plexspaces_applications{state="Running"} 5.0',
    ):
        assert line in everything


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that are interrupted five hundred times as often."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("hasty_threads")
def test_scrapes_while_others_count_then_each_is_whole() -> None:
    """Threads write while others read: nothing raises, and a histogram agrees with itself."""
    telemetry, roster = Telemetry(), Roster([])
    scrapes = scrapes_of(roster=roster, telemetry=telemetry)
    ended = threading.Event()
    errors: list[Exception] = []
    texts: list[str] = []

    def count() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            name = f"shop/a{number % 10}"
            found = roster.applications.pop(name, None) or application(name, telemetry)
            roster.applications[name] = found
            activity = found.activity
            for some in (activity.types, activity.restarts, activity.duration.exemplars):
                some.clear()
            for index in range(20):
                send(activity, f"type {index}")
                activity.restarts[f"reason {index}"] += 1
                activity.duration.show(1_000 * 4**index, number, number)

    def scrape() -> None:
        try:
            texts.extend(text_of(scrapes, accept=OPENMETRICS) for _ in range(30))
        except Exception as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    writer = threading.Thread(target=count)
    readers = [threading.Thread(target=scrape) for _ in range(3)]
    writer.start()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    ended.set()
    writer.join()
    assert errors == []
    for line in texts[-1].splitlines():
        if line.startswith("plexspaces_message_duration_seconds_count"):
            labels, _, told = line.partition("{")[2].partition("} ")
            name = "plexspaces_message_duration_seconds_bucket"
            assert f'{name}{{{labels},le="+Inf"}} {told}' in texts[-1]


async def fetched(port: int | None, host: str = "127.0.0.1", **headers: str) -> Scraped:
    """What the port for metrics answers."""

    def fetch() -> Scraped:
        with urlopen(
            Request(f"http://{host}:{port}/metrics", headers=headers), timeout=10
        ) as found:
            return Scraped(found.headers.items(), found.read())

    return await asyncio.to_thread(fetch)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_scrape_when_served_then_it_answers(host: str, shops: Scrapes) -> None:
    """A scrape gets the page, by every kind of address, with what is used of quotas."""
    with serve_metrics(f"{host}:0", shops) as port:
        page = (await fetched(port, host)).body.decode()
    assert "plexspaces_artifact_store_bytes 42.0" in page
    assert 'plexspaces_quota_used{application="",tenant="rival"' in page


async def test_scrape_when_the_scraper_says_what_it_takes_then_it_gets_that(
    shops: Scrapes,
) -> None:
    """OpenMetrics, compressed."""
    headers = {"Accept": OPENMETRICS, "Accept-Encoding": "gzip"}
    with serve_metrics("127.0.0.1:0", shops) as port:
        told, body = await fetched(port, **headers)
    said: Mapping[str, str] = dict(told)
    assert said["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert said["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text ; Version=1.0.0 ; q=0.8", True),
        ("application/openmetrics-text;version=1.0.0;q=0,text/plain", False),
        ("application/openmetrics-text;version=0.0.1,text/plain", False),
        ("application/openmetrics-text;version=x\0evil,;=;,", False),
        ("application/vnd.google.protobuf,application/openmetrics-text;version=1.0.0", True),
    ],
)
def test_format_when_the_scraper_says_anything_then_one_that_it_takes(
    shops: Scrapes, accept: str, is_openmetrics: bool
) -> None:
    """What is malformed, or of a version that nobody writes here, is as if it were not said."""
    headers, body = shops.text((), None, accept=accept, encodings="gzip;q=0.0")
    kind = "application/openmetrics-text; version=1.0.0" if is_openmetrics else "text/plain"
    assert dict(headers)["Content-Type"].startswith(kind)
    assert body.endswith(b"# EOF\n") is is_openmetrics
    assert "Content-Encoding" not in dict(headers)


async def test_scrape_when_quotas_cannot_be_read_then_it_has_the_rest() -> None:
    """A registry in trouble is when the other metrics are needed."""

    async def uses() -> Sequence[SubjectUse]:
        raise Unavailable("the registry is busy")

    answer = await scrapes_of(quotas=uses).answer(None, accept="", encodings="")
    assert b"plexspaces_registry_damage_total" in answer.body
    assert b"plexspaces_quota_used{" not in answer.body


async def test_scrape_of_many_applications_gives_messages_their_turn() -> None:
    """What is counted for it, on the event loop, would take 70 ms of a thousand."""
    telemetry = Telemetry()
    every = [application(f"app-{number}", telemetry, messages=0) for number in range(200)]
    for one in every:
        span = one.activity.begin(Kind.MESSAGE, "add", 1)
        one.activity.end(span, MessageTimings(9, 1, 2, 3), None, 1)
    loop, uncounted = asyncio.get_running_loop(), []

    def look() -> None:
        uncounted.append(sum(not sum(one.activity.duration.counts) for one in every))
        if uncounted[-1]:
            loop.call_soon(look)

    look()
    await scrapes_of(*every).answer(None, accept="", encodings="")
    steps = [before - after for before, after in pairwise(uncounted)]
    assert sum(steps) == 200
    assert max(steps) <= 16


@pytest.fixture
def silent() -> Iterator[list[socket.socket]]:
    """Connections that ask for nothing."""
    found: list[socket.socket] = []
    yield found
    for one in found:
        one.close()


async def test_connections_when_as_many_are_open_as_may_be_then_the_oldest_gives_way(
    shops: Scrapes, silent: list[socket.socket]
) -> None:
    """Whoever only connects takes a bounded number of threads, and keeps no scrape out."""
    with serve_metrics("127.0.0.1:0", shops) as port:
        place = ("127.0.0.1", port or 0)
        silent += (socket.create_connection(place, 10) for _ in range(SCRAPES))
        assert b"plexspaces_artifact_store_bytes 42.0" in (await fetched(port)).body
        assert await asyncio.to_thread(silent[0].recv, 1) == b""


async def test_connection_when_it_asks_for_nothing_then_it_is_ended(
    capfd: pytest.CaptureFixture[str], shops: Scrapes, silent: list[socket.socket]
) -> None:
    """One that was forgotten does not hold a thread for ever, and nothing is written of it."""
    with serve_metrics("127.0.0.1:0", shops, scrape_s=0.0) as port:
        silent.append(socket.create_connection(("127.0.0.1", port or 0), 10))
        assert await asyncio.to_thread(silent[0].recv, 1) == b""
    assert capfd.readouterr().err == ""
