"""A node over real gRPC with real machines: what a user can do, and what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.actors import Init, probe, routed
from support.nodes import builder
from support.patience import patient
from support.traces import agents_of, assert_nothing_left, bundles_of

from plexspaces_node import NodeClient, VmConfig
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated import application_pb2_grpc as pb_grpc
from plexspaces_node.api.invoke import SERVICE
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import (
    ActorFailed,
    ActorTrapped,
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    Unavailable,
    WrongState,
)
from plexspaces_node.info import InvokeResult
from plexspaces_node.model import MIB, ApplicationState, VmState
from plexspaces_node.node.node import Node
from plexspaces_node.node.timeouts import Timeouts

ONE = (1).to_bytes(4, "little")
TWO = (2).to_bytes(4, "little")
AT_WORK = b"at work"


async def _at_work(client: NodeClient) -> None:
    """Wait until `_loop` computes: what was only sent could still be taken back."""
    async with aclosing(client.logs("one", follow=True)) as lines:
        async for line in lines:
            if line.message == AT_WORK.decode():
                return


async def _loop(client: NodeClient, timeout_s: float) -> InvokeResult:
    """Have the application compute for so long, and say so before."""
    return await client.invoke("one", AT_WORK, type="l", timeout_s=timeout_s)


async def test_deploy_returns_when_a_message_can_be_answered(
    client: NodeClient, probe_wasm: Path
) -> None:
    """The first message after a deploy is answered, and every phase was measured."""
    info = await client.deploy("one", probe_wasm)
    assert info.state is ApplicationState.RUNNING
    assert info.vm is not None
    assert (info.vm.state, info.vm.isolation) == (VmState.RUNNING, "process")
    timings = info.timings
    assert not timings.compile_cached
    parts = (timings.upload_ns, timings.compile_ns, timings.vm_ns, timings.load_ns, timings.init_ns)
    assert all(part > 0 for part in parts)
    assert sum(parts) <= timings.total_ns
    assert (await client.invoke("one", b"hi", type="e")).payload == b"hi"


async def test_second_deploy_of_an_artifact_sends_and_compiles_nothing(
    client: NodeClient, probe_wasm: Path
) -> None:
    """An artifact the node has is found by its digest, and its compiled form in the cache."""
    await client.deploy("one", probe_wasm)
    phases: list[str] = []
    info = await client.deploy("two", probe_wasm, on_progress=lambda p: phases.append(p.phase))
    assert info.timings.upload_ns == 0
    assert info.timings.compile_cached
    assert phases == ["cached", "vm", "load"]


async def test_invoke_measures_compute_within_the_total(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Compute lies within the node's total, and the node's total within the client's."""
    await client.deploy("one", probe_wasm)
    result = await client.invoke("one", bytes(1000), type="e")
    assert 0 < result.timings.compute_ns < result.timings.total_ns < result.round_trip_ns
    info = await client.inspect("one")
    assert info.counters.messages == 1
    assert info.counters.compute_ns == result.timings.compute_ns
    both = info.counters.compute_ns + info.counters.coordinate_ns
    assert both == result.timings.total_ns


