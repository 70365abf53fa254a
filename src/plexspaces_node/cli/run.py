"""The commands that measure: `run` and `empty-vm-typescript`."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.artifact_inspection import inspect
from plexspaces_node.cli.embedded import node_or_embedded
from plexspaces_node.cli.options import (
    IsolationOption,
    Json,
    NodeAddress,
    Operations,
    address_of,
    check_isolation,
)
from plexspaces_node.cli.output import (
    counted,
    milliseconds,
    note,
    print_error,
    print_json,
    say,
)
from plexspaces_node.cli.plot import Plot, Row, check_target, write_picture
from plexspaces_node.cli.plot_svg import picture_of
from plexspaces_node.cli.plot_text import print_plot
from plexspaces_node.cli.progress import DeployDisplay, counting
from plexspaces_node.cli.report import as_dict, render
from plexspaces_node.cli.status import FAILED
from plexspaces_node.cli.workload import (
    BuiltSample,
    Measured,
    Work,
    build_samples,
    tracker_of,
    undeployed_at_the_end,
    work_through,
)
from plexspaces_node.client import DeployOptions, NodeClient
from plexspaces_node.client.address import check_address
from plexspaces_node.client.artifact import check_wasm, read_artifact
from plexspaces_node.model import VmConfig, check_name
from plexspaces_node.toolchains.workload import DEFAULT_PRIMES_LIMIT, MAX_PRIMES_LIMIT
from plexspaces_node.tracker import PerformanceReport

app = typer.Typer()

Limit = Annotated[
    int,
    typer.Option(
        "--limit",
        min=2,
        max=MAX_PRIMES_LIMIT,
        help="Upper limit of the primes that each message counts.",
    ),
]
Stats = Annotated[bool, typer.Option("--stats", help="Print how the messages were sent to stderr.")]
PlotTarget = Annotated[
    str | None,
    typer.Option(
        "--plot",
        metavar="FILE.svg",
        help="Draw the reports side by side, into an SVG file and on stderr; `-` for stderr alone. "
        "An existing file is replaced.",
        show_default="none",
    ),
]


@app.command(epilog="Example:  plexspaces run --operations 10 --plot run.svg")
def run(  # noqa: PLR0913 - a command has a parameter for each of its flags
    operations: Operations = 10,
    limit: Limit = DEFAULT_PRIMES_LIMIT,
    node_address: NodeAddress = None,
    isolation: IsolationOption = None,
    stats: Stats = False,
    plot: PlotTarget = None,
    as_json: Json = False,
) -> None:
    """Build, deploy and measure every sample application.

    Uses the node at the address if one answers there, else starts an embedded one.
    """
    work = Work(operations, limit)
    check_isolation(isolation)
    # Before everything is built: an invalid address is not an absent node.
    address = check_address(address_of(node_address))
    picture = check_target(plot) if plot is not None else None
    by_sample = asyncio.run(_run(address, isolation, work))
    measured = list(by_sample.values())
    total = _in_sum([one.report for one in measured])
    behind = ", ".join(dict.fromkeys(one.isolation for one in measured))
    if as_json:
        print_json(
            {
                "operations": work.operations,
                "limit": work.limit,
                "correct": not any(one.wrong for one in measured),
                "applications": [_as_dict(one) for one in measured],
                "total": as_dict(total, behind),
            }
        )
    else:
        reports = [(one.report, one.isolation) for one in measured] + [(total, behind)]
        say("\n\n".join(render(report, isolation) for report, isolation in reports))
    if stats:
        note(f"transport: {', '.join(dict.fromkeys(one.transport for one in measured))}")
    if plot is not None:
        rows = [Row(name, one.report.language, one.report) for name, one in by_sample.items()]
        each = f"{counted(work.operations, 'message')} per application"
        caption = f"{each}, primes up to {work.limit} · isolation: {behind}"
        _draw(Plot((*rows, Row(total.actor_id, "", total)), caption), picture)
    _fail_when_wrong(measured)


def _draw(plot: Plot, picture: Path | None) -> None:
    # In the terminal first: a disk that is full does not take it away.
    print_plot(plot)
    if picture is not None:
        write_picture(picture, picture_of(plot))
        note(f"✓ Plot written to {picture}")


def _as_dict(one: Measured) -> dict[str, object]:
    return {**as_dict(one.report, one.isolation), "wrong": one.wrong}


async def _run(address: str, isolation: str | None, work: Work) -> dict[str, Measured]:
    """Return what was measured, by the name of the sample."""
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as directory:
        samples = await build_samples(Path(directory))
        async with node_or_embedded(address, isolation) as client:
            return {
                sample.project.name: await _run_sample(client, sample, work) for sample in samples
            }


async def _run_sample(client: NodeClient, sample: BuiltSample, work: Work) -> Measured:
    # The name is new each time, so that two runs on one node do not collide.
    name = f"run-{sample.project.name[:48].rstrip('-')}-{uuid.uuid4().hex[:8]}"
    options = DeployOptions(language=sample.project.language)
    with DeployDisplay() as display:
        application = await client.deploy(name, sample.wasm, options=options, on_progress=display)
    async with undeployed_at_the_end(client, name):
        with counting(
            f"{name}: {counted(work.operations, 'message')}", work.operations
        ) as on_message:
            tracker = tracker_of(application)
            return await work_through(client, tracker, application, work, on_message=on_message)


def _in_sum(reports: Sequence[PerformanceReport]) -> PerformanceReport:
    languages = dict.fromkeys(report.language for report in reports)
    return PerformanceReport.combined(
        reports,
        actor_id=f"all {counted(len(reports), 'application')}",
        language=", ".join(languages),
    )


def _fail_when_wrong(measured: Sequence[Measured]) -> None:
    for one in measured:
        if one.wrong:
            print_error(
                f"{one.report.actor_id}: {one.wrong} of {one.report.messages} replies are wrong: "
                f"it {one.complaint}",
                "the application must answer the message `primes` with the number of primes",
            )
    if any(one.wrong for one in measured):
        raise typer.Exit(FAILED)


@app.command(
    "empty-vm-typescript",
    epilog="Example:  plexspaces empty-vm-typescript --vm-id vm-1 --wasm greeter.wasm",
)
def empty_vm_typescript(  # noqa: PLR0913 - a command has a parameter for each of its flags
    vm_id: Annotated[str, typer.Option("--vm-id", metavar="ID", help="VM ID.")],
    wasm: Annotated[Path, typer.Option(metavar="FILE", help="Actor to deploy into it.")],
    vcpus: Annotated[int, typer.Option(help="Virtual CPUs of the VM.")] = 1,
    memory: Annotated[int, typer.Option(help="Memory of the VM in MiB.")] = 256,
    operations: Operations = 10,
    limit: Limit = DEFAULT_PRIMES_LIMIT,
    node_address: NodeAddress = None,
    isolation: IsolationOption = None,
    as_json: Json = False,
) -> None:
    """Start an empty VM, deploy an actor into it, measure it and stop it.

    The actor must answer the message `primes`, as every example does.

    Uses the node at the address if one answers there, else starts an embedded one.
    """
    check_name(vm_id, what="VM id")
    check_isolation(isolation)
    check_wasm(wasm)
    config, work = VmConfig(vcpus, memory), Work(operations, limit)
    where = node_or_embedded(address_of(node_address), isolation)
    measured = asyncio.run(_empty_vm(where, vm_id, wasm, config, work))
    if as_json:
        print_json(_as_dict(measured))
    else:
        say(render(measured.report, measured.isolation))
    _fail_when_wrong([measured])


async def _empty_vm(
    where: AbstractAsyncContextManager[NodeClient],
    vm_id: str,
    wasm: Path,
    config: VmConfig,
    work: Work,
) -> Measured:
    # Before there is a VM: an artifact that cannot run does not need one.
    await inspect((await asyncio.to_thread(read_artifact, wasm)).data)
    async with where as client, AsyncExitStack() as stack:
        note(f"Starting empty VM: {vm_id}")
        started = await client.start_vm(vm_id, vm_config=config)
        stack.push_async_callback(client.stop_vm, vm_id)
        note(f"✓ Empty VM started in {milliseconds(started.vm_ns)} ({started.vm.isolated_by})")
        options = DeployOptions(vcpus=config.vcpus, memory_mib=config.memory_mib, vm_id=vm_id)
        with DeployDisplay() as display:
            application = await client.deploy(vm_id, wasm, options=options, on_progress=display)
        await stack.enter_async_context(undeployed_at_the_end(client, vm_id))
        note(f"✓ Deployed into {vm_id} in {milliseconds(application.timings.total_ns)}")
        with counting(
            f"{vm_id}: {counted(work.operations, 'message')}", work.operations
        ) as on_message:
            tracker = tracker_of(application, started=started)
            measured = await work_through(client, tracker, application, work, on_message=on_message)
        await stack.aclose()
        note(f"✓ Stopped {vm_id}")
        return measured
