"""The command `deploy`: a WebAssembly file, or a project that is built first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from plexspaces_node.allowed_hosts import AllowedHosts
from plexspaces_node.api.convert import DEFAULT_VERSION, language_named
from plexspaces_node.cli.options import (
    Json,
    NodeAddress,
    WithArguments,
    address_of,
    arguments_of,
    check_project,
    complete_language,
    complete_level,
    in_tenant,
    pairs_of,
)
from plexspaces_node.cli.output import (
    print_fields,
    print_json,
    print_phases,
    say,
)
from plexspaces_node.cli.place import where
from plexspaces_node.cli.progress import DeployDisplay, if_interrupted, working
from plexspaces_node.client import DeployOptions, NodeClient
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import HTTP_CONCURRENCY
from plexspaces_node.toolchains import application_name, build, detect, project_name

app = typer.Typer()

Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="K=V",
        help="Environment variable of the application; repeatable. Not for secrets: whoever can "
        "read the node's data directory or a backup sees it.",
    ),
]
SecretVariables = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="K=NAME",
        help="Environment variable K whose value is the secret NAME of the application's tenant; "
        "repeatable. With --replace, those given replace all of the running version; `none` takes "
        "them away. See: plexspaces secret.",
        show_default="none",
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        metavar="N",
        help="Messages that a command, or requests that an HTTP component, handles at once; an "
        "actor handles one.",
        show_default=f"its number of vCPUs; {HTTP_CONCURRENCY} for an HTTP component",
    ),
]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="HOST[:PORT]",
        help="Host that the application may send HTTP requests to, such as api.example.com:443 or "
        "*.example.com; repeatable. Without a port: 80 and 443. With --replace, the hosts given "
        "replace all of the running version; `none` allows no host.",
        show_default="none",
    ),
]

Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Replace the running version; its state, keys and logs carry over, as do the "
        "size, variables, secrets, arguments, concurrency and allowed hosts that are not given.",
    ),
]

ApplicationName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Application name, also TENANT/NAME.",
        show_default="the name of the project or file",
        callback=in_tenant,
    ),
]
Public = Annotated[
    bool | None,
    typer.Option(
        "--public/--no-public",
        help="Let everybody send messages and requests to it, without a token; nothing else.",
        show_default="no; with --replace as before",
    ),
]
Replicas = Annotated[
    int | None,
    typer.Option(
        "--replicas",
        metavar="N",
        help="In a cluster: on how many nodes a command or HTTP component runs; an actor is one.",
        show_default="1; with --replace as before",
    ),
]
On = Annotated[
    list[str] | None,
    typer.Option(
        "--on",
        metavar="K=V",
        help="In a cluster: only on nodes with this label, see start-node --label; repeatable.",
        show_default="any",
    ),
]
Level = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="LEVEL",
        help="In a cluster: only on nodes of this isolation level.",
        show_default="any",
        autocompletion=complete_level,
    ),
]


@app.command(
    cls=WithArguments,
    epilog="Example:  plexspaces deploy --name calculator examples/python-calculator\n\n"
    "Example:  plexspaces deploy --name lines --wasm wc.wasm -- -l\n\n"
    "Example:  plexspaces deploy --name site --replicas 3 --on zone=a examples/ts-hello-http",
)
def deploy(  # noqa: PLR0913 - a command has a parameter for each of its flags
    ctx: typer.Context,
    project: Annotated[
        Path | None,
        typer.Argument(metavar="PROJECT", help="Project directory to build, or WebAssembly file."),
    ] = None,
    wasm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="WebAssembly file; alternative to PROJECT.")
    ] = None,
    name: ApplicationName = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="LANG",
            help="Source language: rust, typescript, go or python.",
            show_default="detected",
            autocompletion=complete_language,
        ),
    ] = None,
    vcpus: Annotated[
        int | None, typer.Option(help="Virtual CPUs.", show_default="the node's, 1")
    ] = None,
    memory: Annotated[
        int | None, typer.Option(help="Memory in MiB.", show_default="the node's, 256")
    ] = None,
    version: Annotated[str, typer.Option(help="Application version.")] = DEFAULT_VERSION,
    env: Variables = None,
    secret: SecretVariables = None,
    concurrency: Concurrency = None,
    allow_host: AllowHosts = None,
    public: Public = None,
    replace_: Replace = False,
    replicas: Replicas = None,
    on: On = None,
    level: Level = "",
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Deploy a project or a WebAssembly file as an application in its own VM.

    A WASI command gets everything after -- as its arguments, the same for every
    message. `inspect` shows them, so pass secrets with --secret. Variables, secrets
    and arguments take at most 128 KiB together.
    """
    options = DeployOptions(
        language=language_named(language or ""),
        version=version,
        vcpus=vcpus,
        memory_mib=memory,
        env=pairs_of(env or (), "--env", "GREETING=hello"),
        replace=replace_,
        public=public,
        args=arguments_of(ctx),
        concurrency=concurrency,
        allow_hosts=allow_host or (),
        replicas=replicas,
        on=pairs_of(on or (), "--on", "zone=a", form="LABEL=VALUE"),
        level=level,
    )
    options = _with_secrets(options, secret or ())
    # Before a build, which would make the user wait long for a refusal.
    AllowedHosts.parse(options.allow_hosts)
    address = address_of(node_address)
    project, wasm = _told_apart(project, wasm)
    if project is not None and wasm is None:
        named, options = _of_project(project, name, options)
        deploying = _deploy_project(address, named, project, options)
    elif wasm is not None and project is None:
        named = name or _named(application_name(wasm.stem))
        deploying = _deploy_file(address, named, wasm, options)
    else:
        raise InvalidArgument(
            "deploy takes either a project directory or a WebAssembly file",
            hint="plexspaces deploy DIR, or plexspaces deploy FILE --name NAME",
        )
    _print_deployed(asyncio.run(deploying), as_json)


