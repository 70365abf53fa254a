"""`NodeClient`: one typed method for each call of the node's gRPC service.

This module has deadlines and the upload stream; `connection` has the connection and converts
failures to errors. It retries nothing: only the caller knows whether a message may be sent twice.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from plexspaces_node.api import convert
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.invoke import Request, decode_reply, encode_request
from plexspaces_node.api.options import UPLOAD_CHUNK_BYTES
from plexspaces_node.artifact_inspection import check_memory, inspect
from plexspaces_node.client.artifact import Artifact, check_wasm, read_artifact
from plexspaces_node.client.cluster import ClusterCalls
from plexspaces_node.client.message import Message
from plexspaces_node.client.options import (
    DeployOptions,
    OnProgress,
    Progress,
    check_fits,
    size_of,
    spec_of,
)
from plexspaces_node.client.quotas import QuotaCalls
from plexspaces_node.client.secrets import SecretCalls
from plexspaces_node.client.telemetry import TelemetryCalls
from plexspaces_node.client.tokens import TokenCalls
from plexspaces_node.errors import Internal, InvalidArgument, NotFound, name_taken
from plexspaces_node.info import (
    ApplicationInfo,
    InvokeResult,
    Listing,
    LogLine,
    NodeInfo,
    StartedVm,
    VmInfo,
    VmInspection,
)
from plexspaces_node.model import (
    ApplicationSpec,
    VmConfig,
    check_full_name,
    check_name,
    check_trace_id,
)
from plexspaces_node.trace_context import HEADER

READ_TIMEOUT_S = 15.0
"""For calls that only read."""
CHANGE_TIMEOUT_S = 120.0
"""For calls that stop something or start a VM."""
DEPLOY_TIMEOUT_S = 600.0
"""For an upload and for a deploy: compiling a large artifact can take a minute."""


class NodeClient(TokenCalls, SecretCalls, QuotaCalls, TelemetryCalls, ClusterCalls):
    """The calls of one node; an async context manager that connects.

    Every method raises `WrongState` outside the context, `Unavailable` if no node answers and
    `DeadlineExceeded` if it does not answer in time. Many tasks of one event loop can use it.
    """

    async def inspect_node(self, *, timeout_s: float = READ_TIMEOUT_S) -> NodeInfo:
        """Return the node's properties and limits."""
        request = pb.InspectNodeRequest()
        reply = await self._answer(self._stub.InspectNode(request, timeout=timeout_s))
        return convert.node_from_proto(reply)

    async def find_artifact(self, digest: str, *, tenant: str = "") -> bool:
        """Return whether the node already has the artifact with this SHA-256.

        Of this tenant, by default the client's own: each has its own artifacts.
        """
        request = pb.FindArtifactRequest(digest=digest, tenant=tenant)
        reply = await self._answer(self._stub.FindArtifact(request, timeout=READ_TIMEOUT_S))
        return reply.found

    async def upload(
        self, artifact: Artifact, *, tenant: str = "", on_progress: OnProgress | None = None
    ) -> None:
        """Send an artifact to the node, which checks its digest; on failure nothing is stored.

        `tenant` is as in `find_artifact`.
        """
        stream = _upload_stream(artifact, tenant, on_progress)
        call = self._stub.UploadArtifact(stream, timeout=DEPLOY_TIMEOUT_S)
        await self._answer(call)

    async def deploy(
        self,
        name: str,
        wasm: Path | bytes,
        *,
        options: DeployOptions | None = None,
        on_progress: OnProgress | None = None,
        timeout_s: float = DEPLOY_TIMEOUT_S,
    ) -> ApplicationInfo:
        """Deploy a WebAssembly file under a name; returns when it can answer messages.

        An artifact that the node has is not sent again. Raises `InvalidArgument` before anything is
        sent if the name, the file or the options are invalid, or if the file cannot run;
        `AlreadyExists` if the name is taken and not to be replaced, `ActorFailed` or `ActorTrapped`
        if the actor does not start. Then only the cached artifact is left on the node, and the
        version that was to be replaced runs again from where it was, with the keys and values that
        the new `init` put.
        """
        wish = options or DeployOptions()
        size_bytes = await asyncio.to_thread(check_wasm, wasm)
        node, config = await self._check_deploy(name, wish, size_bytes)
        artifact = await asyncio.to_thread(read_artifact, wasm)
        spec = replace(spec_of(name, wish), digest=artifact.digest, vm_config=config)
        await self._bring(artifact, node, spec, on_progress)
        request = convert.deploy_to_proto(
            spec,
            size=convert.size_to_proto(wish.vcpus, wish.memory_mib),
            request_id=wish.request_id or str(uuid.uuid4()),
            vm_id=wish.vm_id,
        )
        request.replace = wish.replace
        request.no_secrets = wish.no_secrets
        call = self._stub.Deploy(request, timeout=timeout_s)
        deployed: ApplicationInfo | None = None
        async with aclosing(self._stream(call)) as events:
            async for event in events:
                if event.WhichOneof("event") == "application":
                    deployed = convert.application_from_proto(event.application)
                elif on_progress is not None:
                    on_progress(Progress(event.phase))
        if deployed is None:
            raise Internal(f"the node at {self.address} ended the deploy without a result")
        return deployed

    async def check_deploy(
        self, name: str, *, options: DeployOptions | None = None, size_bytes: int = 0
    ) -> None:
        """Raise what `deploy` would raise before it sends an artifact of this size.

        `InvalidArgument` for a name or options that are invalid, here or on this node, and
        `AlreadyExists` for a name that is taken, unless the options repeat a request or replace.
        """
        await self._check_deploy(name, options or DeployOptions(), size_bytes)

    async def undeploy(self, name: str) -> None:
        """Remove an application with its VM, state and log; raises `NotFound`."""
        check_full_name(name)
        request = pb.UndeployRequest(name=name)
        await self._answer(self._stub.Undeploy(request, timeout=CHANGE_TIMEOUT_S))

    async def stop(self, name: str, *, force: bool = False) -> ApplicationInfo:
        """Stop an application and keep its last snapshot; idempotent. Raises `NotFound`.

        If its state cannot be saved it keeps running, and `WrongState` says why. With `force` it is
        stopped anyway; `last_error` then says what was lost.
        """
        check_full_name(name)
        request = pb.StopRequest(name=name, force=force)
        reply = await self._answer(self._stub.Stop(request, timeout=CHANGE_TIMEOUT_S))
        return convert.application_from_proto(reply.application)

    async def start(self, name: str) -> ApplicationInfo:
        """Start a stopped application from its last snapshot; idempotent. Raises `NotFound`."""
        check_full_name(name)
        request = pb.StartRequest(name=name)
        reply = await self._answer(self._stub.Start(request, timeout=DEPLOY_TIMEOUT_S))
        return convert.application_from_proto(reply.application)

    async def invoke(
        self,
        name: str,
        payload: bytes = b"",
        *,
        type: str = "",
        timeout_s: float | None = None,
        traceparent: str = "",
    ) -> InvokeResult:
        """Send a message to an application and return its reply.

        With `traceparent`, as W3C writes it, the message belongs to that trace, and is traced by
        the node if its flag is 01. `trace_id` of the result is the trace, or "".

        It goes by HTTP if the node serves that to this user on this host, which is several times
        faster, else by gRPC; `transport` of the result says which.
        Raises `ActorFailed` for the application's own error, `ActorTrapped` if its code trapped,
        `ResourceExhausted` if its mailbox is full, `DeadlineExceeded` if it took longer than
        `timeout_s`, or without that longer than the node's `limits.message_timeout_s`,
        `InvalidArgument` for a message that no node accepts. If the node's host disappears, the
        connection's pings notice it in about two minutes, and it is `Unavailable`. If the caller
        cancels, an actor that has started the message continues until it is done or times out.
        """
        message = Message(name, type, payload, timeout_s, traceparent)
        message.check()
        opened = self._open
        if opened.http is not None and (result := await opened.http.send(message)) is not None:
            return result
        request = encode_request(Request(name, type, payload, message.timeout_ms))
        begin_ns = time.perf_counter_ns()
        metadata = ((HEADER, traceparent),) if traceparent else ()
        reply = await self._answer(
            opened.invoke(request, timeout=message.deadline_s, metadata=metadata)
        )
        round_trip_ns = time.perf_counter_ns() - begin_ns
        return decode_reply(reply, round_trip_ns=round_trip_ns)

    async def list(self, *, tenant: str = "") -> Listing:
        """Return every application and every empty VM that this client may see.

        With a tenant only its applications.
        """
        request = pb.ListRequest(tenant=tenant)
        reply = await self._answer(self._stub.List(request, timeout=READ_TIMEOUT_S))
        return convert.listing_from_proto(reply)

    async def inspect(self, name: str) -> ApplicationInfo:
        """Return one application; raises `NotFound`."""
        check_full_name(name)
        request = pb.InspectRequest(name=name)
        reply = await self._answer(self._stub.Inspect(request, timeout=READ_TIMEOUT_S))
        return convert.application_from_proto(reply.application)

    async def logs(
        self, name: str, *, follow: bool = False, tail: int = 0, trace_id: str = ""
    ) -> AsyncGenerator[LogLine, None]:
        """Yield the application's log, oldest line first, at most `tail` lines of the past.

        With a trace id, 32 hexadecimal digits, only lines that were written for its messages.
        With `follow` it continues until the application is undeployed or the caller stops; close
        the iterator (`contextlib.aclosing`) to end the call at once. `tail` 0 means all.
        """
        check_full_name(name)
        if tail < 0:
            raise InvalidArgument(f"tail must be 0 or more, not {tail}")
        if trace_id:
            check_trace_id(trace_id)
        request = pb.LogsRequest(name=name, follow=follow, tail=tail, trace_id=trace_id)
        call = self._stub.Logs(request, timeout=None if follow else CHANGE_TIMEOUT_S)
        async with aclosing(self._stream(call)) as messages:
            async for message in messages:
                yield convert.log_line_from_proto(message)

    async def start_vm(self, vm_id: str = "", *, vm_config: VmConfig | None = None) -> StartedVm:
        """Start an empty VM for a later deploy; "" lets the node choose its id."""
        if vm_id:
            check_name(vm_id, what="VM id")
        config = None if vm_config is None else convert.vm_config_to_proto(vm_config)
        request = pb.StartVmRequest(vm_id=vm_id, config=config)
        reply = await self._answer(self._stub.StartVm(request, timeout=CHANGE_TIMEOUT_S))
        return StartedVm(convert.vm_from_proto(reply.vm), reply.vm_ns)

    async def stop_vm(self, vm_id: str) -> None:
        """Stop an empty VM and remove it; idempotent."""
        check_name(vm_id, what="VM id")
        request = pb.StopVmRequest(vm_id=vm_id)
        await self._answer(self._stub.StopVm(request, timeout=CHANGE_TIMEOUT_S))

    async def list_vms(self) -> tuple[VmInfo, ...]:
        """Return every VM, including those that are still starting."""
        reply = await self._answer(self._stub.ListVms(pb.ListVmsRequest(), timeout=READ_TIMEOUT_S))
        return tuple(convert.vm_from_proto(vm) for vm in reply.vms)

    async def inspect_vm(self, name: str) -> VmInspection:
        """Return everything known about a VM, named by its application or its id.

        Raises `NotFound`. A silent agent is not an error, see `VmInspection`.
        """
        check_full_name(name, what="application or VM")
        request = pb.InspectVmRequest(name=name)
        reply = await self._answer(self._stub.InspectVm(request, timeout=READ_TIMEOUT_S))
        return convert.inspection_from_proto(reply)

    async def vm_console(
        self, name: str, *, follow: bool = False, tail: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """Yield a VM's console output, named by its application or its id.

        The last `tail` lines of the past, 0 for all that are kept; with `follow` it continues until
        the VM is gone or the caller stops. Close the iterator (`contextlib.aclosing`) to end the
        call at once. The bytes are the guest's: do not send them to a terminal unescaped. Raises
        `NotFound`.
        """
        check_full_name(name, what="application or VM")
        if tail < 0:
            raise InvalidArgument(f"tail must be 0 or more, not {tail}")
        request = pb.VmConsoleRequest(name=name, follow=follow, tail=tail)
        call = self._stub.VmConsole(request, timeout=None if follow else CHANGE_TIMEOUT_S)
        async with aclosing(self._stream(call)) as messages:
            async for message in messages:
                yield message.chunk

    async def _find(self, name: str) -> ApplicationInfo | None:
        try:
            return await self.inspect(name)
        except NotFound:
            return None

    async def _check_deploy(
        self, name: str, wish: DeployOptions, size_bytes: int
    ) -> tuple[NodeInfo, VmConfig]:
        """Check a deploy; return the node, and the size that the VM would have."""
        spec_of(name, wish)
        node = await self.inspect_node()
        replaced = await self._find(name) if wish.replace else None
        config = size_of(wish, replaced.vm_config if replaced else node.default_vm)
        check_fits(size_bytes, config, node)
        repeats = wish.replace or wish.request_id
        if not repeats and (taken := await self._find(name)) is not None:
            raise name_taken(name, taken.state)
        return node, config

    async def _bring(
        self,
        artifact: Artifact,
        node: NodeInfo,
        spec: ApplicationSpec,
        on_progress: OnProgress | None,
    ) -> None:
        tenant = spec.name.rpartition("/")[0]
        if await self.find_artifact(artifact.digest, tenant=tenant):
            if on_progress is not None:
                on_progress(Progress("cached"))
            return
        # What the node has was inspected when it was uploaded.
        if (found := await inspect(artifact.data)) is not None:
            spec.check_kind(found.kind)
            memory_mib = spec.vm_config.memory_mib
            check_memory(found.memory_bytes, memory_mib=memory_mib, overhead_mib=node.overhead_mib)
        await self.upload(artifact, tenant=tenant, on_progress=on_progress)


async def _upload_stream(
    artifact: Artifact, tenant: str, on_progress: OnProgress | None
) -> AsyncIterator[pb.UploadArtifactRequest]:
    total = artifact.size_bytes
    header = pb.UploadArtifactRequest.Header(
        digest=artifact.digest, size_bytes=total, tenant=tenant
    )
    yield pb.UploadArtifactRequest(header=header)
    for start in range(0, total, UPLOAD_CHUNK_BYTES):
        if on_progress is not None:
            on_progress(Progress("upload", start, total))
        yield pb.UploadArtifactRequest(chunk=artifact.data[start : start + UPLOAD_CHUNK_BYTES])
    if on_progress is not None:
        on_progress(Progress("upload", total, total))
