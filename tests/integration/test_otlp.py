"""The traces of a real node at a collector: what is sent, what is not, what a dead one costs."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from support.actors import http_component, routed
from support.nodes import builder
from support.otlp import Received, Receiver, assert_as_measured, receiver
from support.patience import patient
from support.raw_http import callers
from support.traces import agents_of, assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.certificates import make_authority, make_node_certificate
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorTrapped, PlexSpacesError, WrongState
from plexspaces_node.info import InvokeResult
from plexspaces_node.node.node import Node
from plexspaces_node.node.telemetry.span import Ended, Kind, Span
from plexspaces_node.node.telemetry_export.opening import Source
from plexspaces_node.node.telemetry_export.otlp import OtlpCollector
from plexspaces_node.telemetry import Trace

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"

Running: TypeAlias = Callable[..., Any]


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as collector:
        yield collector


@pytest.fixture
def running(data_dir: Path, collector: Receiver) -> Running:
    """Runs a node that exports, with the probe as `one` and `two`; its end sends all that waits."""

    @asynccontextmanager
    async def run(*, http: bool = False, sample: float = 0.0) -> AsyncIterator[Any]:
        built = (
            builder(data_dir)
            .with_setting("otel.endpoint", collector.endpoint)
            .with_setting("otel.sample", sample)
            .with_setting("http.address", "127.0.0.1:0" if http else "")
        )
        async with built.build() as node, NodeClient(node.address) as client:
            yield node, client
        assert_nothing_left(data_dir)
        assert [one for one in threading.enumerate() if one.name == "otlp"] == []

    return run


@pytest.fixture
def probes(probe_wasm: Path) -> Callable[[NodeClient], Any]:
    async def deploy(client: NodeClient) -> None:
        await client.deploy("one", probe_wasm)
        await client.deploy("two", probe_wasm)

    return deploy


async def whole(client: NodeClient, name: str, trace_id: str = TRACE) -> Trace:
    """Return the one trace of this id, once all of it has ended."""
    async with asyncio.timeout(patient(20)):
        while True:
            found = await client.traces(name, trace_id=trace_id)
            if len(found) == 1 and all(span.total_ns for span in found[0].spans):
                return found[0]
            await asyncio.sleep(0.01)


def root_of(received: list[Received]) -> Received:
    [root] = [one for one in received if one.parent_id == PARENT]
    return root


async def test_message_and_its_ask_are_sent_as_they_were_measured(
    running: Running, probes: Any, collector: Receiver
) -> None:
    """The reply, `ListTraces` and the collector have the same numbers, over gRPC and over HTTP."""
    traces: dict[str, tuple[Trace, InvokeResult]] = {}
    async with running(http=True) as (_, client):
        await probes(client)
        for number, http in enumerate((False, True)):
            trace_id = f"{number + 1:032x}"
            traceparent = f"00-{trace_id}-{PARENT}-01"
            async with NodeClient(client.address, http=http) as sender:
                payload = routed("two", "e", b"hello")
                result = await sender.invoke("one", payload, type="a", traceparent=traceparent)
            assert (result.payload, result.trace_id) == (b"hello", trace_id)
            assert result.transport == ("http" if http else "grpc")
            traces[trace_id] = await whole(client, "one", trace_id), result
    for trace_id, (trace, result) in traces.items():
        received = collector.of(trace_id)
        assert [(one.service, one.span.name) for one in received] == [("one", "a"), ("two", "e")]
        assert_as_measured(received, trace)
        root = root_of(received)
        timings = result.timings
        assert root.duration_ns == timings.total_ns
        for part in ("compute_ns", "wait_ns", "queue_ns"):
            assert root.attributes[f"plexspaces.{part}"] == getattr(timings, part)
        assert root.attributes["faas.trigger"] == "other"
    assert collector.headers["content-type"] == "application/x-protobuf"


async def test_response_names_the_span_of_its_message(
    running: Running, probes: Any, collector: Receiver, tmp_path: Path
) -> None:
    """Of an actor, also in a failure, of a component, and of the control API."""
    wasm = tmp_path / "page.wasm"
    wasm.write_bytes(http_component())
    said = {}
    async with running(http=True) as (node, client):
        await probes(client)
        await client.deploy("page", wasm)
        async with callers(node.http_address) as connect:
            caller = await connect()
            for number, path in enumerate(("/apps/one/e", "/apps/one/t", "/apps/page/x"), 1):
                traceparent = f"00-{number:032x}-{PARENT}-01"
                answer = await caller.send("POST", path, b"x", traceparent=traceparent)
                said[f"{number:032x}"] = answer.headers["traceresponse"]
            untold = await caller.send("POST", "/apps/one/e", traceparent=UNSAMPLED)
            path, body = "/v1/applications/one/invoke", b'{"type": "e"}'
            called = await caller.send("POST", path, body, traceparent=TRACEPARENT)
    for trace_id, response in said.items():
        assert response == f"00-{trace_id}-{root_of(collector.of(trace_id)).span_id}-01"
    assert untold.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert untold.headers["traceresponse"].endswith("-00")
    assert called.json["trace_id"] == TRACE
    assert len(collector.of(TRACE)) == 1


async def test_everything_that_a_message_causes_is_a_child_of_it(
    running: Running, probes: Any, collector: Receiver
) -> None:
    """The store, and a tell, which is handled after the message that sent it."""
    async with running() as (_, client):
        await probes(client)
        for kind in ("p", "g", "d"):
            await client.invoke("one", b"key", type=kind, traceparent=TRACEPARENT)
        await client.invoke("one", routed("two", "e"), type="s", traceparent=TRACEPARENT)
        async with asyncio.timeout(patient(20)):
            while (await client.inspect("two")).counters.messages < 1:
                await asyncio.sleep(0.01)
    received = collector.of(TRACE)
    by_id = {one.span_id: one for one in received}
    calls = {one.span.name: one for one in received if "db.system.name" in one.attributes}
    assert list(calls) == ["keyvalue put", "keyvalue get", "keyvalue delete"]
    for name, one in calls.items():
        assert by_id[one.parent_id].span.name == name[len("keyvalue ")]
        assert one.service == "one"
    [told] = [one for one in received if one.service == "two"]
    assert (told.attributes["faas.trigger"], told.span.kind) == ("pubsub", 5)
    assert by_id[told.parent_id].span.name == "s"
    assert len(received) == 8


async def test_failures_are_errors_with_their_codes(
    running: Running, probes: Any, collector: Receiver
) -> None:
    """Of the application that trapped, and of the one that asked it."""
    async with running() as (_, client):
        await probes(client)
        with pytest.raises(ActorTrapped) as trapped:
            await client.invoke("two", type="t", traceparent=TRACEPARENT)
        assert trapped.value.trace_id == TRACE
        trace = await whole(client, "two")
        with pytest.raises(PlexSpacesError):
            await client.invoke(
                "one", type="l", timeout_s=0.2, traceparent=f"00-{1:032x}-{1:016x}-01"
            )
    [one] = collector.of(TRACE)
    assert_as_measured([one], trace)
    assert (one.span.status.code, one.attributes["error.type"]) == (2, "unreachable")
    assert "unreachable" in one.span.status.message
    [late] = collector.of(f"{1:032x}")
    assert late.span.status.code == 2
    assert late.attributes["error.type"] == "deadline_exceeded"


async def test_message_that_waits_for_its_vm_has_the_start(
    running: Running, probes: Any, collector: Receiver, data_dir: Path
) -> None:
    """As a child, as long as it waited, which is a part of its queue."""
    async with running() as (_, client):
        await probes(client)
        await client.stop("one")
        starting = asyncio.create_task(client.start("one"))
        async with asyncio.timeout(patient(30)):
            for number in itertools.count(1):
                trace_id = f"{number:032x}"
                traceparent = f"00-{trace_id}-{PARENT}-01"
                try:
                    await client.invoke("one", b"x", type="e", traceparent=traceparent)
                except WrongState:
                    # It came before the start did.
                    await asyncio.sleep(0)
                else:
                    break
        await starting
        trace = await whole(client, "one", trace_id)
    received = collector.of(trace_id)
    assert_as_measured(received, trace)
    [start] = [one for one in received if one.span.name == "start"]
    message = root_of(received)
    assert start.parent_id == message.span_id
    assert message.attributes["faas.coldstart"] is True
    assert start.span.start_time_unix_nano == message.span.start_time_unix_nano
    assert 0 < start.duration_ns <= message.attributes["plexspaces.queue_ns"]


async def test_only_what_is_sampled_is_sent(
    running: Running, probes: Any, collector: Receiver
) -> None:
    """Whoever says that a trace is not sampled means all of it; a malformed word says nothing."""
    async with running(http=True) as (node, client):
        await probes(client)
        async with NodeClient(client.address, http=False) as sender:
            said = await sender.invoke("one", routed("two", "e"), type="a", traceparent=UNSAMPLED)
            assert said.trace_id == TRACE
        async with callers(node.http_address) as connect:
            caller = await connect()
            for hostile in (f"00-{TRACE}-{PARENT}-01-x", "00-" + "0" * 32 + f"-{PARENT}-01", "é"):
                answer = await caller.send("POST", "/apps/one/e", b"x", traceparent=hostile)
                assert answer.status == 200
                assert TRACE not in answer.headers.get("traceresponse", "")
    assert collector.of(TRACE) == []
    assert all(one.parent_id == "" for one in collector.spans)


async def test_traceparent_of_a_stranger_counts_for_nothing(
    running: Running, collector: Receiver, probe_wasm: Path
) -> None:
    """Everybody could have all messages of a public application traced, and none of another."""
    async with running(http=True) as (node, owner):
        token = (await owner.create_token("root", scopes=["admin"], tenant="*")).secret
        async with NodeClient(node.address, token=token, http=False) as client:
            await client.deploy("one", probe_wasm, options=DeployOptions(public=True))
            known = await client.invoke("one", type="e", traceparent=TRACEPARENT)
            assert known.trace_id == TRACE
            unknown = "plx_" + "0" * 57
            async with NodeClient(node.address, token=unknown, http=False) as nobody:
                said = await nobody.invoke("one", type="e", traceparent=TRACEPARENT)
                assert said.trace_id != TRACE
            async with callers(node.http_address) as connect:
                caller = await connect()
                answer = await caller.send("POST", "/apps/one/e", traceparent=TRACEPARENT)
                assert answer.status == 200
                assert TRACE not in answer.headers.get("traceresponse", "")
    assert len(collector.of(TRACE)) == 1


async def test_long_names_are_cut_where_they_are_kept(
    running: Running, probes: Any, collector: Receiver, tmp_path: Path
) -> None:
    """The application gets all of it; the node's memory and a collector do not."""
    wasm = tmp_path / "page.wasm"
    wasm.write_bytes(http_component())
    long = "e" * 256
    async with running(http=True) as (node, client):
        await probes(client)
        await client.deploy("page", wasm)
        await client.invoke("one", b"x", type=long, traceparent=TRACEPARENT)
        await client.stop("one")
        with pytest.raises(WrongState):
            await client.invoke("one", b"x", type=long, traceparent=TRACEPARENT)
        async with callers(node.http_address) as connect:
            caller = await connect()
            await caller.send("GET", f"/apps/page/{long * 20}", traceparent=TRACEPARENT)
        kept = [*await client.traces("one"), *await client.traces("page")]
        types = (await client.activity("one")).types
    received = collector.of(TRACE)
    assert len(received) == 3, collector.names()
    assert all(len(str(one.attributes)) < 1000 for one in received)
    assert {len(span.name) for trace in kept for span in trace.spans} == {128}
    assert {len(one.type) for one in types} == {128}


