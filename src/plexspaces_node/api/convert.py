"""Between the messages of the gRPC contract and the records of `model` and `views`.

This file owns the conversion and nothing else: no I/O, no decisions. Every pair of functions is
its own inverse. What comes from a client is checked by the record it becomes, which raises
`InvalidArgument`; what comes from a newer node and is not understood raises `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    InvalidArgument,
    Unsupported,
)
from plexspaces_node.info import (
    ApplicationInfo,
    Counters,
    Listing,
    LogLine,
    MessageTimings,
    NodeInfo,
    VmInfo,
    VmInspection,
    VmMemory,
    VmStep,
)
from plexspaces_node.link.frames import cut
from plexspaces_node.model import (
    LANGUAGES,
    ApplicationSpec,
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    VmState,
)

_LANGUAGES: Mapping[str, Language] = {str(language): language for language in Language}

LISTED_ERROR_BYTES = 1024
"""Of an application's error in a listing; `inspect` has all of it."""

_UINT32_MAX = 2**32 - 1
DEFAULT_VERSION = "0.1.0"

_E = TypeVar("_E", bound=StrEnum)


def language_named(text: str) -> Language | None:
    """Return the language a user named, None for ""; raises `InvalidArgument` for another word."""
    if not text:
        return None
    if text not in LANGUAGES:
        raise InvalidArgument(
            f"unknown language {text!r}",
            hint=f"choose one of {', '.join(LANGUAGES)}, or omit it: it is detected from the file",
        )
    return Language(text)


def size_to_proto(vcpus: int | None, memory_mib: int | None) -> pb.VmConfig:
    """Convert a wish for a size; None means the node's default.

    Raises `InvalidArgument` for a number that the contract cannot carry.
    """
    for what, value in (("vcpus", vcpus), ("memory", memory_mib)):
        if value is not None and value > _UINT32_MAX:
            raise InvalidArgument(f"{what} {value} is more than any machine has")
    return pb.VmConfig(vcpus=vcpus or 0, memory_mib=memory_mib or 0)


def vm_config_to_proto(config: VmConfig) -> pb.VmConfig:
    """Convert a size; raises `InvalidArgument` for a number that the contract cannot carry."""
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
    """Convert a client's wish; `size` stands in for the spec's where it leaves things open."""
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
    )


def spec_from_proto(message: pb.DeployRequest, *, default_vm: VmConfig) -> ApplicationSpec:
    """Convert a client's wish; raises `InvalidArgument` for what is wrong in it."""
    return ApplicationSpec(
        name=message.name,
        digest=message.digest,
        version=message.version or DEFAULT_VERSION,
        language=language_named(message.language),
        vm_config=vm_config_from_proto(message.config, default=default_vm),
        env=dict(message.env),
        args=tuple(message.args),
        concurrency=message.concurrency,
    )


def timings_to_proto(timings: PhaseTimings) -> pb.PhaseTimings:
    """Convert the times of a deploy."""
    return pb.PhaseTimings(
        upload_ns=timings.upload_ns,
        compile_ns=timings.compile_ns,
        compile_cached=timings.compile_cached,
        vm_ns=timings.vm_ns,
        load_ns=timings.load_ns,
        init_ns=timings.init_ns,
        total_ns=timings.total_ns,
    )


def timings_from_proto(message: pb.PhaseTimings) -> PhaseTimings:
    """Convert the times of a deploy."""
    return PhaseTimings(
        upload_ns=message.upload_ns,
        compile_ns=message.compile_ns,
        compile_cached=message.compile_cached,
        vm_ns=message.vm_ns,
        load_ns=message.load_ns,
        init_ns=message.init_ns,
        total_ns=message.total_ns,
    )


def vm_to_proto(vm: VmInfo) -> pb.Vm:
    """Convert a machine."""
    return pb.Vm(
        id=vm.id,
        state=vm.state,
        isolation=vm.isolation,
        socket=vm.socket,
        config=vm_config_to_proto(vm.config),
        started_unix_ns=vm.started_unix_ns,
        rss_bytes=vm.rss_bytes,
        cpu_ns=vm.cpu_ns,
        application=vm.application,
        uptime_ns=vm.uptime_ns,
        missing_walls=vm.missing_walls,
    )


