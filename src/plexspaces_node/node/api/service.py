"""The gRPC service of the node: decode, call `Applications`, encode. Nothing is decided here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import grpc

from plexspaces_node.api import convert
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated import application_pb2_grpc as pb_grpc
from plexspaces_node.api.invoke import (
    LONG_BYTES,
    METHOD,
    SERVICE,
    Request,
    decode_request,
    encode_reply,
)
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import ApplicationInfo, Listing, NodeInfo
from plexspaces_node.model import VmConfig, artifact_name, check_trace_id
from plexspaces_node.node.access.gate import Call, Gate
from plexspaces_node.node.access.identity import NOBODY
from plexspaces_node.node.access.policy import START_VM, UPLOAD_ARTIFACT, Target
from plexspaces_node.node.api.boundary import Boundary, Handler
from plexspaces_node.node.api.untaken import UntakenReplies
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.applications.requests import DeployRequest
from plexspaces_node.node.applications.roster import Viewer
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.tasks import cancel
from plexspaces_node.trace_context import parse


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """The settings of the service itself."""

    message_timeout_s: float
    in_flight: InFlight
    max_timeout_s: float = 24 * 3600.0


class Operations(Protocol):
    """The operations on applications: of a node, or of a cluster; see `Applications`."""

    async def deploy(
        self, request: DeployRequest, progress: Callable[[str], None]
    ) -> ApplicationInfo:
        """Deploy an application and return it when it can answer messages."""

    async def undeploy(self, name: str) -> None:
        """Remove an application."""

    async def stop(self, name: str, *, force: bool = False) -> ApplicationInfo:
        """Stop an application and keep its state."""

    async def start(self, name: str) -> ApplicationInfo:
        """Start an application that is stopped or has failed."""

    async def list(self, viewer: Viewer | None = None, tenant: str = "") -> Listing:
        """Describe what a viewer may see."""

    async def inspect(self, name: str) -> ApplicationInfo:
        """Describe an application that is here."""

    def vm_size(self, name: str, default: VmConfig) -> VmConfig:
        """Return the size of an application's VM, or `default` if there is no application."""