async def test_share_of_messages_is_traced_that_the_settings_say(
    running: Running, probes: Any, collector: Receiver
) -> None:
    """All of them, with a share of 1."""
    async with running(sample=1.0) as (_, client):
        await probes(client)
        for _ in range(20):
            await client.invoke("one", b"x", type="e")
    assert len([one for one in collector.spans if one.service == "one"]) == 20


async def test_chain_over_a_component_is_one_trace(
    running: Running, probes: Any, collector: Receiver, tmp_path: Path
) -> None:
    """A request to a component, by its own address and by an ask, and what the component calls."""
    wasm = tmp_path / "page.wasm"
    wasm.write_bytes(http_component(calls=True))
    async with running(http=True) as (node, client):
        await probes(client)
        await client.deploy("page", wasm)
        async with callers(node.http_address) as connect:
            caller = await connect()
            answer = await caller.send("GET", "/apps/page/a?token=x", traceparent=TRACEPARENT)
            assert answer.status == 200
        trace = await whole(client, "page")
        asked = f"00-{1:032x}-{1:016x}-01"
        await client.invoke("one", routed("page", "e"), type="a", traceparent=asked)
        chain = await whole(client, "one", f"{1:032x}")
    received = collector.of(TRACE)
    assert_as_measured(received, trace)
    assert [(one.span.name, one.span.kind) for one in received] == [
        ("GET", 2),
        ("keyvalue get", 1),
        ("GET", 3),
    ]
    request, _, fetch = received
    assert request.attributes["faas.trigger"] == "http"
    assert request.attributes["url.path"] == "/a"
    assert request.attributes["http.response.status_code"] == 200
    assert "token" not in str([one.attributes for one in received])
    assert {one.parent_id for one in received[1:]} == {request.span_id}
    assert fetch.attributes["server.address"] == "example.com"
    assert fetch.attributes["error.type"] == "http-request-denied"
    received = collector.of(f"{1:032x}")
    assert_as_measured(received, chain)
    assert [one.service for one in received] == ["one", "page", "page", "page"]
    assert received[1].parent_id == received[0].span_id


