"""One trace over applications in four languages, as a collector gets it.

A client asks an actor in TypeScript, that one in Rust, that one in Go, and that one in Python; each
is built from source, logs, and sends a request of HTTP. A language whose compiler is missing is
skipped, unless `--languages` names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.nodes import builder
from support.otlp import Received, assert_as_measured, receiver
from support.patience import patient
from support.raw_http import callers
from support.traces import assert_nothing_left

from plexspaces_node.client import DeployOptions, NodeClient
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import Language
from plexspaces_node.telemetry import Trace
from plexspaces_node.toolchains import build, new_project

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"

TYPESCRIPT = """
import { actor, askBytes, log } from "plexspaces";

export default actor({
  handlers: {
    order: {
      async text(_state, url) {
        log.info("front");
        await (await fetch(url)).text();
        return askBytes("middle", "reserve", url, { timeoutMs: 20000 });
      },
    },
  },
});
"""

RUST = """
use std::time::Duration;

use plexspaces::{Actor, Failure, Handlers, Result, ask, keyvalue, log};
use serde::{Deserialize, Serialize};
use wstd::http::{Body, Client, Request};

#[derive(Default, Serialize, Deserialize)]
pub struct Middle {}

impl Actor for Middle {
    fn handlers() -> Handlers<Self> {
        Handlers::new().on("reserve", Self::reserve)
    }
}

impl Middle {
    pub fn reserve(&mut self, url: String) -> Result<Vec<u8>> {
        log::info!("middle");
        keyvalue::put("last", url.as_bytes())?;
        wstd::runtime::block_on(async {
            let request = Request::get(&url).body(Body::empty()).map_err(failed)?;
            let mut response = Client::new().send(request).await.map_err(failed)?;
            response.body_mut().str_contents().await.map_err(failed)?;
            Ok::<(), Failure>(())
        })?;
        ask("back", "price", &url, Duration::from_secs(20))
    }
}

fn failed(error: impl std::fmt::Debug) -> Failure {
    Failure::new("http", format!("{error:?}"))
}

plexspaces::export!(Middle);
"""

GO = """
package main

import (
	"io"
	"log/slog"
	"net/http"
	"time"

	"plexspaces/actor"
)

type Back struct{}

func (*Back) Price(url string) ([]byte, error) {
	slog.Info("back")
	response, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if _, err := io.ReadAll(response.Body); err != nil {
		return nil, err
	}
	return actor.Ask[[]byte]("last", "count", url, 20*time.Second)
}

func main() {
	fresh := func() *Back { return &Back{} }
	actor.Serve(actor.Define(fresh, actor.Handle("price", (*Back).Price)))
}
"""

PYTHON = """
from plexspaces_actor import Actor, handler, log
from plexspaces_actor.fetch import fetch_sync


class Last(Actor):
    @handler("count")
    def count(self, url: str) -> str:
        log.info("last")
        return str(len(fetch_sync(url).body))