async def test_many_messages_at_once_are_each_answered_once(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Two hundred concurrent messages count to two hundred, without gap or repetition."""
    await client.deploy("one", probe_wasm)
    replies = await asyncio.gather(*(client.invoke("one", type="c") for _ in range(200)))
    counted = sorted(int.from_bytes(reply.payload, "little") for reply in replies)
    assert counted == list(range(1, 201))


async def test_command_application_answers(client: NodeClient, command_wasm: Path) -> None:
    """A WASI command without any SDK is deployed and answers from its stdout."""
    info = await client.deploy("cat", command_wasm)
    assert info.kind == "command"
    assert (await client.invoke("cat", b"hello")).payload == b"hello"
    with pytest.raises(ActorFailed, match="no such thing") as caught:
        await client.invoke("cat", b"x")
    assert caught.value.code == "exit-3"


async def test_error_record_and_trap_are_told_apart(client: NodeClient, probe_wasm: Path) -> None:
    """The actor's own error, and the end of its instance, are two exceptions with their codes."""
    await client.deploy("one", probe_wasm)
    with pytest.raises(ActorFailed, match="not today") as failed:
        await client.invoke("one", b"not today", type="f")
    assert (failed.value.code, failed.value.retryable) == ("nope", True)
    with pytest.raises(ActorTrapped) as trapped:
        await client.invoke("one", type="t")
    assert trapped.value.code == "unreachable"
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert (await client.inspect("one")).counters.failures == 2


async def test_endless_loop_ends_at_the_callers_deadline(
    client: NodeClient, probe_wasm: Path
) -> None:
    """A loop is cut when the message's time is over, and the application goes on."""
    await client.deploy("one", probe_wasm)
    with pytest.raises(DeadlineExceeded, match="interrupted"):
        await client.invoke("one", type="l", timeout_s=0.2)
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"


async def test_message_whose_sender_names_no_time_has_the_nodes(
    data_dir: Path, probe_wasm: Path
) -> None:
    """`limits.message_timeout_s` ends a loop that nobody gave a time."""
    short = builder(data_dir).with_setting("limits.message_timeout_s", 0.2)
    async with short.build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        async with asyncio.timeout(patient(20)):
            with pytest.raises(DeadlineExceeded, match="interrupted"):
                await client.invoke("one", type="l")


async def test_keyvalue_outlives_stop_and_start_and_ends_with_undeploy(
    client: NodeClient, probe_wasm: Path
) -> None:
    """What an actor put is there after a restart, and gone after an undeploy."""
    await client.deploy("one", probe_wasm)
    await client.invoke("one", b"key", type="p")
    await client.stop("one")
    await client.start("one")
    assert (await client.invoke("one", b"key", type="g")).payload == b"key"
    await client.undeploy("one")
    await client.deploy("one", probe_wasm)
    assert (await client.invoke("one", b"key", type="g")).payload == b""


async def test_stop_keeps_the_state_and_leaves_no_machine(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """A stopped application costs nothing and starts from where it was."""
    await client.deploy("one", probe_wasm)
    await client.invoke("one", type="c")
    stopped = await client.stop("one")
    assert (stopped.state, stopped.vm) == (ApplicationState.STOPPED, None)
    assert_nothing_left(data_dir)
    with pytest.raises(WrongState, match="Stopped") as caught:
        await client.invoke("one", type="c")
    assert caught.value.hint == "plexspaces start --name one"
    assert (await client.stop("one")).state is ApplicationState.STOPPED
    await client.start("one")
    assert (await client.invoke("one", type="c")).payload == TWO


async def test_undeploy_leaves_no_trace_but_the_artifact(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """Machine, state and log are gone; the name is free."""
    await client.deploy("one", probe_wasm)
    await client.invoke("one", b"a line", type="o")
    await client.undeploy("one")
    assert_nothing_left(data_dir)
    assert list((data_dir / "logs").iterdir()) == []
    with pytest.raises(NotFound):
        await client.inspect("one")
    with pytest.raises(NotFound):
        await client.undeploy("one")
    assert len(list((data_dir / "artifacts").iterdir())) == 1
    await client.deploy("one", probe_wasm)


async def test_list_tells_of_every_application_and_empty_machine(
    client: NodeClient, probe_wasm: Path
) -> None:
    """A listing is complete, sorted and measured."""
    await client.deploy("two", probe_wasm)
    await client.deploy("one", probe_wasm)
    await client.start_vm("spare")
    listing = await client.list()
    assert [application.name for application in listing.applications] == ["one", "two"]
    assert [vm.id for vm in listing.empty_vms] == ["spare"]
    assert listing.empty_vms[0].state is VmState.EMPTY
    assert listing.discovery_ns > 0


async def test_log_has_what_the_actor_logged(client: NodeClient, probe_wasm: Path) -> None:
    """A line logged before a reply can be read after it."""
    await client.deploy("one", probe_wasm)
    await client.invoke("one", b"a line", type="o")
    lines = [line async for line in client.logs("one")]
    assert [(line.stream, line.level, line.message) for line in lines] == [
        ("log", "info", "a line")
    ]


async def test_actor_asks_another_and_gets_its_reply(client: NodeClient, probe_wasm: Path) -> None:
    """Messages go from application to application, with the sender's name."""
    await client.deploy("one", probe_wasm)
    await client.deploy("two", probe_wasm)
    assert (await client.invoke("one", routed("two", "w"), type="a")).payload == b"one"
    with pytest.raises(ActorFailed) as caught:
        await client.invoke("one", routed("nobody", "e"), type="a")
    assert caught.value.code == "not-found"


async def test_tell_arrives_and_its_failure_is_in_the_receivers_log(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Telling returns once queued; what fails later is seen where it happened."""
    await client.deploy("one", probe_wasm)
    await client.deploy("two", probe_wasm)
    await client.invoke("one", routed("two", "c"), type="s")
    await client.invoke("one", routed("two", "f", b"told you"), type="s")
    assert (await client.invoke("two", type="c")).payload == TWO
    lines = [line.message async for line in client.logs("two")]
    assert lines == ["a message from 'one': told you"]


@pytest.mark.parametrize(
    "chain",
    [routed("one", "e"), routed("two", "a", routed("one", "e"))],
    ids=["to itself", "through another"],
)
async def test_call_chain_that_comes_back_is_an_error_and_no_deadlock(
    client: NodeClient, probe_wasm: Path, chain: bytes
) -> None:
    """An ask that would wait for its own asker is answered at once."""
    await client.deploy("one", probe_wasm)
    await client.deploy("two", probe_wasm)
    async with asyncio.timeout(patient(5)):
        with pytest.raises(ActorFailed) as caught:
            await client.invoke("one", chain, type="a", timeout_s=20)
    assert caught.value.code == "call-cycle"
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"


async def test_empty_machine_takes_an_application(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """A machine that was started empty becomes the application's, under its own id."""
    started = await client.start_vm("vm-mine", vm_config=VmConfig(1, 128))
    assert started.vm_ns > 0
    info = await client.deploy("one", probe_wasm, options=DeployOptions(vm_id="vm-mine"))
    assert info.vm is not None
    assert info.vm.id == "vm-mine"
    assert (await client.list()).empty_vms == ()
    with pytest.raises(WrongState, match="one"):
        await client.stop_vm("vm-mine")
    with pytest.raises(NotFound):
        await client.deploy("two", probe_wasm, options=DeployOptions(vm_id="vm-mine"))
    await client.undeploy("one")
    assert_nothing_left(data_dir)


async def test_empty_machine_is_stopped_and_leaves_nothing(
    client: NodeClient, data_dir: Path
) -> None:
    """Stopping an empty machine is idempotent; an id in use is refused."""
    await client.start_vm("vm-mine")
    with pytest.raises(AlreadyExists):
        await client.start_vm("vm-mine")
    await client.stop_vm("vm-mine")
    await client.stop_vm("vm-mine")
    assert_nothing_left(data_dir)


# ---- bad input ---------------------------------------------------------------------------


async def test_name_in_use_is_refused_and_the_first_lives_on(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Of two deploys of one name at the same time exactly one wins."""
    outcomes = await asyncio.gather(
        *(client.deploy("one", probe_wasm) for _ in range(3)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExists)]
    assert len(refused) == 2
    assert "deploy with --replace" in (refused[0].hint or "")
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert len((await client.list()).applications) == 1


async def test_same_request_id_gives_the_same_answer(
    client: NodeClient, probe_wasm: Path, node: Node
) -> None:
    """A deploy repeated after a lost answer changes nothing and succeeds."""
    first = await client.deploy("one", probe_wasm)
    del first
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub = pb_grpc.ApplicationServiceStub(channel)
        digest = hashlib.sha256(probe_wasm.read_bytes()).hexdigest()
        request = pb.DeployRequest(name="two", digest=digest, request_id="r-1")
        ids = set()
        for _ in range(2):
            events = [event async for event in stub.Deploy(request)]
            ids.add(events[-1].application.id)
    assert len(ids) == 1


@pytest.mark.parametrize("init", [Init.ERROR, Init.TRAP])
async def test_init_that_fails_fails_the_deploy_and_leaves_nothing(
    client: NodeClient, tmp_path: Path, data_dir: Path, init: Init
) -> None:
    """The deploy says why in the actor's own words, and the name is free again."""
    wasm = tmp_path / "bad.wasm"
    wasm.write_bytes(probe(init))
    with pytest.raises((ActorFailed, ActorTrapped)) as caught:
        await client.deploy("one", wasm)
    assert ("init said no" if init is Init.ERROR else "unreachable") in str(caught.value)
    assert (await client.list()).applications == ()
    assert_nothing_left(data_dir)
    assert list((data_dir / "logs").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0asm\x01\0\0\0\x01\x05", "truncated"),
        (b"\0asm\x01\0\0\0", "it exports nothing"),
        (b"\0asm\x09\0\0\0", "unknown WebAssembly version"),
        (probe()[:-100], "truncated|valid"),
    ],
)
async def test_artifact_that_cannot_run_is_refused_with_the_reason(
    client: NodeClient, tmp_path: Path, data_dir: Path, content: bytes, message: str
) -> None:
    """What is not an application is refused before any machine is made."""
    wasm = tmp_path / "bad.wasm"
    wasm.write_bytes(content)
    with pytest.raises(InvalidArgument, match=message):
        await client.deploy("one", wasm)
    assert (await client.list()).applications == ()
    assert_nothing_left(data_dir)


@pytest.mark.parametrize(
    "options",
    [DeployOptions(vcpus=10_000), DeployOptions(memory_mib=1), DeployOptions(memory_mib=2**30)],
)
async def test_machine_of_impossible_size_is_refused(
    client: NodeClient, probe_wasm: Path, options: DeployOptions
) -> None:
    """The error names the value and what is possible."""
    with pytest.raises(InvalidArgument, match=r"\d"):
        await client.deploy("one", probe_wasm, options=options)


async def test_message_over_the_cap_is_refused(client: NodeClient, probe_wasm: Path) -> None:
    """One too long costs nothing but its error; one that is much too long is not even read."""
    await client.deploy("one", probe_wasm)
    for size, said in ((16 * MIB + 1, "16777217 bytes"), (30 * MIB, r"314572\d\d bytes")):
        with pytest.raises(InvalidArgument, match=f"a message of {said} exceeds") as caught:
            await client.invoke("one", bytes(size), type="e")
        assert "[limits] message_bytes" in (caught.value.hint or "")
    longest = bytes(range(256)) * (16 * MIB // 256)
    assert (await client.invoke("one", longest, type="e")).payload == longest


async def test_environment_that_was_deployed_can_be_loaded_again(
    client: NodeClient, probe_wasm: Path
) -> None:
    """As much as a deploy takes, with a state: it stops and starts; a byte more is not deployed."""
    options = DeployOptions(env={"X": "y" * (128 * 1024 - 1)})
    await client.deploy("one", probe_wasm, options=options)
    await client.invoke("one", (3 * MIB).to_bytes(4, "little"), type="b")
    await client.stop("one")
    assert (await client.start("one")).state is ApplicationState.RUNNING
    assert (await client.invoke("one", type="c")).payload == (2).to_bytes(4, "little")
    with pytest.raises(InvalidArgument, match="exceed the limit of 131072"):
        await client.deploy("two", probe_wasm, options=DeployOptions(env={"X": "y" * 131_072}))


async def test_upload_that_breaks_off_or_lies_stores_nothing(
    node: Node, data_dir: Path, probe_wasm: Path
) -> None:
    """An upload is stored whole and under its own digest, or not at all."""
    data = probe_wasm.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    header = pb.UploadArtifactRequest.Header(digest=digest, size_bytes=len(data))
    parts = {
        "short": [data[:100]],
        "other bytes": [data[:-1] + b"\0"],
        "too many": [data, b"more"],
    }
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub = pb_grpc.ApplicationServiceStub(channel)
        for chunks in parts.values():
            requests = [
                pb.UploadArtifactRequest(header=header),
                *(pb.UploadArtifactRequest(chunk=chunk) for chunk in chunks),
            ]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.UploadArtifact(iter(requests))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        call = stub.UploadArtifact()
        await call.write(pb.UploadArtifactRequest(header=header))
        await call.write(pb.UploadArtifactRequest(chunk=data[:100]))
        call.cancel()
        assert not (await stub.FindArtifact(pb.FindArtifactRequest(digest=digest))).found
    assert list((data_dir / "artifacts").glob("*.wasm")) == []


async def test_upload_that_falls_silent_is_ended_and_stores_nothing(
    data_dir: Path, probe_wasm: Path
) -> None:
    """A client that hangs does not keep others from sending for ever."""
    data = probe_wasm.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    header = pb.UploadArtifactRequest.Header(digest=digest, size_bytes=len(data))
    impatient = builder(data_dir).with_timeouts(Timeouts(upload_grace_s=0.05))
    async with impatient.build() as node, grpc.aio.insecure_channel(node.address) as channel:
        call = pb_grpc.ApplicationServiceStub(channel).UploadArtifact()
        await call.write(pb.UploadArtifactRequest(header=header))
        await call.write(pb.UploadArtifactRequest(chunk=data[:100]))
        with pytest.raises(grpc.aio.AioRpcError, match="slower than 64 KiB a second"):
            await call
    assert list((data_dir / "artifacts").iterdir()) == []


# ---- faults ------------------------------------------------------------------------------


async def test_client_that_goes_away_in_a_deploy_leaves_nothing(
    client: NodeClient, probe_wasm: Path, data_dir: Path, node: Node
) -> None:
    """A cancelled deploy is undone: no machine, no name taken."""
    began = asyncio.Event()
    deploy = asyncio.create_task(
        client.deploy(
            "one", probe_wasm, on_progress=lambda p: began.set() if p.phase == "vm" else None
        )
    )
    await began.wait()
    deploy.cancel()
    await asyncio.gather(deploy, return_exceptions=True)
    async with asyncio.timeout(patient(20)):
        while (await client.list()).applications or bundles_of(data_dir):
            await asyncio.sleep(0)
    assert_nothing_left(data_dir)
    await client.deploy("one", probe_wasm)


async def test_killed_machine_is_replaced_and_the_state_is_the_last_snapshot(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """When a machine is killed the application comes back by itself in another one."""
    before = await client.deploy("one", probe_wasm)
    await client.invoke("one", type="c")
    await client.stop("one")
    await client.start("one")
    [agent] = agents_of(data_dir)
    os.kill(agent, signal.SIGKILL)
    async with asyncio.timeout(patient(20)):
        while (info := await client.inspect("one")).restarts == 0 or info.vm is None:
            await asyncio.sleep(0.01)
        while (info := await client.inspect("one")).state is not ApplicationState.RUNNING:
            await asyncio.sleep(0.01)
    assert info.vm is not None
    assert before.vm is not None
    assert info.vm.id != before.vm.id
    assert (await client.invoke("one", type="c")).payload == TWO
    assert bundles_of(data_dir) == [info.vm.id]


async def test_message_in_flight_when_the_machine_dies_fails_at_once(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """Nobody waits for the reply of a machine that is gone."""
    await client.deploy("one", probe_wasm)
    running = asyncio.create_task(_loop(client, 60))
    async with asyncio.timeout(patient(20)):
        await _at_work(client)
        os.kill(agents_of(data_dir)[0], signal.SIGKILL)
        with pytest.raises(Unavailable):
            await running


async def test_frozen_machine_is_replaced(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """An agent that neither answers nor ends is noticed by the deadline and replaced."""
    await client.deploy("one", probe_wasm)
    [agent] = agents_of(data_dir)
    os.kill(agent, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded, match="sign of life"):
        await client.invoke("one", type="e", timeout_s=0.2)
    async with asyncio.timeout(patient(20)):
        while (await client.inspect("one")).state is not ApplicationState.RUNNING or agents_of(
            data_dir
        ) == [agent]:
            await asyncio.sleep(0.01)
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert agent not in agents_of(data_dir)


async def test_drain_lets_a_running_message_finish_and_leaves_nothing(
    client: NodeClient, node: Node, probe_wasm: Path, data_dir: Path
) -> None:
    """On shutdown what runs is answered within the grace time, and every machine is gone."""
    await client.deploy("one", probe_wasm)
    running = asyncio.create_task(_loop(client, 1.5))
    async with asyncio.timeout(patient(20)):
        await _at_work(client)
    await node.drain()
    with pytest.raises(DeadlineExceeded, match="interrupted"):
        await running
    assert_nothing_left(data_dir)
    with pytest.raises(PlexSpacesError):
        await client.invoke("one", type="e")


async def test_health_and_reflection_are_served(node: Node) -> None:
    """The standard services tell that the node serves, and what."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        listed: Any = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        call = listed(iter([b"\x3a\x00"]))  # list_services
        reply = await call.read()
        assert SERVICE.encode() in reply
        call.cancel()


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/Stop",
        f"/{SERVICE}/Invoke",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_request_that_cannot_be_read_is_told_to_its_sender_alone(
    node: Node, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rubbish is the caller's fault, whatever it was sent to."""
    channel: Any
    async with grpc.aio.insecure_channel(node.address) as channel:
        if "reflection" in method:
            answer = channel.stream_stream(method)(iter([b"\x0a\xff"])).read()
        else:
            answer = channel.unary_unary(method)(b"\x0a\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in caplog.text


async def test_metrics_tell_what_was_done(data_dir: Path, probe_wasm: Path) -> None:
    """A scrape shows the messages and times the node counted."""
    build = builder(data_dir).with_setting("node.metrics_address", "127.0.0.1:0").build()
    async with build as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.invoke("one", type="e")
        url = f"http://127.0.0.1:{node.metrics_port}/metrics"
        page = (await asyncio.to_thread(urlopen, url, timeout=10)).read().decode()
    assert 'plexspaces_messages_total{application="one",tenant="default"} 1.0' in page
    assert 'plexspaces_applications{state="Running"} 1.0' in page
    assert "plexspaces_artifact_store_bytes " in page
    duration = "plexspaces_message_duration_seconds"
    assert f'{duration}_bucket{{application="one",tenant="default",le="+Inf"}} 1\n' in page
    values = {
        line.partition("{")[0]: float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if not line.startswith("#")
    }
    assert values["plexspaces_vm_memory_bytes"] > 1 << 20
    assert values["plexspaces_vm_cpu_seconds_total"] > 0
    assert values["plexspaces_link_bytes_total"] > 10
    assert 'plexspaces_deploy_phase_duration_seconds_count{phase="load"} 1\n' in page


async def test_short_message_behind_a_long_one_ends_alone(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """A message whose time runs out in the queue costs neither the machine nor the one at work."""
    await client.deploy("one", probe_wasm)
    agents = agents_of(data_dir)
    long = asyncio.create_task(_loop(client, 5.0))
    async with asyncio.timeout(patient(20)):
        await _at_work(client)
    with pytest.raises(DeadlineExceeded, match="timed out in the mailbox"):
        await client.invoke("one", type="c", timeout_s=0.2)
    with pytest.raises(DeadlineExceeded, match="interrupted"):
        await long
    assert (await client.invoke("one", type="c")).payload == ONE
    assert agents_of(data_dir) == agents


async def test_message_whose_sender_left_is_in_flight_until_it_ends_and_counts(
    client: NodeClient, probe_wasm: Path
) -> None:
    """What an actor computes for nobody is computed all the same, and shown; what waited is not."""
    await client.deploy("one", probe_wasm)
    long = asyncio.create_task(_loop(client, 4.0))
    async with asyncio.timeout(patient(20)):
        await _at_work(client)
        waiting = asyncio.create_task(client.invoke("one", type="c", timeout_s=20.0))
        while (await client.inspect("one")).counters.in_flight < 2:
            await asyncio.sleep(0)
        for task in (long, waiting):
            task.cancel()
        await asyncio.gather(long, waiting, return_exceptions=True)
        # What waited is answered as soon as the agent hears that nobody waits for it.
        assert (await client.inspect("one")).counters.in_flight in (1, 2)
        while (counters := (await client.inspect("one")).counters).in_flight:
            await asyncio.sleep(0.01)
    assert (counters.messages, counters.failures) == (2, 2)
    assert counters.compute_ns > 500_000_000
    assert (await client.invoke("one", type="c")).payload == ONE


async def test_stop_whose_caller_goes_away_is_finished(
    client: NodeClient, node: Node, probe_wasm: Path, data_dir: Path
) -> None:
    """A stop is done whole: the application ends Stopped, and the node can shut down."""
    await client.deploy("one", probe_wasm)
    running = asyncio.create_task(_loop(client, 1.5))
    async with asyncio.timeout(patient(20)):
        await _at_work(client)
        stopping = asyncio.create_task(client.stop("one"))
        while (await client.inspect("one")).state is ApplicationState.RUNNING:
            await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.gather(stopping, running, return_exceptions=True)
        while (await client.inspect("one")).state is not ApplicationState.STOPPED:
            await asyncio.sleep(0.01)
    await client.start("one")
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    await node.drain()
    assert_nothing_left(data_dir)


async def test_end_of_an_empty_machine_whose_caller_goes_away_is_finished(
    client: NodeClient, node: Node, data_dir: Path
) -> None:
    """A machine is never lost between the list of the node and its end."""
    await client.start_vm("vm-mine")
    stopping = asyncio.create_task(node.applications.empty_vms.stop("vm-mine"))
    while (await client.list()).empty_vms:
        await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    async with asyncio.timeout(patient(20)):
        while bundles_of(data_dir):
            await asyncio.sleep(0.01)
    assert_nothing_left(data_dir)


async def test_machine_ended_by_a_signal_without_a_name_is_replaced(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """Whatever number ends a machine, its application comes back and can be removed."""
    await client.deploy("one", probe_wasm)
    os.kill((await client.inspect_vm("one")).pid, 40)
    async with asyncio.timeout(patient(20)):
        while (info := await client.inspect("one")).restarts == 0 or (
            info.state is not ApplicationState.RUNNING
        ):
            await asyncio.sleep(0.01)
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    await client.undeploy("one")
    assert_nothing_left(data_dir)


async def test_shutdown_while_a_stop_is_under_way_waits_for_it(
    client: NodeClient, node: Node, probe_wasm: Path, data_dir: Path
) -> None:
    """Two ends at once are one end."""
    await client.deploy("one", probe_wasm)
    running = asyncio.create_task(_loop(client, 1.5))
    async with asyncio.timeout(patient(20)):
        await _at_work(client)
        stopping = asyncio.create_task(client.stop("one"))
        while (await client.inspect("one")).state is ApplicationState.RUNNING:
            await asyncio.sleep(0)
        await node.drain()
        assert (await stopping).state is ApplicationState.STOPPED
    await asyncio.gather(running, return_exceptions=True)
    assert_nothing_left(data_dir)


async def test_upload_time_that_a_client_claims_is_ignored(
    client: NodeClient, node: Node, probe_wasm: Path
) -> None:
    """The node measures what it receives; clients of before say how long they took to send."""
    await client.deploy("one", probe_wasm)
    digest = hashlib.sha256(probe_wasm.read_bytes()).hexdigest()
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub = pb_grpc.ApplicationServiceStub(channel)
        request = pb.DeployRequest(name="two", digest=digest, upload_ns=2**64 - 1)
        events = [event async for event in stub.Deploy(request)]
    assert events[-1].application.timings.upload_ns == 0


async def test_refused_artifact_is_not_kept(
    client: NodeClient, tmp_path: Path, data_dir: Path
) -> None:
    """Bad input changes nothing, on disk neither."""
    wasm = tmp_path / "bad.wasm"
    wasm.write_bytes(b"\0asm\x01\0\0\0")
    with pytest.raises(InvalidArgument):
        await client.deploy("one", wasm)
    assert list((data_dir / "artifacts").iterdir()) == []
