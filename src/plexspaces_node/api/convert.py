"""Converts between the messages of the gRPC contract and the records of `model` and `info`.

There is no I/O and there are no decisions here. The two functions of a pair are inverses. The
record that a client's message becomes checks it and raises `InvalidArgument`; a message of a newer
node that cannot be understood raises `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated import audit_pb2, secret_pb2
from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    InvalidArgument,
    Unsupported,
)
from plexspaces_node.info import (
    ApplicationInfo,
    AuditEntry,
    Counters,
    Listing,
    LogLine,
    MessageTimings,
    NodeInfo,
    ReplicaInfo,
    SecretInfo,
    VmInfo,
    VmInspection,
    VmMemory,
    VmStep,
)
from plexspaces_node.link.frames import cut
from plexspaces_node.model import (
    DEFAULT_TENANT,
    LANGUAGES,
    ApplicationSpec,
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    VmState,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LANGUAGES: Mapping[str, Language] = {str(language): language for language in Language}

LISTED_ERROR_BYTES = 1024
"""The length of an error in a listing; `inspect` shows all of it."""

_UINT32_MAX = 2**32 - 1
DEFAULT_VERSION = "0.1.0"

_E = TypeVar("_E", bound=StrEnum)
_M = TypeVar("_M", bound=Message)
_R = TypeVar("_R", bound="DataclassInstance")


def language_named(text: str) -> Language | None:
    """Return the language that a user named, None for ""; raises `InvalidArgument`."""
    if not text:
        return None
    if text not in LANGUAGES:
        raise InvalidArgument(
            f"unknown language {text!r}",
            hint=f"choose one of {', '.join(LANGUAGES)}, or omit it: it is detected from the file",
        )
    return Language(text)


def size_to_proto(vcpus: int | None, memory_mib: int | None) -> pb.VmConfig:
    """Convert a requested size; None means the node's default.

    Raises `InvalidArgument` for a number that the contract cannot represent.
    """
    for what, value in (("vcpus", vcpus), ("memory", memory_mib)):
        if value is not None and value > _UINT32_MAX:
            raise InvalidArgument(f"{what} {value} is more than any VM has")
    return pb.VmConfig(vcpus=vcpus or 0, memory_mib=memory_mib or 0)


def vm_config_to_proto(config: VmConfig) -> pb.VmConfig:
    """Convert a size; raises `InvalidArgument` for a number that the contract cannot represent."""
    return size_to_proto(config.vcpus, config.memory_mib)


def vm_config_from_proto(message: pb.VmConfig, *, default: VmConfig | None = None) -> VmConfig:
    """Convert a size; each number that is 0 is taken from `default`."""
    fallback = default or VmConfig()
    return VmConfig(
        vcpus=message.vcpus or fallback.vcpus,
        memory_mib=message.memory_mib or fallback.memory_mib,
    )


def deploy_to_proto(
    spec: ApplicationSpec,
    *,
    request_id: str,
    size: pb.VmConfig | None = None,
    vm_id: str = "",
) -> pb.DeployRequest:
    """Convert a deploy request; `size` replaces the spec's size if that is not complete."""
    return pb.DeployRequest(
        name=spec.name,
        digest=spec.digest,
        version=spec.version,
        language=spec.language or "",
        config=vm_config_to_proto(spec.vm_config) if size is None else size,
        env=spec.env,
        request_id=request_id,
        vm_id=vm_id,
        args=spec.args,
        concurrency=spec.concurrency,
        allow_hosts=spec.allow_hosts,
        secrets=spec.secrets,
        public=spec.public,
        replicas=spec.replicas,
        on=spec.on,
        level=spec.level,
    )


def spec_from_proto(message: pb.DeployRequest, *, default_vm: VmConfig) -> ApplicationSpec:
    """Convert a deploy request; raises `InvalidArgument` if it is wrong."""
    return ApplicationSpec(
        name=message.name,
        digest=message.digest,
        version=message.version or DEFAULT_VERSION,
        language=language_named(message.language),
        vm_config=vm_config_from_proto(message.config, default=default_vm),
        env=dict(message.env),
        args=tuple(message.args),
        concurrency=message.concurrency,
        allow_hosts=tuple(message.allow_hosts),
        secrets=dict(message.secrets),
        public=message.public if message.HasField("public") else None,
        replicas=message.replicas,
        on=dict(message.on),
        level=message.level,
    )


