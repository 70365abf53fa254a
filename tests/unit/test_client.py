"""The client keeps its promises against a node that keeps the contract."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from support.fake_node import LOG, NODE, TIMINGS, TRACE_ID, WASM, FakeNode, padded

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.client import (
    ApplicationDeployment,
    DeployOptions,
    NodeClient,
    Progress,
    VmRegistry,
)
from plexspaces_node.client.message import MAX_INVOKE_TIMEOUT_S
from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    AlreadyExists,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    Unavailable,
    Unsupported,
    VmStartFailed,
    WrongState,
)
from plexspaces_node.model import MIB, ApplicationState, Language, VmConfig, VmState


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A fake node that serves."""
    with FakeNode() as running:
        yield running


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[NodeClient]:
    """A client connected to it."""
    async with NodeClient(node.address) as opened:
        yield opened


@pytest.fixture
def wasm(tmp_path: Path) -> Path:
    """A file that looks like WebAssembly, longer than two chunks of an upload."""
    path = tmp_path / "app.wasm"
    path.write_bytes(padded(600 * 1024 + 108))
    return path


@pytest.fixture
def free_address() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class TestDeploy:
    """`NodeClient.deploy`."""

    async def test_deploy_when_the_artifact_is_new_then_it_is_sent_in_chunks(
        self, node: FakeNode, client: NodeClient, wasm: Path
    ) -> None:
        """The file goes over in pieces, with progress, and the phases follow."""
        seen: list[Progress] = []
        options = DeployOptions(Language.GO, "2.0", 1, 64, {"A": "b"})
        info = await client.deploy("calc", wasm, options=options, on_progress=seen.append)
        size = wasm.stat().st_size
        assert node.uploads == [[256 * 1024, 256 * 1024, size - 512 * 1024]]
        assert seen[0] == Progress("upload", 0, size)
        assert seen[3] == Progress("upload", size, size)
        assert [each.phase for each in seen[4:]] == ["compile", "vm", "load"]
        assert (info.name, info.state, info.language) == (
            "calc",
            ApplicationState.RUNNING,
            Language.GO,
        )
        assert info.digest == hashlib.sha256(wasm.read_bytes()).hexdigest()
        assert info.timings.upload_ns > 0
        assert (info.version, info.vm_config) == ("2.0", VmConfig(1, 64))
        assert dict(node.deploys[0].env) == {"A": "b"}

    async def test_deploy_when_the_node_has_the_artifact_then_it_is_not_sent_again(
        self, node: FakeNode, client: NodeClient, wasm: Path
    ) -> None:
        """Asked by digest, the node says it has it; each deploy has a request id of its own."""
        await client.deploy("first", wasm)
        seen: list[Progress] = []
        info = await client.deploy("second", wasm.read_bytes(), on_progress=seen.append)
        assert len(node.uploads) == 1
        assert seen[0] == Progress("cached")
        assert info.timings.upload_ns == 0
        assert node.deploys[0].request_id != node.deploys[1].request_id

    async def test_deploy_when_no_size_is_given_then_the_nodes_default_is_used(
        self, client: NodeClient, wasm: Path
    ) -> None:
        """The client does not impose a size of its own, nor the half that was not chosen."""
        info = await client.deploy("calc", wasm)
        assert info.vm_config == NODE.default_vm
        info = await client.deploy("large", wasm, options=DeployOptions(memory_mib=512))
        assert info.vm_config == VmConfig(NODE.default_vm.vcpus, 512)

    @pytest.mark.parametrize(
        ("name", "options", "said"),
        [
            ("Bad Name", DeployOptions(), "application name 'Bad Name'"),
            ("x" * 64, DeployOptions(), "application name"),
            ("", DeployOptions(), "application name ''"),
            ("calc", DeployOptions(version="no spaces"), "version 'no spaces'"),
            ("calc", DeployOptions(env={"A=B": "c"}), "environment variable 'A=B'"),
            ("calc", DeployOptions(vm_id="../x"), "VM id '../x'"),
            ("calc", DeployOptions(env={"A": "x" * 131_072}), "exceed the limit of 131072"),
            ("calc", DeployOptions(args=("x" * 131_072,)), "exceed the limit of 131072"),
            ("calc", DeployOptions(concurrency=0), "concurrency must be at least 1, not 0"),
            ("calc", DeployOptions(concurrency=-1), "concurrency must be from 1 to 1024, not -1"),
            ("calc", DeployOptions(vcpus=0), "vcpus must be at least 1, not 0"),
            ("calc", DeployOptions(memory_mib=-1), "memory must be at least 1 MiB, not -1"),
        ],
    )
    async def test_deploy_when_the_request_is_wrong_then_nothing_is_sent(
        self,
        node: FakeNode,
        client: NodeClient,
        wasm: Path,
        name: str,
        options: DeployOptions,
        said: str,
    ) -> None:
        """Names, versions and variables are checked before the first call."""
        with pytest.raises(InvalidArgument, match=said.replace(".", r"\.")):
            await client.deploy(name, wasm, options=options)
        assert node.calls == []

    @pytest.mark.parametrize(
        ("file", "content", "said", "hint"),
        [
            ("none.wasm", None, "there is no file", "path of a .wasm file"),
            ("empty.wasm", b"", "is empty", "plexspaces build"),
            ("cut.wasm", b"\0asm\x01", "truncated: it ends after 5 bytes", "plexspaces build"),
            ("app.py", b"import os", "is Python source", "plexspaces build"),
            ("app.rs", b"fn main", "is Rust source", "plexspaces build"),
            ("app.wasm", b"\x7fELF\2\1", "native program", ".wasm file it was compiled from"),
            ("app.wat", b"\n (module)", "WebAssembly text", "wasm-tools parse"),
            ("app.wasm", b"{}  ", "starts with 7b 7d 20 20", "plexspaces build"),
        ],
    )
    async def test_deploy_when_the_file_is_not_wasm_then_nothing_is_sent(
        self,
        node: FakeNode,
        client: NodeClient,
        tmp_path: Path,
        file: str,
        content: bytes | None,
        said: str,
        hint: str,
    ) -> None:
        """What the file is, and what to do, is said without asking the node."""
        path = tmp_path / file
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidArgument, match=said) as caught:
            await client.deploy("calc", path)
        assert hint in (caught.value.hint or "")
        assert node.calls == []

    async def test_deploy_when_given_a_directory_then_it_says_which_command_takes_one(
        self, node: FakeNode, client: NodeClient, tmp_path: Path
    ) -> None:
        """A project directory is not an artifact; the command builds one, the client does not."""
        with pytest.raises(InvalidArgument, match="is a directory") as caught:
            await client.deploy("calc", tmp_path)
        assert caught.value.hint == f"if it is a project: plexspaces deploy {tmp_path}"
        assert node.calls == []

    @pytest.mark.parametrize(
        ("options", "said", "hint"),
        [
            (DeployOptions(vcpus=5), "at most 4", "--vcpus 4"),
            (DeployOptions(memory_mib=63), "from 64 to 1024 MiB", "--memory 64"),
            (DeployOptions(memory_mib=4096), "from 64 to 1024 MiB", "--memory 1024"),
        ],
    )
    async def test_deploy_when_the_machine_is_impossible_then_nothing_is_uploaded(
        self,
        node: FakeNode,
        client: NodeClient,
        wasm: Path,
        options: DeployOptions,
        said: str,
        hint: str,
    ) -> None:
        """The node's own bounds are asked before the artifact is sent."""
        with pytest.raises(InvalidArgument, match=said) as caught:
            await client.deploy("calc", wasm, options=options)
        assert hint in (caught.value.hint or "")
        assert node.calls == ["InspectNode"]

    async def test_deploy_when_the_file_is_over_the_limit_then_it_is_not_read(
        self, node: FakeNode, client: NodeClient, tmp_path: Path
    ) -> None:
        """A file of a terabyte is refused by its size alone."""
        path = tmp_path / "huge.wasm"
        with path.open("wb") as file:
            file.write(WASM)
            file.truncate(2**40)
        with pytest.raises(
            InvalidArgument, match=r"1048576\.0 MiB, but the node accepts at most 1\.0 MiB"
        ):
            await client.deploy("calc", path)
        assert node.calls == ["InspectNode"]

    async def test_deploy_when_the_name_is_taken_then_nothing_is_uploaded(
        self, node: FakeNode, client: NodeClient, wasm: Path
    ) -> None:
        """A name is asked for before the artifact is sent, and the hint tells the way."""
        await client.deploy("calc", WASM)
        with pytest.raises(AlreadyExists, match="'calc' is already deployed and Run") as caught:
            await client.deploy("calc", wasm)
        assert (caught.value.hint or "").startswith("deploy with --replace")
        assert len(node.uploads) == 1
        assert [request.name for request in node.deploys] == ["calc"]

    async def test_deploy_when_a_request_is_repeated_then_its_answer_comes_again(
        self, node: FakeNode, client: NodeClient, wasm: Path
    ) -> None:
        """A client that did not see the end of a deploy asks again, whether it was done or not."""
        options = DeployOptions(request_id="0e6b")
        first = await client.deploy("calc", wasm, options=options)
        assert await client.deploy("calc", wasm, options=options) == first
        assert [request.request_id for request in node.deploys] == ["0e6b", "0e6b"]

    @pytest.mark.parametrize(
        ("name", "options", "kind"),
        [
            ("calc", DeployOptions(), AlreadyExists),
            ("other", DeployOptions(vcpus=5), InvalidArgument),
            ("No Name", DeployOptions(), InvalidArgument),
        ],
    )
    async def test_check_deploy_when_a_deploy_would_be_refused_then_it_raises_the_same(
        self, client: NodeClient, name: str, options: DeployOptions, kind: type[PlexSpacesError]
    ) -> None:
        """What does not depend on the artifact can be asked before there is one."""
        await client.deploy("calc", WASM)
        with pytest.raises(kind):
            await client.check_deploy(name, options=options)
        await client.check_deploy("free")

    @pytest.mark.parametrize(
        "error",
        [
            VmStartFailed("did not connect", step="handshake", hint="plexspaces doctor"),
            ActorFailed("no table", code="bad-init"),
            AlreadyExists("taken a moment ago", hint="choose another"),
        ],
    )
    async def test_deploy_when_the_node_fails_then_its_error_is_raised(
        self, node: FakeNode, client: NodeClient, wasm: Path, error: PlexSpacesError | ActorError
    ) -> None:
        """An error in the middle of the stream is told from a lost connection."""
        node.fail["Deploy"] = error
        with pytest.raises(type(error), match=error.message) as caught:
            await client.deploy("calc", wasm)
        assert vars(caught.value) == vars(error)

    async def test_deploy_when_the_error_text_is_huge_then_it_arrives_cut(
        self, node: FakeNode, client: NodeClient, wasm: Path
    ) -> None:
        """A real gRPC connection carries the longest error the encoding lets through."""
        node.fail["Deploy"] = ActorFailed("ß" * 100_000, code="x" * 9_999, hint="é" * 10_000)
        with pytest.raises(ActorFailed, match=r"ß…$"):
            await client.deploy("calc", wasm)