def vm_from_proto(message: pb.Vm) -> VmInfo:
    """Convert a machine."""
    return VmInfo(
        id=message.id,
        state=_read(VmState, message.state, "VM state"),
        isolation=message.isolation,
        socket=message.socket,
        config=vm_config_from_proto(message.config),
        started_unix_ns=message.started_unix_ns,
        rss_bytes=message.rss_bytes,
        cpu_ns=message.cpu_ns,
        application=message.application,
        uptime_ns=message.uptime_ns,
        missing_walls=tuple(message.missing_walls),
    )


def inspection_to_proto(inspection: VmInspection) -> pb.InspectVmResponse:
    """Convert all that is known of a machine."""
    message = pb.InspectVmResponse(
        vm=vm_to_proto(inspection.vm),
        pid=inspection.pid,
        console=inspection.console,
        steps=[
            pb.InspectVmResponse.Step(name=step.name, duration_ns=step.duration_ns)
            for step in inspection.steps
        ],
    )
    if inspection.memory is None:
        message.memory_unknown = inspection.memory_unknown
    else:
        message.memory.CopyFrom(_memory_to_proto(inspection.memory))
    return message


def inspection_from_proto(message: pb.InspectVmResponse) -> VmInspection:
    """Convert all that is known of a machine."""
    return VmInspection(
        vm=vm_from_proto(message.vm),
        pid=message.pid,
        console=message.console,
        steps=tuple(VmStep(step.name, step.duration_ns) for step in message.steps),
        memory=_memory_from_proto(message.memory) if message.HasField("memory") else None,
        memory_unknown=message.memory_unknown,
    )


def _memory_to_proto(memory: VmMemory) -> pb.VmMemory:
    return pb.VmMemory(
        guest=memory.guest,
        total_bytes=memory.total_bytes,
        used_bytes=memory.used_bytes,
        available_bytes=memory.available_bytes,
    )


def _memory_from_proto(message: pb.VmMemory) -> VmMemory:
    return VmMemory(
        guest=message.guest,
        total_bytes=message.total_bytes,
        used_bytes=message.used_bytes,
        available_bytes=message.available_bytes,
    )


def counters_to_proto(counters: Counters) -> pb.Counters:
    """Convert what an application has done."""
    return pb.Counters(
        messages=counters.messages,
        failures=counters.failures,
        compute_ns=counters.compute_ns,
        coordinate_ns=counters.coordinate_ns,
        in_flight=counters.in_flight,
    )


def counters_from_proto(message: pb.Counters) -> Counters:
    """Convert what an application has done."""
    return Counters(
        messages=message.messages,
        failures=message.failures,
        compute_ns=message.compute_ns,
        coordinate_ns=message.coordinate_ns,
        in_flight=message.in_flight,
    )


def application_to_proto(application: ApplicationInfo) -> pb.Application:
    """Convert an application; its machine is left out while it has none."""
    return pb.Application(
        id=application.id,
        name=application.name,
        version=application.version,
        state=application.state,
        language=application.language,
        kind=application.kind,
        digest=application.digest,
        config=vm_config_to_proto(application.vm_config),
        vm=None if application.vm is None else vm_to_proto(application.vm),
        timings=timings_to_proto(application.timings),
        created_unix_ns=application.created_unix_ns,
        restarts=application.restarts,
        last_error=application.last_error,
        counters=counters_to_proto(application.counters),
        args=application.args,
        concurrency=application.concurrency,
    )


def application_from_proto(message: pb.Application) -> ApplicationInfo:
    """Convert an application."""
    return ApplicationInfo(
        id=message.id,
        name=message.name,
        version=message.version,
        state=_read(ApplicationState, message.state, "application state"),
        language=_LANGUAGES.get(message.language, Language.UNKNOWN),
        kind=_read(ArtifactKind, message.kind, "artifact kind"),
        digest=message.digest,
        vm_config=vm_config_from_proto(message.config),
        vm=vm_from_proto(message.vm) if message.HasField("vm") else None,
        timings=timings_from_proto(message.timings),
        created_unix_ns=message.created_unix_ns,
        restarts=message.restarts,
        last_error=message.last_error,
        counters=counters_from_proto(message.counters),
        args=tuple(message.args),
        # A node that does not say knows one at a time only.
        concurrency=message.concurrency or 1,
    )