async def test_headers_of_the_environment_reach_the_collector_and_no_setting(
    running: Running, probes: Any, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every program of OpenTelemetry takes them; compression too."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    async with running() as (_, client):
        await probes(client)
        await client.invoke("one", b"x", type="e", traceparent=TRACEPARENT)
    assert collector.headers["authorization"] == "Bearer secret"
    assert collector.headers["content-encoding"] == "gzip"
    assert len(collector.of(TRACE)) == 1


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_collector_has_to_prove_who_it_is(
    data_dir: Path,
    probe_wasm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    is_trusted: bool,
) -> None:
    """By TLS, with the authority that OpenTelemetry's variable names, and no other."""
    authority = make_authority("test")
    pair = make_node_certificate(authority, ["127.0.0.1"])
    for name, content in (("ca", authority.certificate), ("c", pair.certificate), ("k", pair.key)):
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    if is_trusted:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "ca"))
    with receiver(context) as collector:
        built = builder(data_dir).with_setting("otel.endpoint", collector.endpoint)
        async with built.build() as node, NodeClient(node.address) as client:
            await client.deploy("one", probe_wasm)
            await client.invoke("one", b"x", type="e", traceparent=TRACEPARENT)
    assert len(collector.of(TRACE)) == is_trusted
    assert ("CERTIFICATE_VERIFY_FAILED" in caplog.text) is not is_trusted