def _with_secrets(options: DeployOptions, given: Sequence[str]) -> DeployOptions:
    named = [each for each in given if each != "none"]
    secrets = pairs_of(named, "--secret", "DB_URL=db-url", form="VARIABLE=SECRET")
    return replace(options, secrets=secrets, no_secrets=len(named) < len(given))


def _told_apart(project: Path | None, wasm: Path | None) -> tuple[Path | None, Path | None]:
    if project is not None and wasm is None and os.path.isfile(project):
        return None, project
    return project, wasm


def _of_project(
    project: Path, name: str | None, options: DeployOptions
) -> tuple[str, DeployOptions]:
    """Return the project's own settings where the user gave none."""
    check_project(project)
    language = detect(project)
    if options.language not in (None, language):
        raise InvalidArgument(
            f"{project} is a {language} project, not a {options.language} project",
            hint=f"omit --language, or pass --language {language}",
        )
    named = _named(project_name(project)) if name is None else name
    return named, replace(options, language=language)


def _named(name: str) -> str:
    return in_tenant(name) or name


async def _deploy_project(
    address: str, name: str, project: Path, options: DeployOptions
) -> ApplicationInfo:
    async with NodeClient(address) as client:
        with if_interrupted("nothing was deployed"):
            # Before the build, which would make the user wait long for a refusal.
            await client.check_deploy(name, options=options)
            with working(f"building {name}") as step:
                built = await build(project, progress=step)
        return await _deploy(client, name, built.path, options)


async def _deploy_file(
    address: str, name: str, wasm: Path, options: DeployOptions
) -> ApplicationInfo:
    async with NodeClient(address) as client:
        return await _deploy(client, name, wasm, options)


async def _deploy(
    client: NodeClient, name: str, wasm: Path, options: DeployOptions
) -> ApplicationInfo:
    undone = f"the node rolls back the deploy of {name}; see: plexspaces list"
    with if_interrupted(undone), DeployDisplay() as display:
        return await client.deploy(name, wasm, options=options, on_progress=display)


def _print_deployed(application: ApplicationInfo, as_json: bool) -> None:
    if as_json:
        print_json(application)
        return
    vm = application.vm
    say(f"✓ Deployed {application.name}")
    print_fields(
        [
            ("Application ID", application.id),
            ("VM ID", vm.id if vm else "none"),
            ("Isolation", vm.isolated_by if vm else "none"),
            ("Language", f"{application.language} ({application.kind})"),
            ("Digest", application.digest),
            *where(application),
        ]
    )
    say()
    print_phases(application.timings)