"""

RUST_COMPONENT = """
use wstd::http::{Body, Client, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let url = request.into_body().str_contents().await?.to_owned();
    let response = Client::new().send(Request::get(url).body(Body::empty())?).await?;
    Ok(Response::new(response.into_body()))
}
"""

APPLICATIONS = {
    "front": (Language.TYPESCRIPT, "src/main.ts", TYPESCRIPT),
    "middle": (Language.RUST, "src/lib.rs", RUST),
    "back": (Language.GO, "main.go", GO),
    "last": (Language.PYTHON, "app.py", PYTHON),
}
CHAIN = list(zip(APPLICATIONS, ("order", "reserve", "price", "count"), strict=True))


def built(
    request: pytest.FixtureRequest,
    directory: Path,
    language: Language,
    file: str,
    source: str,
    *,
    http: bool = False,
) -> Path:
    project = new_project(language, "caller", directory / f"{language}-caller", http=http)
    (project / file).write_text(source)
    if language is Language.RUST and not http:
        manifest = project / "Cargo.toml"
        crate = '[dependencies]\nwstd = { version = "=0.6.8", default-features = false }'
        manifest.write_text(manifest.read_text().replace("[dependencies]", crate))
    try:
        return asyncio.run(build(project, progress=lambda _line: None)).path
    except Unsupported as missing:
        if language in request.config.getoption("--languages").split(","):
            pytest.fail(f"--languages names {language}, but: {missing.message}")
        pytest.skip(missing.message)


@pytest.fixture
def applications(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Path]:
    return {
        name: built(request, tmp_path, language, file, source)
        for name, (language, file, source) in APPLICATIONS.items()
    }


class Server:
    """Says hello, and keeps the traceparent of each request."""

    def __init__(self) -> None:
        self.traceparents: list[str] = []
        self.url = self.allowed = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").lower().split("\r\n")
                self.traceparents += [
                    line.split(": ", 1)[1] for line in lines if line.startswith("traceparent: ")
                ]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
        server.allowed = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        server.url = f"http://{server.allowed}/"
        yield server


async def whole(client: NodeClient, name: str) -> Trace:
    async with asyncio.timeout(patient(20)):
        while True:
            [trace] = await client.traces(name, trace_id=TRACE)
            if all(span.total_ns for span in trace.spans):
                return trace
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _run(data_dir: Path, endpoint: str) -> AsyncIterator[tuple[str, NodeClient]]:
    running = (
        builder(data_dir)
        .with_setting("otel.endpoint", endpoint)
        .with_setting("http.address", "127.0.0.1:0")
    )
    async with running.build() as node, NodeClient(node.address) as client:
        yield node.http_address, client
    assert_nothing_left(data_dir)


def line_of(received: list[Received]) -> Iterator[tuple[str, str, str, str]]:
    """Yield what is in a trace, each with the name of what caused it."""
    names = {one.span_id: f"{one.service} {one.span.name}" for one in received}
    for one in received:
        kind = one.span.SpanKind.Name(one.span.kind).removeprefix("SPAN_KIND_").lower()
        yield kind, one.service, one.span.name, names.get(one.parent_id, one.parent_id)


async def test_chain_in_four_languages_is_one_trace_everywhere(
    data_dir: Path, applications: dict[str, Path], server: Server
) -> None:
    """The collector, `ListTraces`, the reply, the logs and the server that all call agree."""
    options = DeployOptions(allow_hosts=(server.allowed,))
    logs: dict[str, list[str]] = {}
    with receiver() as collector:
        async with _run(data_dir, collector.endpoint) as (_, client):
            for name, wasm in applications.items():
                await client.deploy(name, wasm, options=options)
            result = await client.invoke(
                *("front", server.url.encode()), type="order", traceparent=TRACEPARENT
            )
            trace = await whole(client, "front")
            for name in applications:
                lines = client.logs(name, trace_id=TRACE)
                logs[name] = [line.message async for line in lines if line.stream == "log"]
        received = collector.of(TRACE)

    assert (result.payload, result.trace_id) == (b"5", TRACE)
    assert_as_measured(received, trace)
    root = received[0]
    assert root.duration_ns == result.timings.total_ns
    for part in ("compute_ns", "wait_ns", "queue_ns"):
        assert root.attributes[f"plexspaces.{part}"] == getattr(result.timings, part)

    expected = []
    cause = PARENT
    for name, message_type in CHAIN:
        expected.append(("server", name, message_type, cause))
        cause = f"{name} {message_type}"
        if name == "middle":
            expected.append(("internal", name, "keyvalue put", cause))
        expected.append(("client", name, "GET", cause))
    assert sorted(line_of(received)) == sorted(expected)
    # Each waits for the next, so that one is within the other.
    ends = [one.span.end_time_unix_nano for one in received if one.span.kind == 2]
    assert ends == sorted(ends, reverse=True)

    fetches = [one for one in received if one.span.kind == 3]
    assert server.traceparents == [f"00-{TRACE}-{one.span_id}-01" for one in fetches]
    assert logs == {name: [name] for name in applications}


async def test_request_of_a_component_has_its_place_in_the_trace(
    data_dir: Path, server: Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of wasi:http 0.2, from the request that it answers to the one that it sends."""
    wasm = await asyncio.to_thread(
        built, request, tmp_path, Language.RUST, "src/lib.rs", RUST_COMPONENT, http=True
    )
    options = DeployOptions(allow_hosts=(server.allowed,))
    with receiver() as collector:
        async with _run(data_dir, collector.endpoint) as (http_address, client):
            await client.deploy("page", wasm, options=options)
            async with callers(http_address) as connect:
                caller = await connect()
                answer = await caller.send(
                    *("POST", "/apps/page/x", server.url.encode()), traceparent=TRACEPARENT
                )
            assert (answer.status, answer.body) == (200, b"hello")
            trace = await whole(client, "page")
        received = collector.of(TRACE)
    assert_as_measured(received, trace)
    assert list(line_of(received)) == [
        ("server", "page", "POST", PARENT),
        ("client", "page", "GET", "page POST"),
    ]
    assert server.traceparents == [f"00-{TRACE}-{received[1].span_id}-01"]
