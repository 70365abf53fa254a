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
    """So many messages, each asking for the number of primes up to a limit."""

    operations: int
    limit: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What an application did.

    Attributes:
        isolation: the level it was measured behind, and what of it there is not.
        wrong: how many replies were not the right answer.
        complaint: one of them, in words, or "".
    """

    report: PerformanceReport
    isolation: str
    wrong: int
    complaint: str


@dataclass(frozen=True, slots=True)
class BuiltSample:
    """An example that is ready to be deployed."""

    project: SampleProject
    wasm: Path


async def build_samples(directory: Path) -> list[BuiltSample]:
    """Build every example of the product into a directory.

    One whose compiler is missing is left out with a note that says how to get it; raises
    `Unsupported` when that leaves none.
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
    """Begin an application's account with what its deploy cost.

    What was not the machine, nor upload, nor compilation is its load: load, init, and what the
    node had to do between them, such as to look into its caches. `started` is the machine it was
    deployed into, when that was started before and by itself.
    """
    timings = application.timings
    # A machine that was there already cost the deploy nothing, whatever it had cost before.
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
    """Send an application its messages one by one, check each reply and close the account.

    Coordination is what the client measured less what the agent measured inside the actor.
    """
    payload, expected = primes_payload(work.limit), primes_reply(work.limit)
    wrong, complaint = 0, ""
    for _ in range(work.operations):
        try:
            result = await client.invoke(
                application.name, payload, type=PRIMES_MESSAGE_TYPE, timeout_s=MESSAGE_TIMEOUT_S
            )
        except ActorFailed as error:
            error.hint = error.hint or _WORKLOAD_HINT
            raise
        compute_ns = result.timings.compute_ns
        tracker.add_compute_ns(compute_ns)
        # Two clocks: on a virtual machine they may differ by more than a short message takes.
        tracker.add_coordinate_ns(max(result.round_trip_ns - compute_ns, 0))
        tracker.increment_message()
        if result.payload.strip() != expected:
            wrong += 1
            complaint = f"answered {result.payload[:40]!r}, expected {expected!r}"
        on_message()
    isolation = application.vm.isolated_by if application.vm else ""
    return Measured(tracker.finalize(), isolation, wrong, complaint)


@asynccontextmanager
async def undeployed_at_the_end(client: NodeClient, name: str) -> AsyncIterator[None]:
    """Undeploy an application when the body ends, however it ends; silent when it is gone."""
    try:
        yield
    finally:
        try:
            await client.undeploy(name)
        except NotFound:
            note(f"{name} was already undeployed")
