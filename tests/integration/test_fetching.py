"""Applications that send HTTP requests: real guests, a real node, a real server.

A language whose compiler is missing is skipped, unless `--languages` names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter_ns

import pytest
from support.nodes import builder
from support.patience import patient
from support.traces import agents_of, assert_nothing_left

from plexspaces_node.client import DeployOptions, NodeClient
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import Language
from plexspaces_node.node.node import Node
from plexspaces_node.toolchains import build, new_project

LONG = 4 * 1024 * 1024

RUST_ACTOR = """
use plexspaces::{Actor, Failure, Handlers, Result};
use serde::{Deserialize, Serialize};
use wstd::http::{Body, Client, Request};

#[derive(Default, Serialize, Deserialize)]
pub struct Caller {}

impl Actor for Caller {
    fn handlers() -> Handlers<Self> {
        Handlers::new().on("call", Self::call)
    }
}

impl Caller {
    pub fn call(&mut self, url: String) -> Result<String> {
        wstd::runtime::block_on(async {
            let request = Request::get(url).body(Body::empty()).map_err(failed)?;
            let mut response = Client::new().send(request).await.map_err(failed)?;
            Ok(response.body_mut().str_contents().await.map_err(failed)?.to_owned())
        })
    }
}

fn failed(error: impl std::fmt::Debug) -> Failure {
    Failure::new("http", format!("{error:?}"))
}

plexspaces::export!(Caller);
"""

RUST_COMPONENT = """
use wstd::http::{Body, Client, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let url = request.into_body().str_contents().await?.to_owned();
    match Client::new().send(Request::get(url).body(Body::empty())?).await {
        Ok(response) => Ok(Response::new(response.into_body())),
        Err(error) => Ok(Response::new(format!("{error:?}").into())),
    }
}
"""

PYTHON_COMPONENT = """
from plexspaces_actor.fetch import FetchError, fetch


async def app(scope, receive, send):
    url = (await receive())["body"].decode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        async for part in await fetch(url):
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except FetchError as error:
        await send({"type": "http.response.body", "body": error.code.encode()})
    else:
        await send({"type": "http.response.body", "body": b""})
"""

TYPESCRIPT_ACTOR = """
import { Failure, actor } from "plexspaces";

export default actor({
  handlers: {
    call: {
      async text(_state, url) {
        try {
          const [response] = await Promise.all([fetch(url)]);
          return await response.text();
        } catch (error) {
          const { cause } = error as { cause?: { code: string; message: string } };
          throw new Failure(cause?.code ?? "fetch", String(error));
        }
      },
    },
  },
});
"""

TYPESCRIPT_COMPONENT = """
export default {
  async fetch(request: Request): Promise<Response> {
    try {
      return new Response((await fetch(await request.text())).body);
    } catch (error) {
      return new Response(String(error));
    }
  },
};
"""

GO_ACTOR = """
package main

import (
	"errors"
	"io"
	"net/http"

	"plexspaces/actor"
)

type Caller struct{}

func (*Caller) Call(url string) ([]byte, error) {
	if _, ok := http.DefaultTransport.(*http.Transport); !ok {
		return nil, errors.New("it is another transport")
	}
	response, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

func main() {
	fresh := func() *Caller { return &Caller{} }
	actor.Serve(actor.Define(fresh, actor.Handle("call", (*Caller).Call)))
}
"""

PYTHON_ACTOR = """
from plexspaces_actor import Actor, handler
from plexspaces_actor.fetch import fetch_sync


class Caller(Actor):
    @handler("call")
    def call(self, url: str) -> bytes:
        return fetch_sync(url).body
"""

GUESTS = {
    "rust actor": (Language.RUST, False, "src/lib.rs", RUST_ACTOR),
    "rust component": (Language.RUST, True, "src/lib.rs", RUST_COMPONENT),
    "typescript actor": (Language.TYPESCRIPT, False, "src/main.ts", TYPESCRIPT_ACTOR),
    "typescript component": (Language.TYPESCRIPT, True, "src/server.ts", TYPESCRIPT_COMPONENT),
    "go actor": (Language.GO, False, "main.go", GO_ACTOR),
    "python actor": (Language.PYTHON, False, "app.py", PYTHON_ACTOR),
    "python component": (Language.PYTHON, True, "server.py", PYTHON_COMPONENT),
}


@pytest.fixture(scope="module", params=GUESTS)
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application that answers with what is at the URL that it is sent."""
    language, http, file, source = GUESTS[request.param]
    project = new_project(
        language, "caller", tmp_path_factory.mktemp("guest") / f"{language}-caller", http=http
    )
    (project / file).write_text(source)
    if request.param == "rust actor":
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
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "off").build() as node:
        yield node
    assert_nothing_left(data_dir)


