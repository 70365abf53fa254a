"""A deploy as it was asked for: the application it makes, and how long it took.

Knows rows and times; what is done with them is `applications`' business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import time_ns
from uuid import uuid4

from plexspaces_node.artifact_inspection import check_memory
from plexspaces_node.model import ApplicationSpec, ArtifactKind, PhaseTimings
from plexspaces_node.node.artifacts.report import ArtifactReport, check_language
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """A deploy as the service understood it.

    Attributes:
        request_id: "" for none; a second deploy with the same one gets the first one's answer.
        vm_id: of an empty machine to deploy into, "" for a new one.
        replace: an application of the name is replaced; see `next_record`.
        owner: who asks, for the turn at compiling.
    """

    spec: ApplicationSpec
    request_id: str = ""
    vm_id: str = ""
    replace: bool = False
    owner: str = ""


def check_artifact(spec: ApplicationSpec, overhead_mib: int, report: ArtifactReport) -> None:
    """Raise `InvalidArgument` for an artifact that cannot be deployed as was asked for.

    `overhead_mib` is what of the machine's memory is not the application's.
    """
    spec.check_kind(report.kind)
    check_language(report, spec.language)
    memory_mib = spec.vm_config.memory_mib
    check_memory(report.memory_bytes, memory_mib=memory_mib, overhead_mib=overhead_mib)


def record_of(request: DeployRequest, compiled: Compiled) -> ApplicationRecord:
    """Return the row of an application that is to be deployed and is not yet.

    Raises `InvalidArgument` for what this artifact cannot be deployed with.
    """
    spec = request.spec
    spec.check_kind(compiled.report.kind)
    return ApplicationRecord(
        name=spec.name,
        id=f"app-{uuid4().hex[:8]}",
        version=spec.version,
        language=check_language(compiled.report, spec.language),
        kind=compiled.report.kind,
        digest=spec.digest,
        vm_config=spec.vm_config,
        env=spec.env,
        desired=Desired.RUNNING,
        generation=0,
        request_id=request.request_id,
        created_ns=time_ns(),
        args=spec.args,
        concurrency=spec.concurrency,
    )


def next_record(
    before: ApplicationRecord, request: DeployRequest, compiled: Compiled
) -> ApplicationRecord:
    """Return the row of an application's next version; raises as `record_of` does.

    It keeps its environment where the request names none, and as a command its arguments and its
    concurrency.
    """
    asked = request.spec
    is_command = compiled.report.kind is not ArtifactKind.ACTOR
    # Checked again: what is kept and what is new may together be too long.
    spec = replace(
        asked,
        env=asked.env or dict(before.env),
        args=asked.args or (before.args if is_command else ()),
        concurrency=asked.concurrency or (before.concurrency if is_command else 0),
    )
    record = record_of(replace(request, spec=spec), compiled)
    return replace(record, id=before.id, generation=before.generation + 1)


def is_answered(record: ApplicationRecord, request: DeployRequest) -> bool:
    """Tell whether an application is what this very request has deployed before."""
    return (
        request.request_id != ""
        and record.request_id == request.request_id
        and record.digest == request.spec.digest
    )


def completed(started: PhaseTimings, compiled: Compiled, duration_ns: int) -> PhaseTimings:
    """Return the timings of a deploy whose last part was a start."""
    return replace(
        started,
        upload_ns=compiled.upload_ns,
        compile_ns=compiled.duration_ns,
        compile_cached=compiled.cached,
        total_ns=duration_ns + compiled.upload_ns,
    )
