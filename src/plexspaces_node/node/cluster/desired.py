"""What a user asks for, as the cluster's registry and a node's own have it; errors that travel.

Only makes records; `operations` and `reconcile` use them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    ActorTrapped,
    PlexSpacesError,
    platform_error,
)
from plexspaces_node.info import ApplicationInfo, ReplicaInfo
from plexspaces_node.model import (
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    split_name,
)
from plexspaces_node.node.cluster.records import (
    READY,
    Application,
    Placed,
    Status,
    Wanted,
)
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired

MOST_ERROR_CHARS = 4000
"""The longest error that is told to other nodes."""

UNKNOWN = "Unknown"
"""What is said of an application on a node that does not answer."""

_timings = msgspec.json.Decoder(PhaseTimings)
_application = msgspec.json.Decoder(Application)
encode = msgspec.json.Encoder().encode
"""Returns a record as the registry has it."""


def record_of(application: Application) -> ApplicationRecord:
    """Return an application as a node's own registry has it.

    Raises `ValueError` for a kind that only a later version knows.
    """
    known = frozenset(Language)
    return ApplicationRecord(
        name=application.name,
        id=application.id,
        version=application.version,
        language=(
            Language(application.language) if application.language in known else Language.UNKNOWN
        ),
        kind=ArtifactKind(application.kind),
        digest=application.digest,
        vm_config=VmConfig(application.vcpus, application.memory_mib),
        env=dict(application.env),
        desired=Desired(application.wanted.value),
        generation=application.generation,
        # Unique in the cluster; here it would keep a replica's row from being replaced.
        request_id="",
        created_ns=application.created_ns,
        args=application.args,
        concurrency=application.concurrency,
        allow_hosts=application.allow_hosts,
        secrets=dict(application.secrets),
        public=application.public,
    )


def application_of(record: ApplicationRecord, node: str, **fields: Any) -> Application:
    """Return a node's application as the cluster's registry has it; `node` has its artifact."""
    return Application(
        name=record.name,
        id=record.id,
        version=record.version,
        language=record.language,
        kind=record.kind,
        digest=record.digest,
        vcpus=record.vm_config.vcpus,
        memory_mib=record.vm_config.memory_mib,
        created_ns=record.created_ns,
        **{
            "generation": max(1, record.generation),
            "source": node,
            "env": record.env,
            "args": record.args,
            "concurrency": record.concurrency,
            "allow_hosts": record.allow_hosts,
            "secrets": record.secrets,
            "public": record.public,
            "wanted": Wanted(record.desired.value),
            "request_id": record.request_id,
            **fields,
        },
    )


def undone(application: Application) -> Application | None:
    """Return what there is to be instead of an application whose deploy will not be done.

    None if there was none before, so that the record is to be deleted. What was replaced gets the
    next generation, so that every node acts on it.
    """
    if not application.before:
        return None
    before = _application.decode(application.before)
    return msgspec.structs.replace(
        before, generation=application.generation + 1, deploying="", before=b""
    )


def failed(
    application: Application, epoch: int, error: BaseException, *, state: str, vm_id: str = ""
) -> Status:
    """Return a status that tells an error to other nodes, so that they can raise it."""
    failure = ""
    if isinstance(error, ActorError):
        failure = "trapped" if isinstance(error, ActorTrapped) else "failed"
    is_known = isinstance(error, PlexSpacesError | ActorError)
    return Status(
        id=application.id,
        generation=application.generation,
        epoch=epoch,
        state=state,
        error=(str(error) or repr(error))[:MOST_ERROR_CHARS],
        code=_code_of(error),
        hint=((error.hint or "") if is_known else "")[:MOST_ERROR_CHARS],  # type: ignore[attr-defined]
        failure=failure,
        vm_id=vm_id,
    )


def _code_of(error: BaseException) -> str:
    if isinstance(error, PlexSpacesError | ActorError):
        return error.code[:200]
    return "unavailable" if isinstance(error, OSError | MemoryError) else "internal"


def error_of(status: Status) -> PlexSpacesError | ActorError:
    """Return the error that a node tells of."""
    hint = status.hint or None
    if status.failure:
        kind = ActorTrapped if status.failure == "trapped" else ActorFailed
        return kind(status.error, code=status.code, hint=hint)
    return platform_error(status.code, status.error, hint=hint)


def timings_of(status: Status) -> PhaseTimings:
    """Return the times of a start that a node tells of; none if they cannot be read."""
    try:
        return _timings.decode(status.timings) if status.timings else PhaseTimings()
    except msgspec.MsgspecError:
        return PhaseTimings()


def described(application: Application, statuses: dict[str, Status]) -> ApplicationInfo:
    """Describe an application by the cluster's records alone, for its nodes do not answer."""
    record = record_of(application)
    said = [one for one in statuses.values() if one.id == application.id]
    states = frozenset(ApplicationState)
    running = [one for one in said if one.state in states]
    best = next((one for one in running if one.state == ApplicationState.RUNNING), None)
    shown = best or next(iter(running), None)
    if application.wanted is Wanted.STOPPED:
        state = ApplicationState.STOPPED
    else:
        state = ApplicationState(shown.state) if shown is not None else ApplicationState.STARTING
    return ApplicationInfo(
        id=application.id,
        name=application.name,
        version=application.version,
        state=state,
        language=record.language,
        kind=record.kind,
        digest=record.digest,
        vm_config=record.vm_config,
        timings=timings_of(shown) if shown is not None else PhaseTimings(),
        created_unix_ns=application.created_ns,
        last_error=shown.error if shown is not None else "",
        args=application.args,
        concurrency=record.at_once,
        allow_hosts=application.allow_hosts,
        tenant=split_name(application.name)[0],
        public=application.public,
    )


def located(  # noqa: PLR0913 - what is known of it
    info: ApplicationInfo,
    node: str,
    application: Application,
    placed: Placed | None,
    statuses: dict[str, Status],
    is_alive: Any,
) -> ApplicationInfo:
    """Return a description of an application with where it is."""
    nodes = []
    for each in (*placed.nodes, *placed.leaving, *placed.standby) if placed is not None else ():
        status = statuses.get(each)
        state, error = "Starting", ""
        if status is not None and status.id == application.id:
            state, error = status.state, status.error
        elif each in placed.standby if placed is not None else False:
            state = f"not {READY}"
        nodes.append(ReplicaInfo(each, state if is_alive(each) else UNKNOWN, error))
    return replace(
        info,
        node=node,
        nodes=tuple(nodes),
        replicas=application.replicas,
        on=dict(application.on),
        level=application.level,
        placement=placed.why if placed is not None else "it is not placed yet",
    )