class Server:
    """Answers on a free port of this computer, with much or when it is told to."""

    def __init__(self) -> None:
        self.asked, self.may = asyncio.Event(), asyncio.Event()
        self.waited_ns = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = b"hello"
                if head.startswith(b"GET /long"):
                    body = b"x" * LONG
                elif head.startswith(b"GET /late"):
                    begin_ns = perf_counter_ns()
                    self.asked.set()
                    await self.may.wait()
                    self.waited_ns = perf_counter_ns() - begin_ns
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                writer.write(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def is_asleep(pid: int) -> bool:
    """Return whether every thread of a process waits for something."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "S" for stat in threads)


async def test_application_when_it_sends_requests_then_the_node_makes_those_that_are_allowed(
    guest: Path, client: NodeClient, data_dir: Path
) -> None:
    """What is named is reached, all else is refused; waiting is no compute, and all is logged."""
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    allowed = f"127.0.0.1:{port}"
    await client.deploy("caller", guest, options=DeployOptions(allow_hosts=(allowed,)))
    assert (await client.inspect("caller")).allow_hosts == (allowed,)

    async def call(path: str, at: str = allowed) -> bytes:
        answer = await client.invoke("caller", f"http://{at}{path}".encode(), type="call")
        return bytes(answer.payload)

    assert await call("/") == b"hello"
    assert await call("/long") == b"x" * LONG
    denied = [f"127.0.0.1:{port + 1}", "localhost", f"user@{allowed}"]
    for at in denied:
        try:
            answer = (await call("/", at)).decode()
        except Exception as error:  # noqa: BLE001 - an actor fails, a component answers
            answer = str(error)
        if at.startswith("user@") and guest.parent.parent.name == "go-caller":
            # As anywhere in Go: the client makes a header of it, and the node does not see it.
            assert answer == "hello"
        else:
            words = ("denied", "may call", "uri", "user name")
            assert any(word in answer.lower() for word in words)

    late = f"http://{allowed}/late".encode()
    waiting = asyncio.create_task(client.invoke("caller", late, type="call"))
    async with asyncio.timeout(patient(30)):
        await server.asked.wait()
        [agent] = agents_of(data_dir)
        # A busy host may have taken the processor from it before it waits.
        while not is_asleep(agent):
            await asyncio.sleep(0)
        before_ns = perf_counter_ns()
        # Something that takes a while, as a server does.
        assert await asyncio.to_thread(sum, range(3_000_000))
        took_ns = perf_counter_ns() - before_ns
        server.may.set()
        timings = (await waiting).timings
    assert timings.wait_ns >= took_ns
    assert timings.compute_ns < timings.total_ns - took_ns
    lines = [line async for line in client.logs("caller")]
    told = [line.message for line in lines if line.stream == "node"]
    assert told[0].startswith(f"HTTP GET http://{allowed}: 200, 0 bytes out, 5 bytes in, ")
    assert f"200, 0 bytes out, {LONG} bytes in" in told[1]
    assert any("http-request-denied" in line for line in told[2:])
    assert "/late" not in str(told)
    listening.close()
