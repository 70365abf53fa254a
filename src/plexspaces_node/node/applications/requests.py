"""A deploy request: the record it becomes, and its timings.

Only makes records and timings; others use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import time_ns
from uuid import uuid4

from plexspaces_node.allowed_hosts import AllowedHosts
from plexspaces_node.artifact_inspection import check_memory
from plexspaces_node.errors import WrongState
from plexspaces_node.model import ApplicationSpec, ArtifactKind, PhaseTimings
from plexspaces_node.node.artifacts.report import ArtifactReport, check_language
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """A deploy request, as the service has decoded it.

    Attributes:
        request_id: "" for none; a second deploy with the same one gets the first one's answer.
        vm_id: an empty VM to deploy into, or "" for a new one.
        replace: replace an application of this name; see `next_record`.
        no_secrets: keep none of the secrets of the version that is replaced.
        owner: who asks, for fair turns at compiling.
    """

    spec: ApplicationSpec
    request_id: str = ""
    vm_id: str = ""
    replace: bool = False
    no_secrets: bool = False
    owner: str = ""


def check_alone(spec: ApplicationSpec) -> None:
    """Raise `WrongState` for what only a cluster can do: what it has decided is not asked again."""
    asked = {"replicas": spec.replicas > 1, "on": spec.on, "level": spec.level}
    if named := [word for word, is_set in asked.items() if is_set]:
        raise WrongState(
            f"this node is in no cluster, of which {', '.join(named)} would choose nodes",
            hint="omit it, or begin a cluster: docs/cluster.md",
        )


def check_artifact(spec: ApplicationSpec, overhead_mib: int, report: ArtifactReport) -> None:
    """Raise `InvalidArgument` if the artifact does not fit the request.

    `overhead_mib` is the part of the VM's memory that is not for the application.
    """
    spec.check_kind(report.kind)
    check_language(report, spec.language)
    memory_mib = spec.vm_config.memory_mib
    check_memory(report.memory_bytes, memory_mib=memory_mib, overhead_mib=overhead_mib)


def record_of(request: DeployRequest, compiled: Compiled) -> ApplicationRecord:
    """Return the record of an application that is not deployed yet.

    Raises `InvalidArgument` if the artifact does not fit the request.
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
        allow_hosts=AllowedHosts.parse(spec.allow_hosts).texts,
        secrets=spec.secrets,
        public=bool(spec.public),
    )


def next_record(
    before: ApplicationRecord, request: DeployRequest, compiled: Compiled
) -> ApplicationRecord:
    """Return the record of an application's next version; raises as `record_of` does.

    It keeps its environment, its secrets and its allowed hosts unless the request sets some, and as
    a command its arguments and its concurrency. A variable that the request sets as the other kind
    is that.
    """
    asked = request.spec
    is_command = compiled.report.kind is not ArtifactKind.ACTOR
    kept = {} if request.no_secrets else before.secrets
    # Checked again: old and new values may together be too long.
    spec = replace(
        asked,
        env=asked.env or _without(before.env, asked.secrets),
        secrets=asked.secrets or _without(kept, asked.env),
        public=before.public if asked.public is None else asked.public,
        args=asked.args or (before.args if is_command else ()),
        allow_hosts=asked.allow_hosts or before.allow_hosts,
        concurrency=asked.concurrency or (before.concurrency if is_command else 0),
    )
    record = record_of(replace(request, spec=spec), compiled)
    return replace(record, id=before.id, generation=before.generation + 1)


def _without(kept: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in kept.items() if name not in names}


def is_answered(record: ApplicationRecord, request: DeployRequest) -> bool:
    """Return whether this very request has deployed the application before."""
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