def timings_to_proto(timings: PhaseTimings) -> pb.PhaseTimings:
    """Convert the times of a deploy."""
    return _to_proto(pb.PhaseTimings, timings)


def timings_from_proto(message: pb.PhaseTimings) -> PhaseTimings:
    """Convert the times of a deploy."""
    return _from_proto(PhaseTimings, message)


def vm_to_proto(vm: VmInfo) -> pb.Vm:
    """Convert a VM."""
    return _to_proto(pb.Vm, vm, config=vm_config_to_proto(vm.config))


def vm_from_proto(message: pb.Vm) -> VmInfo:
    """Convert a VM."""
    return _from_proto(
        VmInfo,
        message,
        state=_read(VmState, message.state, "VM state"),
        config=vm_config_from_proto(message.config),
        missing_walls=tuple(message.missing_walls),
    )


def inspection_to_proto(inspection: VmInspection) -> pb.InspectVmResponse:
    """Convert everything known about a VM."""
    memory = inspection.memory
    message = _to_proto(
        pb.InspectVmResponse,
        inspection,
        vm=vm_to_proto(inspection.vm),
        steps=[_to_proto(pb.InspectVmResponse.Step, step) for step in inspection.steps],
        memory=None if memory is None else _to_proto(pb.VmMemory, memory),
    )
    if memory is not None:
        message.ClearField("memory_unknown")
    return message


def inspection_from_proto(message: pb.InspectVmResponse) -> VmInspection:
    """Convert everything known about a VM."""
    return _from_proto(
        VmInspection,
        message,
        vm=vm_from_proto(message.vm),
        steps=tuple(_from_proto(VmStep, step) for step in message.steps),
        memory=_from_proto(VmMemory, message.memory) if message.HasField("memory") else None,
    )


def application_to_proto(application: ApplicationInfo) -> pb.Application:
    """Convert an application; the VM is left out if there is none."""
    return _to_proto(
        pb.Application,
        application,
        leave_out=("vm_config",),
        config=vm_config_to_proto(application.vm_config),
        vm=None if application.vm is None else vm_to_proto(application.vm),
        timings=timings_to_proto(application.timings),
        counters=_to_proto(pb.Counters, application.counters),
        nodes=[_to_proto(pb.Replica, each) for each in application.nodes],
    )


def application_from_proto(message: pb.Application) -> ApplicationInfo:
    """Convert an application."""
    return _from_proto(
        ApplicationInfo,
        message,
        state=_read(ApplicationState, message.state, "application state"),
        language=_LANGUAGES.get(message.language, Language.UNKNOWN),
        kind=_read(ArtifactKind, message.kind, "artifact kind"),
        vm_config=vm_config_from_proto(message.config),
        vm=vm_from_proto(message.vm) if message.HasField("vm") else None,
        timings=timings_from_proto(message.timings),
        counters=_from_proto(Counters, message.counters),
        args=tuple(message.args),
        # A node that does not say handles one at a time.
        concurrency=message.concurrency or 1,
        allow_hosts=tuple(message.allow_hosts),
        tenant=message.tenant or DEFAULT_TENANT,
        nodes=tuple(_from_proto(ReplicaInfo, each) for each in message.nodes),
        on=dict(message.on),
    )


def listing_to_proto(listing: Listing) -> pb.ListResponse:
    """Convert everything on a node."""
    return pb.ListResponse(
        applications=[_listed(each) for each in listing.applications],
        empty_vms=[vm_to_proto(each) for each in listing.empty_vms],
        discovery_ns=listing.discovery_ns,
        silent_nodes=listing.silent_nodes,
        cluster=listing.cluster,
    )


def _listed(application: ApplicationInfo) -> pb.Application:
    """Convert an application without its long fields: there may be thousands."""
    message = application_to_proto(application)
    message.ClearField("args")
    message.ClearField("allow_hosts")
    message.last_error = cut(message.last_error, LISTED_ERROR_BYTES)
    return message


