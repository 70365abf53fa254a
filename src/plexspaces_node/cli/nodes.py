"""The commands about the nodes of a cluster: `nodes`, and what an administrator does with one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Annotated

import typer

import plexspaces_node
from plexspaces_node.cli.options import ConfigFile, Json, NodeAddress, address_of
from plexspaces_node.cli.output import columns, counted, note, print_json, say
from plexspaces_node.cli.progress import if_interrupted, working
from plexspaces_node.cli.status import FAILED
from plexspaces_node.client import NodeClient
from plexspaces_node.cluster_token import KEPT, ClusterToken
from plexspaces_node.errors import DeadlineExceeded, NotFound
from plexspaces_node.info import ClusterInfo, ClusterNodeInfo, Draining

app = typer.Typer()
nodes_app = typer.Typer(invoke_without_command=True)
app.add_typer(nodes_app, name="nodes")

MOST_NAMED = 5
"""How many of the applications that still run on a node are named."""

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="ID of a node.", show_default=False)]


@nodes_app.callback(
    epilog="Example:  plexspaces nodes\n\nExample:  plexspaces nodes drain b && "
    "plexspaces nodes remove b"
)
def nodes(ctx: typer.Context, node_address: NodeAddress = None, as_json: Json = False) -> None:
    """Show the nodes of a cluster: their state, their room, and who leads."""
    if ctx.invoked_subcommand is not None:
        return

    async def fetch() -> ClusterInfo:
        async with NodeClient(address_of(node_address)) as client:
            return await client.nodes()

    cluster = asyncio.run(fetch())
    if as_json:
        print_json(cluster)
        return
    say(f"Cluster {cluster.cluster}: {copies_in_words(cluster)}")
    for line in table(cluster):
        say(line)
    for warning in cluster.warnings:
        note(f"warning: {warning}")


def copies_in_words(cluster: ClusterInfo) -> str:
    """Return how many nodes there are, and how many have what the cluster knows."""
    return f"{counted(len(cluster.nodes), 'node')} (state on {cluster.copies} of them)"


def table(cluster: ClusterInfo) -> Iterator[str]:
    """Yield a heading and a line for each node."""
    rows = [("NODE", "STATE", "LEVEL", "APPLICATIONS", "MEMORY FREE", "VERSION", "LABELS", "")]
    for node in cluster.nodes:
        labels = ",".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
        rows.append(
            (
                node.id,
                node.state,
                node.level,
                f"{node.applications} of {node.application_limit}",
                f"{node.free_memory_mib} of {node.memory_mib} MiB",
                node.version,
                labels or "–",
                ", ".join(_marks(node)),
            )
        )
    yield from columns(rows)


def _marks(node: ClusterNodeInfo) -> Iterator[str]:
    if node.leads:
        yield "leads"
    if node.keeps_state:
        yield "keeps state"


@nodes_app.command("drain", epilog="Example:  plexspaces nodes drain b --timeout 300")
def drain(
    node: NodeName,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="S",
            min=0.001,
            help="Wait at most so many seconds; the applications go on moving.",
            show_default="without end",
        ),
    ] = None,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Move a node's applications to others, and wait until nothing runs there.

    Then the node may be stopped, upgraded or removed. `nodes undrain` gives it applications again.
    """
    last: Draining | None = None

    async def act() -> None:
        nonlocal last
        async with NodeClient(address_of(node_address)) as client:
            with working(f"draining {node}") as step:
                steps = client.drain_node(node, timeout_s=timeout)
                async with aclosing(steps) as told:
                    async for last in told:
                        step(_left(node, last))

    undo = f"{node} is being drained all the same; to end that: plexspaces nodes undrain {node}"
    try:
        with if_interrupted(undo):
            asyncio.run(act())
    except DeadlineExceeded as error:
        hint = f"wait on: plexspaces nodes drain {node}; or plexspaces nodes undrain {node}"
        if last is None:
            error.hint = hint
            raise
        raise DeadlineExceeded(
            f"after {timeout:g} s there are still {_left(node, last)}", hint=hint
        ) from error
    if as_json:
        print_json({"node": node, "left": last.left if last else 0})
    else:
        say(f"✓ {node} is drained: nothing runs there")
    if last is not None and last.left:
        raise typer.Exit(FAILED)


def _left(node: str, draining: Draining) -> str:
    names = ", ".join(draining.applications[:MOST_NAMED])
    more = " …" if draining.left > MOST_NAMED else ""
    why = f": {draining.why}" if draining.why else ""
    what = counted(draining.left, "application")
    return f"{what} left on {node} ({names}{more}){why}" if draining.left else f"{node} is empty"


@nodes_app.command("undrain", epilog="Example:  plexspaces nodes undrain b")
def undrain(node: NodeName, node_address: NodeAddress = None, as_json: Json = False) -> None:
    """Let a node take applications again."""

    async def act() -> None:
        async with NodeClient(address_of(node_address)) as client:
            await client.undrain_node(node)

    asyncio.run(act())
    if as_json:
        print_json({"node": node, "draining": False})
    else:
        say(f"✓ {node} takes applications")


@nodes_app.command("remove", epilog="Example:  plexspaces nodes remove b")
def remove(
    node: NodeName,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also while it is up: its applications start elsewhere, actors from their last "
            "acknowledged state.",
        ),
    ] = False,
    node_address: NodeAddress = None,
    as_json: Json = False,
) -> None:
    """Forget a node that is down or drained; the cluster no longer waits for it.

    To come back it joins with a new --data-dir. A machine that was stolen still has the cluster's
    token: docs/cluster.md says what to do then.
    """

    async def act() -> None:
        async with NodeClient(address_of(node_address)) as client:
            await client.remove_node(node, force=force)

    asyncio.run(act())
    if as_json:
        print_json({"node": node, "removed": True})
    else:
        say(f"✓ Removed {node} from the cluster")


@nodes_app.command("token", epilog="Example:  plexspaces nodes token > token && chmod 600 token")
def token(
    data_dir: Annotated[
        str | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Data directory of a node.",
            show_default="that of the only node of a cluster here",
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print the token of the cluster from the data directory of a node on this machine.

    Whoever has it can be a node of the cluster, with all rights that nodes have: keep it as you
    keep a root password.
    """
    loaded = plexspaces_node.ConfigBootstrap.load(config, {"node.data_dir": data_dir})
    path = loaded.node.data_dir / KEPT
    if not path.exists():
        # Of a node with another id, whose directory is beside that of the default one.
        beside = sorted(loaded.node.data_dir.parent.glob(f"*/{KEPT}"))
        if data_dir is not None or len(beside) != 1:
            found = " ".join(str(one.parents[1]) for one in beside)
            raise NotFound(
                f"no node of a cluster has its data in {loaded.node.data_dir}",
                hint="plexspaces nodes token --data-dir DIR"
                + (f", which is one of {found}" if beside else ""),
            )
        path = beside[0]
    text = ClusterToken.read(path).text
    if as_json:
        print_json({"token": text})
    else:
        say(text)