class _FakeNodeOfDeadlines(FakeNode):
    """A fake node that keeps how much time each message had left, by its call's deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.left_s: list[float | None] = []

    def Invoke(self, request: pb.InvokeRequest, context: grpc.ServicerContext) -> pb.InvokeResponse:
        self.left_s.append(context.time_remaining())
        return super().Invoke(request, context)


class TestInvoke:
    """`NodeClient.invoke`."""

    async def test_invoke_when_answered_then_payload_and_times_come_back(
        self, node: FakeNode, client: NodeClient
    ) -> None:
        """Every byte survives, and the client adds its own measured round trip."""
        await client.deploy("calc", WASM)
        payload = bytes(range(256))
        result = await client.invoke("calc", payload, type="add", timeout_s=1.5)
        assert (result.payload, result.timings) == (payload, TIMINGS)
        assert result.round_trip_ns > 0
        assert (node.invokes[0].type, node.invokes[0].timeout_ms) == ("add", 1500)

    @pytest.mark.parametrize("token", ["", "px_some"])
    async def test_invoke_when_a_traceparent_is_named_then_it_goes_along(
        self, fake_node: FakeNode, token: str
    ) -> None:
        """Beside a token, and the result has the trace; that of a failure too."""
        traceparent = f"00-{TRACE_ID}-b7ad6b7169203331-01"
        async with NodeClient(fake_node.address, token=token) as client:
            await client.deploy("calc", WASM)
            result = await client.invoke("calc", b"1", traceparent=traceparent)
            assert (result.trace_id, result.transport) == (TRACE_ID, "grpc")
            assert (await client.invoke("calc", b"1")).trace_id == ""
            fake_node.behave = lambda _name, _type, _payload: ActorFailed("no", code="no")
            with pytest.raises(ActorFailed) as caught:
                await client.invoke("calc", b"1", traceparent=traceparent)
            assert caught.value.trace_id == TRACE_ID
            with pytest.raises(InvalidArgument, match="not a traceparent"):
                await client.invoke("calc", b"1", traceparent="00-x")

    async def test_invoke_when_no_time_is_named_then_the_nodes_holds(self) -> None:
        """Neither message nor call has a deadline, which would hide the node's setting."""
        with _FakeNodeOfDeadlines() as node:
            async with NodeClient(node.address) as client:
                await client.deploy("calc", WASM)
                await client.invoke("calc")
                await client.invoke("calc", timeout_s=20)
        assert [request.timeout_ms for request in node.invokes] == [0, 20_000]
        without, given = node.left_s
        assert without is None or without > 2 * MAX_INVOKE_TIMEOUT_S
        assert given is not None
        assert 20 < given < 23

    @pytest.mark.parametrize("cls", [ActorFailed, ActorTrapped])
    async def test_invoke_when_the_actor_fails_then_its_error_is_raised(
        self, node: FakeNode, client: NodeClient, cls: type[ActorError]
    ) -> None:
        """The actor's fault is no fault of the platform."""
        await client.deploy("calc", WASM)
        node.behave = lambda name, type, payload: cls("broken", code="e1")
        with pytest.raises(cls, match="broken") as caught:
            await client.invoke("calc")
        assert caught.value.code == "e1"

    async def test_invoke_when_there_is_no_application_then_not_found(
        self, client: NodeClient
    ) -> None:
        """The node's hint says how to look."""
        with pytest.raises(NotFound, match="no application calc") as caught:
            await client.invoke("calc")
        assert caught.value.hint == "plexspaces list"

    @pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan"), 1e9])
    async def test_invoke_when_the_timeout_is_impossible_then_nothing_is_sent(
        self, node: FakeNode, client: NodeClient, timeout_s: float
    ) -> None:
        """No deadline that is no deadline."""
        with pytest.raises(InvalidArgument, match="timeout"):
            await client.invoke("calc", timeout_s=timeout_s)
        assert node.calls == []

    async def test_invoke_when_the_message_is_too_long_then_nothing_is_sent(
        self, node: FakeNode, client: NodeClient
    ) -> None:
        """What no node accepts is refused here; what is much longer than listings goes through."""
        with pytest.raises(InvalidArgument, match="exceeds the limit of 268435456"):
            await client.invoke("calc", bytes(256 * MIB + 1))
        assert node.calls == []
        await client.deploy("calc", WASM)
        result = await client.invoke("calc", bytes(33 * MIB))
        assert len(result.payload) == 33 * MIB

    async def test_invoke_when_the_nodes_limit_is_smaller_then_it_is_named(
        self, client: NodeClient
    ) -> None:
        """What a node does not even read is refused in words, and not as an overload."""
        with FakeNode(message_limit=2 * MIB) as small:
            async with NodeClient(small.address) as to_small:
                await to_small.deploy("calc", WASM)
                assert len((await to_small.invoke("calc", bytes(2 * MIB))).payload) == 2 * MIB
                with pytest.raises(InvalidArgument, match=r"a message of \d+ bytes.*") as caught:
                    await to_small.invoke("calc", bytes(3 * MIB))
        assert "[limits] message_bytes" in (caught.value.hint or "")