def listing_from_proto(message: pb.ListResponse) -> Listing:
    """Convert everything on a node."""
    return Listing(
        applications=tuple(application_from_proto(each) for each in message.applications),
        empty_vms=tuple(vm_from_proto(each) for each in message.empty_vms),
        discovery_ns=message.discovery_ns,
        silent_nodes=tuple(message.silent_nodes),
        cluster=message.cluster,
    )


def node_to_proto(node: NodeInfo) -> pb.InspectNodeResponse:
    """Convert a node's properties."""
    return _to_proto(pb.InspectNodeResponse, node, default_vm=vm_config_to_proto(node.default_vm))


def node_from_proto(message: pb.InspectNodeResponse) -> NodeInfo:
    """Convert a node's properties."""
    return _from_proto(NodeInfo, message, default_vm=vm_config_from_proto(message.default_vm))


def log_line_to_proto(line: LogLine) -> pb.LogsResponse:
    """Convert a log line."""
    return _to_proto(pb.LogsResponse, line)


def log_line_from_proto(message: pb.LogsResponse) -> LogLine:
    """Convert a log line."""
    return _from_proto(LogLine, message)


def secret_to_proto(secret: SecretInfo) -> secret_pb2.Secret:
    """Convert what is known of a secret."""
    return _to_proto(secret_pb2.Secret, secret)


def secret_from_proto(message: secret_pb2.Secret) -> SecretInfo:
    """Convert what is known of a secret."""
    return _from_proto(SecretInfo, message, used_by=tuple(message.used_by))


def audit_entry_to_proto(entry: AuditEntry) -> audit_pb2.ReadAuditResponse:
    """Convert a line of the audit log."""
    return _to_proto(audit_pb2.ReadAuditResponse, entry)


def audit_entry_from_proto(message: audit_pb2.ReadAuditResponse) -> AuditEntry:
    """Convert a line of the audit log."""
    return _from_proto(AuditEntry, message)


def message_timings_to_proto(timings: MessageTimings) -> pb.MessageTimings:
    """Convert the times of a message."""
    # Written out, for every message passes here.
    return pb.MessageTimings(
        total_ns=timings.total_ns,
        compute_ns=timings.compute_ns,
        wait_ns=timings.wait_ns,
        queue_ns=timings.queue_ns,
    )


def message_timings_from_proto(message: pb.MessageTimings) -> MessageTimings:
    """Convert the times of a message."""
    return MessageTimings(message.total_ns, message.compute_ns, message.wait_ns, message.queue_ns)


def failure_to_proto(error: ActorError) -> pb.ActorFailure:
    """Convert an application's failure, without its output."""
    trapped = isinstance(error, ActorTrapped)
    return pb.ActorFailure(
        kind=pb.ActorFailure.KIND_TRAPPED if trapped else pb.ActorFailure.KIND_FAILED,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        hint=error.hint or "",
    )


def failure_from_proto(message: pb.ActorFailure) -> ActorError:
    """Convert an application's failure."""
    cls = ActorTrapped if message.kind == pb.ActorFailure.KIND_TRAPPED else ActorFailed
    return cls(
        message.message,
        code=message.code,
        retryable=message.retryable,
        hint=message.hint or None,
        output=message.output,
    )


def _read(kind: type[_E], text: str, what: str) -> _E:
    try:
        return kind(text)
    except ValueError as error:
        raise Unsupported(
            f"the node reports the {what} {text!r}, which this client does not know",
            hint="upgrade the client to the node's version: pip install -U plexspaces-node",
        ) from error


def _to_proto(
    kind: type[_M], record: DataclassInstance, /, *, leave_out: Sequence[str] = (), **given: object
) -> _M:
    """Copy the fields that have the same names, except for those `given` or left out."""
    names = _names(type(record)).difference(given, leave_out)
    return kind(**{name: getattr(record, name) for name in names}, **given)


def _from_proto(kind: type[_R], message: Message, /, **given: object) -> _R:
    """Copy the fields that have the same names, except for those `given`."""
    names = _names(kind).difference(given)
    return kind(**{name: getattr(message, name) for name in names}, **given)


@cache
def _names(kind: type[DataclassInstance]) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))