class ApplicationService:
    """`plexspaces.node.v1.ApplicationService`; errors are mapped by a `Boundary`.

    Attributes:
        operations: what it calls; set once the node is in its cluster.

    Not of the generated class, which would have every method get a context of gRPC.
    """

    def __init__(  # noqa: PLR0913 - the parts of a node that it serves
        self,
        applications: Applications,
        artifacts: ArtifactStore,
        info: NodeInfo,
        limits: ServiceLimits,
        gate: Gate,
        operations: Operations | None = None,
    ) -> None:
        """`operations` are those on a cluster's applications, for a node that is in one.

        Without them it is about what runs here alone.
        """
        self.operations: Operations = operations or applications
        self._applications = applications
        self._artifacts = artifacts
        self._info = info
        self._limits = limits
        self._gate = gate
        self._untaken = UntakenReplies(limits.in_flight)

    async def InspectNode(
        self, request: pb.InspectNodeRequest, call: Call
    ) -> pb.InspectNodeResponse:
        return convert.node_to_proto(self._info)

    async def FindArtifact(
        self, request: pb.FindArtifactRequest, call: Call
    ) -> pb.FindArtifactResponse:
        return pb.FindArtifactResponse(
            found=await self._artifacts.has(artifact_name(call.tenant, request.digest))
        )

    def check_upload(self, tenant: str, size_bytes: int) -> None:
        """Raise `ResourceExhausted` for an artifact over a quota of its tenant."""
        self._applications.quotas.check_upload(tenant, size_bytes)

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], call: Call
    ) -> pb.UploadArtifactResponse:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidArgument("an upload must start with its header")
        header, tenant = first.header, first.header.tenant or call.identity.home
        # Only here a stream says it, for the audit log too.
        call.tenant, call.object = tenant, header.digest
        self._gate.check(UPLOAD_ARTIFACT, call.identity, Target(tenant))
        self.check_upload(tenant, header.size_bytes)
        name = artifact_name(tenant, header.digest)
        receiving = self._artifacts.receive(name, header.size_bytes, owner=call.peer())
        async with receiving as upload:
            async for part in upload.in_time(request_iterator):
                if part.WhichOneof("part") != "chunk":
                    raise InvalidArgument("after its header an upload must consist of chunks")
                await upload.write(part.chunk)
        return pb.UploadArtifactResponse(digest=header.digest, size_bytes=header.size_bytes)

    async def Deploy(
        self, request: pb.DeployRequest, call: Call
    ) -> AsyncIterator[pb.DeployResponse]:
        if request.vm_id:
            # Empty VMs are the node's.
            self._gate.check(START_VM, call.identity, Target())
        request.name = call.name
        deploy = DeployRequest(
            spec=convert.spec_from_proto(request, default_vm=self._default_vm(request)),
            request_id=request.request_id,
            vm_id=request.vm_id,
            replace=request.replace,
            no_secrets=request.no_secrets,
            owner=call.peer(),
        )
        events: asyncio.Queue[str | None] = asyncio.Queue()

        async def run() -> ApplicationInfo:
            try:
                return await self.operations.deploy(deploy, events.put_nowait)
            finally:
                events.put_nowait(None)

        task = asyncio.create_task(run())
        try:
            while (phase := await events.get()) is not None:
                yield pb.DeployResponse(phase=phase)
            yield pb.DeployResponse(application=convert.application_to_proto(await task))
        finally:
            # The client disconnected: the deploy is rolled back, and that is awaited.
            await cancel(task)

    async def Undeploy(self, request: pb.UndeployRequest, call: Call) -> pb.UndeployResponse:
        await self.operations.undeploy(call.name)
        return pb.UndeployResponse()

    async def Stop(self, request: pb.StopRequest, call: Call) -> pb.StopResponse:
        info = await self.operations.stop(call.name, force=request.force)
        return pb.StopResponse(application=convert.application_to_proto(info))

    async def Start(self, request: pb.StartRequest, call: Call) -> pb.StartResponse:
        info = await self.operations.start(call.name)
        return pb.StartResponse(application=convert.application_to_proto(info))

    async def List(self, request: pb.ListRequest, call: Call) -> pb.ListResponse:
        return convert.listing_to_proto(await self.operations.list(call.identity, request.tenant))

    async def Inspect(self, request: pb.InspectRequest, call: Call) -> pb.InspectResponse:
        info = await self.operations.inspect(call.name)
        return pb.InspectResponse(application=convert.application_to_proto(info))

    async def Logs(self, request: pb.LogsRequest, call: Call) -> AsyncIterator[pb.LogsResponse]:
        tail, trace_id = request.tail, request.trace_id
        if trace_id:
            check_trace_id(trace_id)
        journal = self._applications.log_of(call.name)
        if not request.follow:
            for line in await journal.read(tail, trace_id=trace_id):
                yield convert.log_line_to_proto(line)
            return
        async with aclosing(journal.follow(tail, trace_id=trace_id)) as lines:
            async for line in lines:
                yield convert.log_line_to_proto(line)

    async def StartVm(self, request: pb.StartVmRequest, call: Call) -> pb.StartVmResponse:
        config = convert.vm_config_from_proto(request.config, default=self._info.default_vm)
        vm = await self._applications.empty_vms.start(request.vm_id, config)
        return pb.StartVmResponse(vm=convert.vm_to_proto(await vm.info()), vm_ns=vm.vm_ns)

    async def StopVm(self, request: pb.StopVmRequest, call: Call) -> pb.StopVmResponse:
        await self._applications.empty_vms.stop(request.vm_id)
        return pb.StopVmResponse()

    async def ListVms(self, request: pb.ListVmsRequest, call: Call) -> pb.ListVmsResponse:
        vms = await self._applications.vms.list(call.identity)
        return pb.ListVmsResponse(vms=[convert.vm_to_proto(vm) for vm in vms])

    async def InspectVm(self, request: pb.InspectVmRequest, call: Call) -> pb.InspectVmResponse:
        found = await self._applications.vms.inspect(call.name, call.identity)
        return convert.inspection_to_proto(found)

    async def VmConsole(
        self, request: pb.VmConsoleRequest, call: Call
    ) -> AsyncIterator[pb.VmConsoleResponse]:
        console = self._applications.vms.console(
            call.name, tail=request.tail, follow=request.follow, viewer=call.identity
        )
        async with aclosing(console) as chunks:
            async for chunk in chunks:
                yield pb.VmConsoleResponse(chunk=chunk)

    async def Invoke(self, request: Request, call: Call) -> bytes:
        """Return the bytes of the reply: see `add_to_server`."""
        self._untaken.check(call)
        timeout_ns = self._timeout_ns(request.timeout_ms, call)
        # As by HTTP, a stranger has no say.
        is_heard = call.traceparent and call.identity is not NOBODY
        cause = parse(call.traceparent) if is_heard else None
        outcome = await self._applications.invoke(
            call.name, request.type, request.payload, timeout_ns, cause, caller=call.identity
        )
        tree = None if outcome.span is None else outcome.span.tree
        trace_id = "" if tree is None else f"{tree.trace_id:032x}"
        reply = encode_reply(outcome.payload, outcome.failure, outcome.timings, trace_id)
        if len(reply) > LONG_BYTES:
            # So that everything that holds the payload in this step of the event loop releases it
            # before gRPC copies the reply.
            del outcome
            self._untaken.add(len(reply), call)
            await asyncio.sleep(0)
        return reply

    def _default_vm(self, request: pb.DeployRequest) -> VmConfig:
        default = self._info.default_vm
        if not request.replace:
            return default
        return self.operations.vm_size(request.name, default)

    def _timeout_ns(self, timeout_ms: int, call: Call) -> int:
        if timeout_ms:
            timeout_s = timeout_ms / 1000
        else:
            left = call.time_remaining()
            timeout_s = self._limits.message_timeout_s if left is None else left
        return int(min(timeout_s, self._limits.max_timeout_s) * 1e9)


def add_to_server(service: ApplicationService, boundary: Boundary) -> None:
    """Serve this; messages without the copies of the generated code."""
    boundary.serve(pb_grpc.add_ApplicationServiceServicer_to_server, service)
    # After the generated handlers, because it replaces one of them.
    handler: Handler = grpc.unary_unary_rpc_method_handler(
        service.Invoke, request_deserializer=decode_request
    )
    boundary.add_registered_method_handlers(SERVICE, {METHOD: handler})