class TestLife:
    """Stop, start, undeploy, list, inspect, logs and empty machines."""

    async def test_application_when_stopped_and_started_then_its_machine_changes(
        self, node: FakeNode, client: NodeClient
    ) -> None:
        """Each call returns the application as it then is."""
        await client.deploy("calc", WASM)
        assert (await client.stop("calc")).vm is None
        assert (await client.start("calc")).vm is not None
        assert (await client.inspect("calc")).state is ApplicationState.RUNNING
        await client.undeploy("calc")
        assert (await client.list()).applications == ()
        with pytest.raises(NotFound):
            await client.undeploy("calc")

    async def test_logs_when_read_then_lines_come_in_order(self, client: NodeClient) -> None:
        """All that is kept, or its tail."""
        await client.deploy("calc", WASM)
        assert [line async for line in client.logs("calc")] == list(LOG)
        assert [line async for line in client.logs("calc", tail=1)] == [LOG[-1]]
        assert [line async for line in client.logs("calc", trace_id=TRACE_ID)] == [LOG[1]]
        with pytest.raises(InvalidArgument, match="trace id"):
            await anext(client.logs("calc", trace_id="x"))

    async def test_logs_when_the_reader_stops_following_then_the_call_ends(
        self, node: FakeNode, client: NodeClient
    ) -> None:
        """Closing the iterator ends the call on the node too."""
        await client.deploy("calc", WASM)
        async with aclosing(client.logs("calc", follow=True)) as lines:
            async for line in lines:
                if line == LOG[-1]:
                    break
        assert await asyncio.to_thread(node.log_gate.wait, 5)

    async def test_logs_when_there_is_no_application_then_not_found(
        self, client: NodeClient
    ) -> None:
        """An error of a stream is mapped like any other."""
        with pytest.raises(NotFound):
            await anext(client.logs("calc"))

    async def test_vm_when_empty_then_an_application_can_be_deployed_into_it(
        self, node: FakeNode, client: NodeClient
    ) -> None:
        """An empty machine is listed as such until an application takes it."""
        started = await client.start_vm("vm-1", vm_config=VmConfig(1, 64))
        assert (started.vm.state, started.vm_ns) == (VmState.EMPTY, 40_000_000)
        registry = VmRegistry(client)
        assert [vm.id for vm in await registry.discover()] == ["vm-1"]
        info = await client.deploy("calc", WASM, options=DeployOptions(vm_id="vm-1"))
        assert info.vm is not None
        assert info.vm.id == "vm-1"
        assert (await client.list()).empty_vms == ()
        await client.start_vm("vm-2")
        await client.stop_vm("vm-2")
        await client.stop_vm("vm-2")
        assert node.empty_vms == {}


