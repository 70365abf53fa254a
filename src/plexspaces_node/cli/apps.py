"""The commands that change an application or send it a message."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.cli.options import (
    Json,
    Name,
    NameOption,
    NodeAddress,
    address_of,
    environment_of,
)
from plexspaces_node.cli.output import (
    DeployDisplay,
    milliseconds,
    note,
    print_fields,
    print_json,
    print_times,
    say,
)
from plexspaces_node.client import DeployOptions, NodeClient
from plexspaces_node.client.node import INVOKE_TIMEOUT_S, check_message
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import MAX_MESSAGE_LIMIT_BYTES, PhaseTimings
from plexspaces_node.views import ApplicationInfo, InvokeResult
from plexspaces_node.wire.convert import DEFAULT_VERSION, language_named

app = typer.Typer()


@app.command(
    epilog="Example:  plexspaces deploy --name calculator --language python --wasm calculator.wasm"
)
def deploy(  # noqa: PLR0913 - a command has a parameter for each of its flags
    name: NameOption,
    wasm: Annotated[Path, typer.Option(metavar="FILE", help="The WebAssembly file.")],
    language: Annotated[
        str | None,
        typer.Option(
            metavar="LANG",
            help="What it was written in: rust, typescript, go or python.",
            show_default="read from the file",
        ),
    ] = None,
    vcpus: Annotated[
        int | None, typer.Option(help="Virtual CPUs.", show_default="the node's, 1")
    ] = None,
    memory: Annotated[
        int | None, typer.Option(help="Memory in MiB.", show_default="the node's, 256")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the application.")] = DEFAULT_VERSION,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="A variable the actor sees; may be given many times."),
    ] = None,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Deploy a WebAssembly file as an application in a VM of its own."""
    options = DeployOptions(
        language=language_named(language or ""),
        version=version,
        vcpus=vcpus,
        memory_mib=memory,
        env=environment_of(env or ()),
    )
    application = asyncio.run(_deploy(address_of(node_address), name, wasm, options))
    if as_json:
        print_json(application)
    else:
        _print_deployed(application)


async def _deploy(address: str, name: str, wasm: Path, options: DeployOptions) -> ApplicationInfo:
    async with NodeClient(address) as client:
        with DeployDisplay() as display:
            return await client.deploy(name, wasm, options=options, on_progress=display)


def _print_deployed(application: ApplicationInfo) -> None:
    vm = application.vm
    say(f"✓ Deployed {application.name}")
    print_fields(
        [
            ("Application ID", application.id),
            ("VM ID", vm.id if vm else "none"),
            ("Isolation", vm.isolation if vm else "none"),
            ("Language", f"{application.language} ({application.kind})"),
            ("Digest", application.digest),
        ]
    )
    say()
    print_times(phases(application.timings))


def phases(timings: PhaseTimings) -> list[tuple[str, str]]:
    """Name each phase of a deploy and show its time, or why it took none."""
    upload = milliseconds(timings.upload_ns) if timings.upload_ns else "not needed"
    compiled = "cached" if timings.compile_cached else milliseconds(timings.compile_ns)
    return [
        ("Phase", "Time"),
        ("upload", upload),
        ("compile", compiled),
        ("VM", milliseconds(timings.vm_ns)),
        ("load", milliseconds(timings.load_ns)),
        ("init", milliseconds(timings.init_ns)),
        ("total", milliseconds(timings.total_ns)),
    ]


@app.command(epilog="Example:  plexspaces undeploy --name calculator")
def undeploy(name: NameOption, node_address: NodeAddress = None) -> None:
    """Remove an application: its VM, its state and its log."""

    async def act() -> None:
        async with NodeClient(address_of(node_address)) as client:
            await client.undeploy(name)

    asyncio.run(act())
    say(f"✓ Undeployed {name}")


@app.command(epilog="Example:  plexspaces stop --name calculator")
def stop(name: NameOption, node_address: NodeAddress = None) -> None:
    """Stop an application; its last snapshot is kept, its VM is not."""

    async def act() -> ApplicationInfo:
        async with NodeClient(address_of(node_address)) as client:
            return await client.stop(name)

    application = asyncio.run(act())
    say(f"✓ {name} is {application.state}")


@app.command(epilog="Example:  plexspaces start --name calculator")
def start(name: NameOption, node_address: NodeAddress = None) -> None:
    """Start a stopped or failed application again, from its last snapshot."""

    async def act() -> ApplicationInfo:
        async with NodeClient(address_of(node_address)) as client:
            return await client.start(name)

    application = asyncio.run(act())
    vm = f" in {application.vm.id}" if application.vm else ""
    say(f"✓ {name} is {application.state}{vm}")


@app.command(epilog='Example:  plexspaces invoke calculator --type add --data \'{"a":1,"b":2}\'')
def invoke(  # noqa: PLR0913 - a command has a parameter for each of its flags
    name: Name,
    stdin: Annotated[
        str | None, typer.Argument(metavar="[-]", help="Read the message from stdin.")
    ] = None,
    message_type: Annotated[str, typer.Option("--type", help="Type of the message.")] = "",
    data: Annotated[str | None, typer.Option(metavar="TEXT", help="The message.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the message from a file.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the reply may take.")
    ] = INVOKE_TIMEOUT_S,
    stats: Annotated[bool, typer.Option("--stats", help="Print the times on stderr.")] = False,
    node_address: NodeAddress = None,
) -> None:
    """Send a message to an application and write the reply's bytes to stdout."""
    payload = _message(stdin, data, file)

    async def act() -> InvokeResult:
        async with NodeClient(address_of(node_address)) as client:
            return await client.invoke(name, payload, type=message_type, timeout_s=timeout)

    result = asyncio.run(act())
    _write_reply(result.payload)
    if stats:
        _print_stats(result)


def _message(stdin: str | None, data: str | None, file: Path | None) -> bytes:
    if stdin not in (None, "-"):
        raise InvalidArgument(
            f"{stdin!r} is one argument too many",
            hint="give the message with --data TEXT or --file FILE, or - to read it from stdin",
        )
    if sum(source is not None for source in (stdin, data, file)) > 1:
        raise InvalidArgument(
            "the message is given more than once", hint="choose one of --data, --file and -"
        )
    if data is not None:
        return data.encode("utf-8", "surrogateescape")
    if stdin is not None:
        return _read_all(sys.stdin.buffer.read(MAX_MESSAGE_LIMIT_BYTES + 1))
    if file is None:
        return b""
    try:
        with file.open("rb") as opened:
            return _read_all(opened.read(MAX_MESSAGE_LIMIT_BYTES + 1))
    except OSError as error:
        raise InvalidArgument(f"{str(file)!r} cannot be read: {error.strerror}") from error


def _read_all(content: bytes) -> bytes:
    check_message(len(content))
    return content


def _write_reply(payload: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(payload)
    if sys.stdout.isatty() and not payload.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _print_stats(result: InvokeResult) -> None:
    timings = result.timings
    for name, duration_ns in (
        ("round trip", result.round_trip_ns),
        ("node", timings.total_ns),
        ("compute", timings.compute_ns),
        ("host waits", timings.wait_ns),
        ("queue", timings.queue_ns),
    ):
        note(f"{name + ':':<12} {milliseconds(duration_ns):>9}")
