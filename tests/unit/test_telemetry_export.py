"""Spans on their way to a collector: the queue, what becomes of it, and the conventions."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import StatusCode
from support.patience import patient

from plexspaces_node.errors import Unsupported
from plexspaces_node.node.telemetry.span import Ended, Kind, Span, Step
from plexspaces_node.node.telemetry_export import opening
from plexspaces_node.node.telemetry_export.conventions import Conventions
from plexspaces_node.node.telemetry_export.exporter import BATCH, Exporter
from plexspaces_node.node.telemetry_export.opening import Source, check_installed
from plexspaces_node.node.telemetry_export.otlp import traces_url
from plexspaces_node.trace_context import TraceContext

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
LONG_S = 3600.0
EPOCH_NS = 10**18


class FakeCollector:
    """Takes spans, or says why not.

    Attributes:
        why: what it says.
        came: released with each call of `send`.
        goes_on: while it is not set, calls wait.
    """

    def __init__(self) -> None:
        self.why = ""
        self.batches: list[list[Ended]] = []
        self.came = threading.Semaphore(0)
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.aborted = 0

    def send(self, batch: Sequence[Ended]) -> str:
        self.batches.append(list(batch))
        self.came.release()
        assert self.goes_on.wait(patient(30))
        if self.why == "broken":
            raise ValueError(self.why)
        return self.why

    def abort(self) -> None:
        self.aborted += 1
        self.goes_on.set()

    def close(self) -> None:
        assert self.aborted

    def wait(self) -> None:
        """Wait until it was called once more."""
        assert self.came.acquire(timeout=patient(30))


@asynccontextmanager
async def exporting(collector: FakeCollector, **options: Any) -> Any:
    exporter = Exporter(collector, **{"interval_s": LONG_S, **options})
    try:
        yield exporter
    finally:
        await exporter.aclose()
        assert [one for one in threading.enumerate() if one.name == "otlp"] == []


def ended(name: str = "add", kind: Kind = Kind.MESSAGE) -> Ended:
    """A message that has ended."""
    span = Span("shop/cart", kind, name, 7, 1000)
    span.join(TraceContext(TRACE, PARENT, is_sampled=True))
    span.vm_id, span.version = "vm-1", "1.2"
    span.total_ns, span.compute_ns, span.wait_ns, span.queue_ns = 100, 40, 30, 20
    span.reply_bytes = 9
    return Ended(span)


# ---- the queue and the thread -----------------------------------------------------------------


async def test_spans_that_wait_are_sent_at_the_end() -> None:
    """In their order, each once, in batches."""
    collector = FakeCollector()
    given = [ended(str(number)) for number in range(3)]
    async with exporting(collector) as exporter:
        for one in given:
            exporter.take(one)
    assert collector.batches == [given]
    assert (exporter.sent, exporter.dropped) == (3, 0)


async def test_as_many_as_a_batch_are_sent_at_once() -> None:
    """They do not wait for the interval, which is an hour here."""
    collector = FakeCollector()
    async with exporting(collector) as exporter:
        for _ in range(BATCH):
            exporter.take(ended())
        collector.wait()
        assert [len(batch) for batch in collector.batches] == [BATCH]


async def test_spans_are_sent_after_the_interval() -> None:
    """However few there are."""
    collector = FakeCollector()
    async with exporting(collector, interval_s=0.01) as exporter:
        exporter.take(ended())
        collector.wait()
    assert exporter.sent == 1


async def test_more_than_may_wait_are_counted_and_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the collector does not answer, the queue does not grow, and nobody waits for it."""
    collector = FakeCollector()
    collector.goes_on.clear()
    async with exporting(collector, interval_s=0.01, most=5) as exporter:
        exporter.take(ended())
        collector.wait()
        for _ in range(100):
            exporter.take(ended())
        assert exporter.dropped == 95
        collector.goes_on.set()
    assert (exporter.sent, exporter.dropped) == (6, 95)
    assert "95 spans were not sent to the collector" in caplog.text


async def test_collector_that_fails_is_tried_again_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it did not take is lost; a minute's losses are one line of the log."""
    collector = FakeCollector()
    collector.why = "connection refused"
    async with exporting(collector, interval_s=0.01, pauses_s=(0.001, 0.002)) as exporter:
        for _ in range(5):
            exporter.take(ended())
            collector.wait()
        assert len(caplog.messages) <= 1
        collector.why = ""
        exporter.take(ended())
        collector.wait()
    assert exporter.dropped == 5
    assert exporter.sent == 1
    first, *rest = caplog.messages
    assert first.startswith("1 spans were not sent to the collector: connection refused")
    assert len(rest) <= 1  # at the end