class TestConnection:
    """What goes wrong between client and node."""

    async def test_call_when_nothing_listens_then_unavailable_says_how_to_start(
        self, free_address: str
    ) -> None:
        """The commonest failure is told at once and with its cure."""
        async with NodeClient(free_address) as client:
            with pytest.raises(Unavailable, match=f"no node answers at {free_address}") as caught:
                await client.list()
        assert caught.value.hint == (
            f"plexspaces start-node --node-id my-node --address {free_address}"
        )

    async def test_call_when_the_peer_is_silent_then_deadline_exceeded(self) -> None:
        """A port that accepts and says nothing does not hold the client for ever."""
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(1)
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            async with NodeClient(address) as client:
                with pytest.raises((DeadlineExceeded, Unavailable)):
                    await client.inspect_node(timeout_s=0.2)

    async def test_call_when_another_grpc_service_answers_then_unsupported(self) -> None:
        """Another program on the port is told from a broken node."""
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with NodeClient(f"127.0.0.1:{port}") as client:
                with pytest.raises(Unsupported, match="does not know this call"):
                    await client.inspect_node()
        finally:
            await server.stop(None)

    async def test_call_when_the_client_is_closed_then_wrong_state(self, node: FakeNode) -> None:
        """A client is used inside its block, and closes twice without harm."""
        client = NodeClient(node.address)
        with pytest.raises(WrongState, match="is not open"):
            await client.list()
        async with client:
            with pytest.raises(WrongState, match="is already open"):
                await client.__aenter__()
            await client.close()
        await client.close()
        assert repr(client) == f"<NodeClient {node.address} closed>"

    @pytest.mark.parametrize(
        "address",
        ["", "localhost", ":9000", "host:", "host:0", "host:99999", "host:9x", "::1:9000", "unix:"],
    )
    def test_client_when_the_address_is_none_then_invalid_argument(self, address: str) -> None:
        """An address is HOST:PORT or a unix socket."""
        with pytest.raises(InvalidArgument, match="is not HOST:PORT"):
            NodeClient(address)

    @pytest.mark.parametrize("address", ["localhost:1", "[::1]:9000", "unix:/run/node.sock"])
    def test_client_when_the_address_is_one_then_it_is_kept(self, address: str) -> None:
        """IPv6 in brackets and unix sockets are addresses too."""
        assert NodeClient(address).address == address

    async def test_deploy_when_the_stream_ends_without_result_then_internal(
        self, node: FakeNode, client: NodeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A node that breaks the contract is not believed."""
        monkeypatch.setattr("support.fake_node.convert.application_to_proto", lambda _: None)
        with pytest.raises(Internal, match="without a result"):
            await client.deploy("calc", WASM)


class TestApplicationDeployment:
    """The builder and its handle."""

    async def test_deployment_when_built_then_every_step_reaches_the_node(
        self, node: FakeNode, wasm: Path
    ) -> None:
        """The block's end undeploys and closes the connection that was opened for it."""
        deployment = (
            ApplicationDeployment("calc")
            .with_language("python")
            .with_wasm(str(wasm))
            .with_vm_config(VmConfig(1, 128))
            .with_env({"A": "1"})
            .with_env({"B": "2"})
            .with_version("3.0")
            .with_node(node.address)
        )
        async with await deployment.deploy() as application:
            assert application.info.language is Language.PYTHON
            assert (await application.invoke(b"ping")).payload == b"ping"
            assert (await application.stop()).state is ApplicationState.STOPPED
            assert (await application.start()).state is ApplicationState.RUNNING
            assert (await application.inspect()).name == "calc"
            assert len([line async for line in application.logs()]) == len(LOG)
            assert [line async for line in application.logs(trace_id=TRACE_ID)] == [LOG[1]]
        assert dict(node.deploys[0].env) == {"A": "1", "B": "2"}
        assert node.deploys[0].version == "3.0"
        assert node.applications == {}

    async def test_handle_when_undeployed_inside_its_block_then_leaving_is_silent(
        self, node: FakeNode, client: NodeClient
    ) -> None:
        """Leaving wants the application gone, and it is; a client given is left open."""
        deployment = ApplicationDeployment("calc").with_wasm(WASM).with_node(client)
        async with await deployment.deploy() as application:
            await application.undeploy()
        assert (await client.list()).applications == ()

    async def test_handle_when_not_used_as_a_block_then_the_application_lives_on(
        self, node: FakeNode
    ) -> None:
        """Closing the handle ends the connection only."""
        deployment = ApplicationDeployment("calc").with_wasm(WASM).with_node(node.address)
        application = await deployment.with_vm("vm-7").with_replace().deploy()
        await application.close()
        assert node.applications["calc"].vm is not None
        with pytest.raises(WrongState):
            await application.invoke()

    async def test_deployment_when_it_fails_then_its_connection_is_closed(
        self, node: FakeNode
    ) -> None:
        """A failed deploy leaves no connection open."""
        node.fail["Deploy"] = Unavailable("draining")
        deployment = ApplicationDeployment("calc").with_wasm(WASM).with_node(node.address)
        with pytest.raises(Unavailable, match="draining"):
            await deployment.deploy()
        assert node.applications == {}

    async def test_deployment_when_said_wrongly_then_the_step_itself_raises(self) -> None:
        """A mistake is told where it was made."""
        with pytest.raises(InvalidArgument, match="application name"):
            ApplicationDeployment("Not Valid")
        with pytest.raises(InvalidArgument, match="language 'cobol'"):
            ApplicationDeployment("calc").with_language("cobol")
        with pytest.raises(InvalidArgument, match="nothing to deploy as calc"):
            await ApplicationDeployment("calc").deploy()


class TestVmRegistry:
    """Discovery."""

    async def test_find_when_the_application_has_a_machine_then_it_is_returned(
        self, node: FakeNode, client: NodeClient
    ) -> None:
        """By address or by client, the answer is the node's present one."""
        await client.deploy("calc", WASM)
        registry = VmRegistry(node.address)
        assert (await registry.find("calc")).id == "vm-calc"
        await client.stop("calc")
        with pytest.raises(NotFound, match="is Stopped and has no VM") as caught:
            await registry.find("calc")
        assert caught.value.hint == "plexspaces start --name calc"
        with pytest.raises(NotFound, match="no application 'other'"):
            await registry.find("other")