def listing_to_proto(listing: Listing) -> pb.ListResponse:
    """Convert everything on a node."""
    return pb.ListResponse(
        applications=[_listed(each) for each in listing.applications],
        empty_vms=[vm_to_proto(each) for each in listing.empty_vms],
        discovery_ns=listing.discovery_ns,
    )


def _listed(application: ApplicationInfo) -> pb.Application:
    """Convert an application without what may be long: there may be thousands."""
    message = application_to_proto(application)
    message.ClearField("args")
    message.last_error = cut(message.last_error, LISTED_ERROR_BYTES)
    return message


def listing_from_proto(message: pb.ListResponse) -> Listing:
    """Convert everything on a node."""
    return Listing(
        applications=tuple(application_from_proto(each) for each in message.applications),
        empty_vms=tuple(vm_from_proto(each) for each in message.empty_vms),
        discovery_ns=message.discovery_ns,
    )


def node_to_proto(node: NodeInfo) -> pb.InspectNodeResponse:
    """Convert what a node is."""
    return pb.InspectNodeResponse(
        node_id=node.node_id,
        version=node.version,
        isolation=node.isolation,
        isolation_note=node.isolation_note,
        artifact_limit_bytes=node.artifact_limit_bytes,
        message_limit_bytes=node.message_limit_bytes,
        min_memory_mib=node.min_memory_mib,
        max_memory_mib=node.max_memory_mib,
        max_vcpus=node.max_vcpus,
        default_vm=vm_config_to_proto(node.default_vm),
        started_unix_ns=node.started_unix_ns,
        overhead_mib=node.overhead_mib,
    )


def node_from_proto(message: pb.InspectNodeResponse) -> NodeInfo:
    """Convert what a node is."""
    return NodeInfo(
        node_id=message.node_id,
        version=message.version,
        isolation=message.isolation,
        isolation_note=message.isolation_note,
        artifact_limit_bytes=message.artifact_limit_bytes,
        message_limit_bytes=message.message_limit_bytes,
        min_memory_mib=message.min_memory_mib,
        max_memory_mib=message.max_memory_mib,
        max_vcpus=message.max_vcpus,
        default_vm=vm_config_from_proto(message.default_vm),
        started_unix_ns=message.started_unix_ns,
        overhead_mib=message.overhead_mib,
    )


def log_line_to_proto(line: LogLine) -> pb.LogsResponse:
    """Convert a line of a log."""
    return pb.LogsResponse(
        time_unix_ns=line.time_unix_ns,
        stream=line.stream,
        level=line.level,
        message=line.message,
    )


def log_line_from_proto(message: pb.LogsResponse) -> LogLine:
    """Convert a line of a log."""
    return LogLine(
        time_unix_ns=message.time_unix_ns,
        stream=message.stream,
        level=message.level,
        message=message.message,
    )


def message_timings_to_proto(timings: MessageTimings) -> pb.MessageTimings:
    """Convert the times of a message."""
    return pb.MessageTimings(
        total_ns=timings.total_ns,
        compute_ns=timings.compute_ns,
        wait_ns=timings.wait_ns,
        queue_ns=timings.queue_ns,
    )


def message_timings_from_proto(message: pb.MessageTimings) -> MessageTimings:
    """Convert the times of a message."""
    return MessageTimings(
        total_ns=message.total_ns,
        compute_ns=message.compute_ns,
        wait_ns=message.wait_ns,
        queue_ns=message.queue_ns,
    )


def failure_to_proto(error: ActorError) -> pb.ActorFailure:
    """Convert what an actor did wrong, but for its output."""
    trapped = isinstance(error, ActorTrapped)
    return pb.ActorFailure(
        kind=pb.ActorFailure.KIND_TRAPPED if trapped else pb.ActorFailure.KIND_FAILED,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        hint=error.hint or "",
    )


def failure_from_proto(message: pb.ActorFailure) -> ActorError:
    """Convert what an actor did wrong."""
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