# ---- a collector that is not there ------------------------------------------------------------


async def test_collector_that_dies_costs_spans_and_nothing_else(
    data_dir: Path, probe_wasm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages are answered as before, the queue is bounded, and it is said once how many."""
    with receiver() as collector:
        endpoint = collector.endpoint
        built = builder(data_dir).with_setting("otel.endpoint", endpoint)
        node_running = built.with_setting("otel.sample", 1.0).build()
        node = await node_running.__aenter__()
        try:
            async with NodeClient(node.address) as client:
                await client.deploy("one", probe_wasm)
                await client.invoke("one", b"x", type="e", traceparent=TRACEPARENT)
                await asyncio.to_thread(collector.wait, lambda it: it.of(TRACE))
        except BaseException:
            await node_running.__aexit__(None, None, None)
            raise
    begin_s = asyncio.get_running_loop().time()
    try:
        async with NodeClient(node.address) as client:
            for _ in range(50):
                assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    finally:
        await node_running.__aexit__(None, None, None)
    # 2 s for the last spans, besides what a node's end takes anyway.
    assert asyncio.get_running_loop().time() - begin_s < patient(10)
    assert [one for one in threading.enumerate() if one.name == "otlp"] == []
    said = [line for line in caplog.messages if "spans were not sent to the collector" in line]
    assert 1 <= len(said) <= 2
    assert sum(int(line.split()[0]) for line in said) == 50
    assert "Connection refused" in said[0]
    assert_nothing_left(data_dir)


@pytest.mark.parametrize("status", [401, 500])
async def test_collector_that_refuses_is_named_with_its_reason(
    running: Running,
    probes: Any,
    collector: Receiver,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    """In the log, once, and not line by line as the exporter would."""
    collector.status = status
    async with running() as (_, client):
        await probes(client)
        await client.invoke("one", b"x", type="e", traceparent=TRACEPARENT)
    said = [line for line in caplog.messages if "span" in line]
    assert len(said) == 1
    assert f"code: {status}" in said[0]


async def test_collector_that_redirects_has_not_taken_spans(
    running: Running, probes: Any, collector: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not followed: the headers may have a secret that is for this collector alone."""
    collector.status = 307
    async with running() as (_, client):
        await probes(client)
        await client.invoke("one", b"x", type="e", traceparent=TRACEPARENT)
    (said,) = [line for line in caplog.messages if "span" in line]
    assert "it answered 307" in said


def test_collector_that_answers_without_end_is_read_no_further(collector: Receiver) -> None:
    """And what it has taken it has taken; a short answer leaves the connection for the next."""
    span = Span("one", Kind.MESSAGE, "e", 0, 1)
    span.identify(is_sampled=True)
    source = Source("node", "1", "process")
    taker = OtlpCollector(collector.endpoint, source, lambda perf_ns: perf_ns)
    answers = [b"", b"x" * _MORE_BYTES, b"", b"x"]
    ports = []
    for collector.body in answers:
        assert taker.send([Ended(span)]) == ""
        ports.append(collector.port)
    taker.abort()
    taker.close()
    assert [ports.index(port) for port in ports] == [0, 0, 2, 2]


_MORE_BYTES = 1 << 20


async def test_collector_that_hangs_does_not_hold_the_end_of_a_node(
    running: Running, probes: Any, collector: Receiver
) -> None:
    """The request that is under way is ended; neither thread nor socket is left."""
    collector.goes_on.clear()
    async with running() as (_, client):
        await probes(client)
        await client.invoke("one", b"x", type="e", traceparent=TRACEPARENT)
        await asyncio.to_thread(collector.wait, lambda it: it.requests)
        assert len(connections_to(collector)) == 1
    assert collector.requests == 1
    assert connections_to(collector) == []


def connections_to(collector: Receiver) -> list[str]:
    """Return the connections to a collector that this host has open, at the client's end."""
    port = int(collector.endpoint.rpartition(":")[2])
    entries = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # Of one that is closed, the system alone knows still, and it has no inode.
    return [one[1] for one in entries if one[2].endswith(f":{port:04X}") and one[9] != "0"]


def killed(node: Node, data_dir: Path) -> None:
    del node
    for pid in agents_of(data_dir):
        os.kill(pid, signal.SIGKILL)


async def test_message_whose_vm_dies_is_sent_with_its_error(
    running: Running, probes: Any, collector: Receiver, data_dir: Path
) -> None:
    """Nobody will ever answer it, and that is what its span says."""
    async with running() as (node, client):
        await probes(client)
        sent = asyncio.create_task(
            client.invoke("one", type="l", timeout_s=patient(20), traceparent=TRACEPARENT)
        )
        async with asyncio.timeout(patient(20)):
            while (await client.inspect("one")).counters.in_flight < 1:
                await asyncio.sleep(0.01)
        killed(node, data_dir)
        with pytest.raises(PlexSpacesError):
            await sent
    [one] = collector.of(TRACE)
    assert one.span.status.code == 2
    assert one.attributes["error.type"] == "unavailable"
