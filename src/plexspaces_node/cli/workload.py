"""The workload of `run`: the same real computation in every application, measured and checked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.cli.output import note
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import ActorFailed, NotFound, Unsupported
from plexspaces_node.info import ApplicationInfo, StartedVm
from plexspaces_node.toolchains import build
from plexspaces_node.toolchains.workload import (
    PRIMES_MESSAGE_TYPE,
    SampleProject,
    examples,
    primes_payload,
    primes_reply,
)
from plexspaces_node.tracker import Coordination, CoordinationComputeTracker, PerformanceReport

MESSAGE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Work:
    """A number of messages, each asking for the number of primes up to a limit."""

    operations: int
    limit: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one application.

    Attributes:
        isolation: the level it was measured at, with its missing walls.
        wrong: how many replies were wrong.
        complaint: one of the wrong replies, in words, or "".
        transport: how the messages were sent, `http` or `grpc`.
    """

    report: PerformanceReport
    isolation: str
    wrong: int
    complaint: str
    transport: str


@dataclass(frozen=True, slots=True)
class BuiltSample:
    """An example that is ready to be deployed."""

    project: SampleProject
    wasm: Path


async def build_samples(directory: Path) -> list[BuiltSample]:
    """Build every example of the product into a directory.

    An example whose compiler is missing is left out, with a note that says how to install it;
    raises `Unsupported` if none is left.
    """
    built: list[BuiltSample] = []
    for project in examples():
        output = directory / f"{project.name}.wasm"
        try:
            result = await build(project.path, output, progress=note)
        except Unsupported as missing:
            hint = f" (hint: {missing.hint})" if missing.hint else ""
            note(f"{project.name}: skipped: {missing.message}{hint}")
            continue
        built.append(BuiltSample(project, result.path))
    if not built:
        raise Unsupported("no sample application can be built here", hint="plexspaces doctor")
    return built


def tracker_of(
    application: ApplicationInfo, *, started: StartedVm | None = None
) -> CoordinationComputeTracker:
    """Start an application's report with the cost of its deploy.

    Whatever is not VM, upload or compilation is its load: load, init, and the node's own work
    between them, such as looking into its caches. `started` is the VM it was deployed into, if that
    was started before.
    """
    timings = application.timings
    # A VM that already ran cost the deploy nothing, whatever it had cost before.
    vm_ns = timings.vm_ns if started is None else 0
    tracker = CoordinationComputeTracker(application.name, application.language)
    tracker.add_coordinate_ns(vm_ns if started is None else started.vm_ns, kind=Coordination.VM)
    compile_ns = 0 if timings.compile_cached else timings.compile_ns
    tracker.add_coordinate_ns(timings.upload_ns, kind=Coordination.UPLOAD)
    tracker.add_coordinate_ns(compile_ns, kind=Coordination.COMPILE)
    rest_ns = timings.total_ns - vm_ns - timings.upload_ns - compile_ns
    tracker.add_coordinate_ns(max(rest_ns, 0), kind=Coordination.LOAD)
    return tracker


_WORKLOAD_HINT = f"the actor must answer {PRIMES_MESSAGE_TYPE!r}, as examples/ts-greeter does"


async def work_through(
    client: NodeClient,
    tracker: CoordinationComputeTracker,
    application: ApplicationInfo,
    work: Work,
    *,
    on_message: Callable[[], None],
) -> Measured:
    """Send an application its messages one by one, check each reply and finish the report.

    Coordination is the client's time without the agent's compute.
    """
    payload, expected = primes_payload(work.limit), primes_reply(work.limit)
    wrong, complaint, transport = 0, "", ""
    for _ in range(work.operations):
        try:
            result = await client.invoke(
                application.name, payload, type=PRIMES_MESSAGE_TYPE, timeout_s=MESSAGE_TIMEOUT_S
            )
        except ActorFailed as error:
            error.hint = error.hint or _WORKLOAD_HINT
            raise
        compute_ns, transport = result.timings.compute_ns, result.transport
        tracker.add_compute_ns(compute_ns)
        # Two clocks: on a virtual machine they may differ by more than a short message takes.
        tracker.add_coordinate_ns(max(result.round_trip_ns - compute_ns, 0))
        tracker.increment_message()
        if result.payload.strip() != expected:
            wrong += 1
            complaint = f"answered {result.payload[:40]!r}, expected {expected!r}"
        on_message()
    isolation = application.vm.isolated_by if application.vm else ""
    return Measured(tracker.finalize(), isolation, wrong, complaint, transport)


@asynccontextmanager
async def undeployed_at_the_end(client: NodeClient, name: str) -> AsyncIterator[None]:
    """Undeploy an application when the body ends in any way; does nothing if it is gone."""
    try:
        yield
    finally:
        try:
            await client.undeploy(name)
        except NotFound:
            note(f"{name} was already undeployed")
