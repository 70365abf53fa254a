"""A node without machines: the gRPC service in memory, for tests of what talks to it.

It keeps the promises of the contract that clients rely on (digest check, names taken, states) and
can be told to fail. It runs in threads of its own, so that commands with an event loop of their
own can be tested against it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import NoReturn, Self

import grpc
from support.fake_cluster import FakeCluster
from support.fake_secrets import FakeAudit, FakeSecrets
from support.fake_telemetry import FakeTelemetry

from plexspaces_node.api import convert
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated import quota_pb2
from plexspaces_node.api.generated.application_pb2_grpc import (
    ApplicationServiceServicer,
    add_ApplicationServiceServicer_to_server,
)
from plexspaces_node.api.generated.audit_pb2_grpc import add_AuditServiceServicer_to_server
from plexspaces_node.api.generated.cluster_pb2_grpc import add_ClusterServiceServicer_to_server
from plexspaces_node.api.generated.quota_pb2_grpc import (
    QuotaServiceServicer,
    add_QuotaServiceServicer_to_server,
)
from plexspaces_node.api.generated.secret_pb2_grpc import add_SecretServiceServicer_to_server
from plexspaces_node.api.generated.telemetry_pb2_grpc import (
    add_TelemetryServiceServicer_to_server,
)
from plexspaces_node.api.invoke import encode_reply
from plexspaces_node.api.options import server_options
from plexspaces_node.api.quota import use_to_proto, values_from_proto
from plexspaces_node.api.status import to_grpc
from plexspaces_node.errors import (
    ActorError,
    AlreadyExists,
    NotFound,
    PlexSpacesError,
    WrongState,
)
from plexspaces_node.info import (
    ApplicationInfo,
    AuditEntry,
    Listing,
    LogLine,
    MessageTimings,
    NodeInfo,
    VmInfo,
    VmInspection,
    VmMemory,
    VmStep,
)
from plexspaces_node.model import (
    MIB,
    ApplicationSpec,
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    VmState,
)
from plexspaces_node.quota import Key, QuotaUse, Subject, SubjectUse

_COMMAND = bytes.fromhex(
    "0061736d01000000 010401600000 03020100 070a01065f73746172740000 0a040102000b"
)


def padded(size_bytes: int) -> bytes:
    """Return a command whose `_start` does nothing, with a section that nobody reads.

    At least 43 bytes long.
    """
    body = b"\x01x" + bytes(size_bytes - len(_COMMAND) - 7)
    length = bytes((len(body) >> shift) & 0x7F | 0x80 for shift in (0, 7, 14))
    return _COMMAND + b"\0" + length + bytes([len(body) >> 21]) + body


WASM = padded(108)
"""A whole module; the fake runs nothing."""

Behaviour = Callable[[str, str, bytes], bytes | ActorError]

NODE = NodeInfo(
    node_id="fake-1",
    version="0.1.0",
    isolation="process",
    isolation_note="a sandbox by WebAssembly, not by a VM",
    artifact_limit_bytes=1 * MIB,
    message_limit_bytes=1 * MIB,
    min_memory_mib=64,
    max_memory_mib=1024,
    max_vcpus=4,
    default_vm=VmConfig(2, 128),
    started_unix_ns=1,
    overhead_mib=48,
)
VM_MEMORY = VmMemory(True, 240 * MIB, 90 * MIB, 150 * MIB)
VM_STEPS = (VmStep("start", 90_000_000), VmStep("hello", 10_000_000))
TIMINGS = MessageTimings(total_ns=5_000_000, compute_ns=4_000_000, wait_ns=0, queue_ns=1_000)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
LOG = (
    LogLine(1_700_000_000_000_000_000, "log", "info", "ready"),
    LogLine(1_700_000_000_500_000_000, "stdout", "info", "hello", TRACE_ID),
    LogLine(1_700_000_001_000_000_000, "stderr", "error", "two\nlines"),
)
AUDIT = (
    AuditEntry(
        *("2026-11-29T13:00:00.000001Z", "token", "ci", "10.0.0.7", "shop"),
        *("ApplicationService/Deploy", "shop/cart", "ok"),
        duration_ns=250_000_000,
    ),
    AuditEntry(
        *("2026-11-29T13:00:01.000000Z", "anonymous", "anonymous", "unix", ""),
        *("ApplicationService/List", "", "unauthenticated"),
        duration_ns=0,
        count=17,
        lost=3,
    ),
)


def echo(name: str, type: str, payload: bytes) -> bytes:
    """Answer with what was sent."""
    return payload


class FakeQuotas(QuotaServiceServicer):
    """The quotas of a fake node.

    Attributes:
        values: the quotas of each subject that has some.
    """

    def __init__(self) -> None:
        self.values: dict[Subject, dict[Key, int]] = {}

    def SetQuota(
        self, request: quota_pb2.SetQuotaRequest, context: grpc.ServicerContext
    ) -> quota_pb2.SetQuotaResponse:
        """Set what is asked for."""
        subject = Subject(request.tenant, request.application)
        known = {**self.values.get(subject, {}), **values_from_proto(request.values)}
        self.values[subject] = {key: value for key, value in known.items() if value}
        return quota_pb2.SetQuotaResponse(subject=self._use(subject))

    def GetQuota(
        self, request: quota_pb2.GetQuotaRequest, context: grpc.ServicerContext
    ) -> quota_pb2.GetQuotaResponse:
        """Say what was set; messages are used, and CPU is not enforced."""
        subjects = [one for one in self.values if request.tenant in ("", one.tenant)]
        return quota_pb2.GetQuotaResponse(subjects=map(self._use, subjects))

    def _use(self, subject: Subject) -> quota_pb2.SubjectQuotas:
        uses = [
            QuotaUse(key, self.values[subject].get(key, 0), 3 * (key is Key.MESSAGES_PER_S))
            for key in Key
        ]
        uses[-1] = replace(uses[-1], enforced=False, note="this host uses cgroup v1")
        return use_to_proto(SubjectUse(subject, tuple(uses)))


class FakeNode(ApplicationServiceServicer):
    """A fake node; a context manager that serves on `address` while entered.

    Attributes:
        calls: the names of the calls received, in order.
        fail: the error each named call is ended with.
        behave: how every application answers.
        deploys: the requests of every deploy.
        inside: what every agent says of the memory around it, or why it does not.
        console: what every machine wrote to its console.
        consoles: the requests for a console.
        unsaved: why no application's state can be saved, "" where it can.
        lost: what a stop loses, "" for nothing.
        secrets: what it keeps of them.
        audit: its audit log.
        telemetry: what its applications do.
        cluster: the nodes of its cluster.
    """

    def __init__(
        self,
        behave: Behaviour = echo,
        *,
        message_limit: int = 64 * MIB,
        address: str = "127.0.0.1:0",
    ) -> None:
        self.behave = behave
        self.calls: list[str] = []
        self.fail: dict[str, PlexSpacesError | ActorError] = {}
        self.deploys: list[pb.DeployRequest] = []
        self.invokes: list[pb.InvokeRequest] = []
        self.trace_id = ""
        self.uploads: list[list[int]] = []
        self.artifacts: set[str] = set()
        self._upload_ns: dict[str, int] = {}
        self.applications: dict[str, ApplicationInfo] = {}
        self.empty_vms: dict[str, VmInfo] = {}
        self.log_gate = threading.Event()
        self.inside: VmMemory | str = VM_MEMORY
        self.console = b""
        self.unsaved = self.lost = ""
        self.consoles: list[pb.VmConsoleRequest] = []
        self._server = grpc.server(ThreadPoolExecutor(8), options=server_options(message_limit))
        add_ApplicationServiceServicer_to_server(self, self._server)
        self.quotas = FakeQuotas()
        add_QuotaServiceServicer_to_server(self.quotas, self._server)
        self.secrets, self.audit = FakeSecrets(self._enter), FakeAudit(AUDIT)
        add_SecretServiceServicer_to_server(self.secrets, self._server)
        add_AuditServiceServicer_to_server(self.audit, self._server)
        self.cluster = FakeCluster(self._enter)
        add_ClusterServiceServicer_to_server(self.cluster, self._server)
        self.telemetry = FakeTelemetry(self._enter)
        add_TelemetryServiceServicer_to_server(self.telemetry, self._server)
        port = self._server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.log_gate.set()
        self.telemetry.left.set()
        self._server.stop(grace=None).wait(5)

    def _enter(self, call: str, context: grpc.ServicerContext) -> None:
        self.calls.append(call)
        if call in self.fail:
            _end(context, self.fail[call])

    def _find(self, name: str, context: grpc.ServicerContext) -> ApplicationInfo:
        if name not in self.applications:
            missing = NotFound(f"there is no application {name}", hint="plexspaces list")
            _end(context, missing)
        return self.applications[name]

    def InspectNode(
        self, request: pb.InspectNodeRequest, context: grpc.ServicerContext
    ) -> pb.InspectNodeResponse:
        """Say what the fake is."""
        self._enter("InspectNode", context)
        return convert.node_to_proto(NODE)

    def FindArtifact(
        self, request: pb.FindArtifactRequest, context: grpc.ServicerContext
    ) -> pb.FindArtifactResponse:
        """Say whether the artifact was uploaded."""
        self._enter("FindArtifact", context)
        return pb.FindArtifactResponse(found=request.digest in self.artifacts)

    def UploadArtifact(
        self, request_iterator: Iterator[pb.UploadArtifactRequest], context: grpc.ServicerContext
    ) -> pb.UploadArtifactResponse:
        """Take an artifact and check what the header promised."""
        self._enter("UploadArtifact", context)
        header = next(request_iterator).header
        chunks = [part.chunk for part in request_iterator]
        data = b"".join(chunks)
        self.uploads.append([len(chunk) for chunk in chunks])
        digest = hashlib.sha256(data).hexdigest()
        if (digest, len(data)) != (header.digest, header.size_bytes):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "digest or size differ")
        self.artifacts.add(digest)
        self._upload_ns[digest] = 1_000_000
        return pb.UploadArtifactResponse(digest=digest, size_bytes=len(data))

    def Deploy(
        self, request: pb.DeployRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DeployResponse]:
        """Deploy in no time."""
        self._enter("Deploy", context)
        repeats = request.request_id in [earlier.request_id for earlier in self.deploys]
        self.deploys.append(request)
        spec = convert.spec_from_proto(request, default_vm=NODE.default_vm)
        if spec.name in self.applications and not request.replace:
            if repeats:
                known = self.applications[spec.name]
                yield pb.DeployResponse(application=convert.application_to_proto(known))
                return
            taken = AlreadyExists(
                f"application {spec.name} is already deployed",
                hint=f"plexspaces undeploy --name {spec.name}",
            )
            _end(context, taken)
        for phase in ("compile", "vm", "load"):
            yield pb.DeployResponse(phase=phase)
        vm_id = request.vm_id or f"vm-{spec.name}"
        self.empty_vms.pop(vm_id, None)
        made = _application(spec, vm_id, self._upload_ns.pop(spec.digest, 0))
        self.applications[spec.name] = made
        yield pb.DeployResponse(application=convert.application_to_proto(made))

    def Undeploy(
        self, request: pb.UndeployRequest, context: grpc.ServicerContext
    ) -> pb.UndeployResponse:
        """Forget the application."""
        self._enter("Undeploy", context)
        self._find(request.name, context)
        del self.applications[request.name]
        return pb.UndeployResponse()

    def Stop(self, request: pb.StopRequest, context: grpc.ServicerContext) -> pb.StopResponse:
        """Take the application's machine away."""
        self._enter("Stop", context)
        found = self._find(request.name, context)
        if self.unsaved and not request.force:
            _end(context, WrongState(self.unsaved, hint="plexspaces stop X --force"))
        lost = self.unsaved or self.lost
        stopped = replace(found, state=ApplicationState.STOPPED, vm=None, last_error=lost)
        self.applications[request.name] = stopped
        return pb.StopResponse(application=convert.application_to_proto(stopped))

    def Start(self, request: pb.StartRequest, context: grpc.ServicerContext) -> pb.StartResponse:
        """Give the application a machine again."""
        self._enter("Start", context)
        found = self._find(request.name, context)
        started = replace(found, state=ApplicationState.RUNNING, vm=_vm(f"vm-{found.name}-2"))
        self.applications[request.name] = started
        return pb.StartResponse(application=convert.application_to_proto(started))

    def Invoke(self, request: pb.InvokeRequest, context: grpc.ServicerContext) -> pb.InvokeResponse:
        """Answer as `behave` says."""
        self._enter("Invoke", context)
        self._find(request.name, context)
        self.invokes.append(request)
        outcome = self.behave(request.name, request.type, request.payload)
        failure = outcome if isinstance(outcome, ActorError) else None
        payload = failure.output if failure else outcome
        assert isinstance(payload, bytes)
        said = dict(context.invocation_metadata()).get("traceparent", b"")
        trace_id = str(said)[3:35] if said else self.trace_id
        return pb.InvokeResponse.FromString(encode_reply(payload, failure, TIMINGS, trace_id))

    def List(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ListResponse:
        """List what there is."""
        self._enter("List", context)
        listing = Listing(
            tuple(self.applications.values()), tuple(self.empty_vms.values()), 3_000_000
        )
        return convert.listing_to_proto(listing)

    def Inspect(
        self, request: pb.InspectRequest, context: grpc.ServicerContext
    ) -> pb.InspectResponse:
        """Show one application."""
        self._enter("Inspect", context)
        found = self._find(request.name, context)
        return pb.InspectResponse(application=convert.application_to_proto(found))

    def Logs(
        self, request: pb.LogsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.LogsResponse]:
        """Send `LOG`, or a trace's lines of it.

        Followed, wait for `log_gate` and send one line more.
        """
        self._enter("Logs", context)
        self._find(request.name, context)
        # Before the first line: a reader that has gone is not seen by what comes after it.
        if request.follow and not context.add_callback(self.log_gate.set):
            self.log_gate.set()
        lines = [line for line in LOG if request.trace_id in ("", line.trace_id)]
        for line in lines[-request.tail :]:
            yield convert.log_line_to_proto(line)
        if request.follow:
            self.log_gate.wait(10)
            yield pb.LogsResponse(time_unix_ns=1, stream="node", level="info", message="later")

    def StartVm(
        self, request: pb.StartVmRequest, context: grpc.ServicerContext
    ) -> pb.StartVmResponse:
        """Make an empty machine."""
        self._enter("StartVm", context)
        made = replace(_vm(request.vm_id or "vm-empty"), state=VmState.EMPTY)
        self.empty_vms[made.id] = made
        return pb.StartVmResponse(vm=convert.vm_to_proto(made), vm_ns=40_000_000)

    def StopVm(self, request: pb.StopVmRequest, context: grpc.ServicerContext) -> pb.StopVmResponse:
        """Forget an empty machine."""
        self._enter("StopVm", context)
        self.empty_vms.pop(request.vm_id, None)
        return pb.StopVmResponse()

    def ListVms(
        self, request: pb.ListVmsRequest, context: grpc.ServicerContext
    ) -> pb.ListVmsResponse:
        """List every machine."""
        self._enter("ListVms", context)
        return pb.ListVmsResponse(vms=[convert.vm_to_proto(vm) for vm in self._vms()])

    def InspectVm(
        self, request: pb.InspectVmRequest, context: grpc.ServicerContext
    ) -> pb.InspectVmResponse:
        """Show one machine."""
        self._enter("InspectVm", context)
        memory = self.inside if isinstance(self.inside, VmMemory) else None
        inspection = VmInspection(
            vm=self._find_vm(request.name, context),
            pid=4711,
            console="/run/plexspaces/console.log",
            steps=VM_STEPS,
            memory=memory,
            memory_unknown="" if memory else str(self.inside),
        )
        return convert.inspection_to_proto(inspection)

    def VmConsole(
        self, request: pb.VmConsoleRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.VmConsoleResponse]:
        """Send `console`, a few bytes at a time."""
        self._enter("VmConsole", context)
        self._find_vm(request.name, context)
        self.consoles.append(request)
        for start in range(0, len(self.console), 7):
            yield pb.VmConsoleResponse(chunk=self.console[start : start + 7])

    def _vms(self) -> list[VmInfo]:
        applications = self.applications.values()
        used = [replace(one.vm, application=one.name) for one in applications if one.vm]
        return [*used, *self.empty_vms.values()]

    def _find_vm(self, name: str, context: grpc.ServicerContext) -> VmInfo:
        found = [vm for vm in self._vms() if name in (vm.application, vm.id)]
        if not found:
            text = f"there is no application or VM {name}"
            _end(context, NotFound(text, hint="plexspaces vms list"))
        return found[0]


def _end(context: grpc.ServicerContext, error: PlexSpacesError | ActorError) -> NoReturn:
    code, text, metadata = to_grpc(error)
    context.set_trailing_metadata(metadata)
    context.abort(code, text)


def _vm(vm_id: str) -> VmInfo:
    return VmInfo(
        id=vm_id,
        state=VmState.RUNNING,
        isolation="process",
        socket=f"/run/plexspaces/{vm_id}/link.sock",
        config=VmConfig(1, 256),
        started_unix_ns=1_700_000_000_000_000_000,
        rss_bytes=30 * MIB,
        cpu_ns=1_000_000,
        uptime_ns=3_723_000_000_000,
    )


def _application(spec: ApplicationSpec, vm_id: str, upload_ns: int) -> ApplicationInfo:
    return ApplicationInfo(
        id=f"app-{spec.name}",
        name=spec.name,
        version=spec.version,
        state=ApplicationState.RUNNING,
        language=spec.language or Language.RUST,
        kind=ArtifactKind.COMMAND if spec.args else ArtifactKind.ACTOR,
        digest=spec.digest,
        vm_config=spec.vm_config,
        vm=_vm(vm_id),
        timings=PhaseTimings(
            upload_ns=upload_ns,
            compile_cached=True,
            vm_ns=20_000_000,
            load_ns=3_000_000,
            init_ns=1_000_000,
            total_ns=25_000_000 + upload_ns,
        ),
        created_unix_ns=1_700_000_000_000_000_000,
        args=spec.args,
        concurrency=spec.concurrency or 1,
        allow_hosts=spec.allow_hosts,
        public=bool(spec.public),
    )