async def test_defect_in_sending_costs_only_the_spans(caplog: pytest.LogCaptureFixture) -> None:
    """The thread goes on."""
    collector = FakeCollector()
    collector.why = "broken"
    async with exporting(collector, interval_s=0.01, pauses_s=(0.001, 0.002)) as exporter:
        exporter.take(ended())
        collector.wait()
        collector.why = ""
        exporter.take(ended())
        collector.wait()
    assert (exporter.sent, exporter.dropped) == (1, 1)
    assert "internal error in sending spans" in caplog.text


async def test_collector_that_does_not_answer_is_left_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After its time, what is under way is ended; nothing is left, and the loss is said."""
    collector = FakeCollector()
    collector.goes_on.clear()
    collector.why = "ended"
    async with exporting(collector, interval_s=0.01, flush_s=0.01) as exporter:
        exporter.take(ended())
        collector.wait()
        exporter.take(ended())
    assert collector.aborted == 1
    assert exporter.dropped == 2
    assert len(exporter._queue) == 0
    assert sum(int(one.split()[0]) for one in caplog.messages) == 2


async def test_log_of_the_exporter_names_no_span(caplog: pytest.LogCaptureFixture) -> None:
    """Names are those of applications: they are not the node's log's business."""
    collector = FakeCollector()
    collector.why = "no"
    with caplog.at_level(logging.DEBUG):
        async with exporting(collector) as exporter:
            exporter.take(ended("secret-type"))
    assert "secret-type" not in caplog.text


# ---- the conventions --------------------------------------------------------------------------


def told(one: Ended) -> list[ReadableSpan]:
    source = Source("node-1", "0.1.0", "process")
    return list(Conventions(source, lambda ns: EPOCH_NS + ns).spans(one))


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_message_is_told_with_all_that_was_measured() -> None:
    """To the nanosecond, with its place in its trace."""
    [span] = told(ended())
    assert (span.name, span.kind) == ("add", SpanKind.SERVER)
    assert span.context.trace_id == TRACE
    assert span.parent is not None
    assert (span.parent.span_id, span.parent.is_remote) == (PARENT, True)
    assert (span.start_time, span.end_time) == (EPOCH_NS + 1000, EPOCH_NS + 1100)
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span) == {
        "faas.trigger": "other",
        "faas.coldstart": False,
        "plexspaces.message.type": "add",
        "plexspaces.compute_ns": 40,
        "plexspaces.wait_ns": 30,
        "plexspaces.queue_ns": 20,
        "plexspaces.link_ns": 10,
        "plexspaces.payload_bytes": 7,
        "plexspaces.reply_bytes": 9,
    }


def test_service_is_the_application_of_its_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the environment says of the node is there too."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    [span] = told(ended())
    resource = dict(span.resource.attributes)
    assert (
        resource.items()
        >= {
            "service.name": "cart",
            "service.namespace": "shop",
            "service.version": "1.2",
            "service.instance.id": "vm-1",
            "faas.name": "cart",
            "faas.version": "1.2",
            "faas.instance": "vm-1",
            "plexspaces.node.id": "node-1",
            "plexspaces.isolation": "process",
            "deployment.environment.name": "test",
        }.items()
    )
    assert "host.name" in resource


def test_vms_are_described_once_each() -> None:
    """Spans of one VM are sent under one resource."""
    conventions = Conventions(Source("node-1", "0.1.0", "process"), lambda ns: ns)
    one, two, other = ended(), ended(), ended()
    other.span.vm_id = "vm-2"
    first, second, third = (next(conventions.spans(each)).resource for each in (one, two, other))
    assert first is second
    assert first != third


def test_request_to_a_component_is_told_without_its_query() -> None:
    """Tokens are in queries; a path names what was asked for."""
    [span] = told(ended("GET /orders/7?token=x")._replace(is_request=True))
    assert span.name == "GET"
    assert (
        attributes(span).items()
        >= {
            "faas.trigger": "http",
            "http.request.method": "GET",
            "url.path": "/orders/7",
            "http.request.body.size": 7,
            "http.response.body.size": 9,
        }.items()
    )
    assert "token" not in str(attributes(span))


@pytest.mark.parametrize(
    ("status", "attribute", "error"),
    [(200, 200, None), (404, 404, None), (503, 503, "503"), (0, None, None), (7777, None, None)],
)
def test_status_of_a_response_is_told_and_500_is_an_error(
    status: int, attribute: int | None, error: str | None
) -> None:
    """As the conventions have it for servers; a status that is none is not told."""
    one = ended("GET /")
    one.span.status = status
    [span] = told(one._replace(is_request=True))
    assert attributes(span).get("http.response.status_code") == attribute
    assert attributes(span).get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) is (error is not None)


def test_method_that_nobody_knows_names_no_span() -> None:
    """Or an application would have as many operations as it likes."""
    [span] = told(ended("BREW /pot")._replace(is_request=True))
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "BREW"


def test_tell_is_a_message_that_is_consumed() -> None:
    """Its sender does not wait."""
    [span] = told(ended(kind=Kind.TELL))
    assert span.kind is SpanKind.CONSUMER
    assert (
        attributes(span).items()
        >= {
            "faas.trigger": "pubsub",
            "messaging.system": "plexspaces",
            "messaging.operation.type": "process",
            "messaging.destination.name": "cart",
        }.items()
    )


def test_message_without_a_type_has_the_name_of_its_application() -> None:
    """A span has to have a name."""
    [span] = told(ended(""))
    assert span.name == "cart"


def test_wait_for_a_start_is_a_child_of_its_message() -> None:
    """As long as it waited."""
    one = ended()
    one.span.is_cold, one.span.waited_ns = True, 15
    message, start = told(one)
    assert attributes(message)["faas.coldstart"] is True
    assert (start.name, start.kind) == ("start", SpanKind.INTERNAL)
    assert start.parent is not None
    assert start.parent.span_id == message.context.span_id
    assert (start.start_time, start.end_time) == (EPOCH_NS + 1000, EPOCH_NS + 1015)
    assert start.resource is message.resource


@pytest.mark.parametrize(
    ("step", "name", "kind", "expected"),
    [
        (
            Step(Kind.FETCH, "POST api.example.com:8443", 1010),
            "POST",
            SpanKind.CLIENT,
            {
                "http.request.method": "POST",
                "server.address": "api.example.com",
                "server.port": 8443,
            },
        ),
        (
            Step(Kind.FETCH, "GET user:secret@example.com", 1010),
            "GET",
            SpanKind.CLIENT,
            {"http.request.method": "GET"},
        ),
        (
            Step(Kind.STORE, "put", 1010),
            "keyvalue put",
            SpanKind.INTERNAL,
            {"db.system.name": "plexspaces", "db.operation.name": "put"},
        ),
    ],
    ids=["fetch", "no host", "store"],
)
def test_step_is_a_child_of_its_message(
    step: Step, name: str, kind: SpanKind, expected: dict[str, Any]
) -> None:
    """With what the conventions have for it."""
    one = ended()
    step.end(1020)
    [span] = told(Ended(one.span, step))
    assert (span.name, span.kind, attributes(span)) == (name, kind, expected)
    assert span.parent is not None
    assert (span.parent.span_id, span.parent.is_remote) == (one.span.span_id, False)
    assert (span.start_time, span.end_time) == (EPOCH_NS + 1010, EPOCH_NS + 1020)


def test_failure_is_an_error_with_its_code_and_message() -> None:
    """Of a message, and of a step."""
    one = ended()
    one.span.error = ("division-by-zero", "3 / 0")
    step = Step(Kind.STORE, "get", 1)
    step.end(2, ("unavailable", ""))
    for each, code, said in (
        (one, "division-by-zero", "3 / 0"),
        (Ended(one.span, step), "unavailable", "unavailable"),
    ):
        [span] = told(each)
        assert attributes(span)["error.type"] == code
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, said)


# ---- the way to it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://otel.example.com/", "https://otel.example.com/v1/traces"),
        ("https://tempo.example.com/otlp", "https://tempo.example.com/otlp/v1/traces"),
        ("http://localhost:4318/v1/traces", "http://localhost:4318/v1/traces"),
    ],
)
def test_endpoint_is_completed_with_the_path_of_traces(endpoint: str, url: str) -> None:
    """Unless it has it."""
    assert traces_url(endpoint) == url


def test_endpoint_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the node opens anything."""
    for module in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("otlp", "conventions"):
        monkeypatch.delitem(sys.modules, f"{opening.__package__}.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(Unsupported, match="extra `otel` is not installed") as caught:
        check_installed("http://127.0.0.1:4318")
    assert caught.value.hint == "pip install 'plexspaces-node[otel]'"
    assert "http://127.0.0.1:4318" in caught.value.message


def test_nothing_is_loaded_without_an_endpoint() -> None:
    """A node that sends no traces does not pay for it."""
    loaded: Callable[[], set[str]] = lambda: set(sys.modules)  # noqa: E731
    before = loaded()
    check_installed("")
    assert loaded() == before
