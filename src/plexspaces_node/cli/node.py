"""The command `start-node`: a node in the foreground, and its reaction to signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from getpass import getpass
from typing import TYPE_CHECKING, Annotated

import typer

import plexspaces_node
from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.cli import node_log
from plexspaces_node.cli.options import ConfigFile, IsolationOption
from plexspaces_node.cli.output import note, print_fields, say
from plexspaces_node.cli.status import DONE, FAILED, status_of_signal
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.api import descriptors
from plexspaces_node.node.secrets import core_files
from plexspaces_node.systemd.notify import ServiceManager
from plexspaces_node.systemd.unit import stop_limit_s

if TYPE_CHECKING:
    from plexspaces_node.config import Config
    from plexspaces_node.info import ClusterInfo
    from plexspaces_node.node.builder import NodeBuilder
    from plexspaces_node.node.node import Node

app = typer.Typer()

_PASSPHRASE_BYTES = 4096
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Cluster that the node founds, or belongs to.", show_default=False
    ),
]
_Join = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...",
        help="Nodes of the cluster to join; its token is in PLEXSPACES_CLUSTER_TOKEN.",
        show_default=False,
    ),
]
_ClusterAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address for other nodes; the two ports after it are used as well.",
        show_default="127.0.0.1:9400",
    ),
]
_Label = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Label of the node, which a deploy can ask for; may be repeated.",
        show_default=False,
    ),
]
_Nats = Annotated[
    str | None,
    typer.Option(
        metavar="URL,...",
        help="NATS servers to use instead of one beside the node.",
        show_default=False,
    ),
]


@app.command("start-node", epilog="Example:  plexspaces start-node --node-id my-node")
def start_node(  # noqa: PLR0913 - a command has a parameter for each of its flags
    node_id: Annotated[
        str | None,
        typer.Option("--node-id", metavar="ID", help="Node ID.", show_default="node-1"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Address to listen on.", show_default="127.0.0.1:9000"
        ),
    ] = None,
    config: ConfigFile = None,
    isolation: IsolationOption = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Data directory.",
            show_default="~/.local/share/plexspaces/ID",
        ),
    ] = None,
    cluster: _Cluster = None,
    join: _Join = None,
    cluster_address: _ClusterAddress = None,
    label: _Label = None,
    nats: _Nats = None,
    passphrase_fd: Annotated[
        int | None,
        typer.Option(
            "--passphrase-fd",
            metavar="N",
            min=0,
            help="Read the passphrase of the secrets from this file descriptor.",
            show_default="asked for if [secrets] passphrase is set",
        ),
    ] = None,
) -> None:
    """Start an empty node; Ctrl-C stops it gracefully, a second one at once."""
    core_files.forbid()
    flags = {
        "node.id": node_id,
        "node.address": address,
        "node.isolation": isolation,
        "node.data_dir": data_dir,
        "cluster.name": cluster,
        "cluster.join": join,
        "cluster.address": cluster_address,
        "cluster.labels": ",".join(label) if label else None,
        "nats.url": nats,
    }
    loaded = plexspaces_node.ConfigBootstrap.load(config, flags)
    loaded.check_listen()
    descriptors.raise_limit()
    with node_log.to_stderr(loaded.node.log_level, loaded.node.log_format):
        say(f"Starting empty PlexSpaces node: {loaded.node.id}")
        builder = plexspaces_node.NodeBuilder(loaded.node.id).with_config(loaded)
        if (passphrase := _passphrase(loaded, passphrase_fd)) is not None:
            builder.with_passphrase(passphrase)
        manager = ServiceManager.of(os.environ)
        status = asyncio.run(_Service(builder, manager, stop_limit_s(loaded.node.grace_s)).run())
    if status:
        raise typer.Exit(status)


def _passphrase(config: Config, descriptor: int | None) -> str | None:
    """Return the passphrase of the secrets, None if there is none or nobody can be asked."""
    if descriptor is not None:
        try:
            with open(descriptor, "rb") as file:
                given = file.read(_PASSPHRASE_BYTES)
        except OSError as error:
            raise InvalidArgument(
                f"the passphrase cannot be read from file descriptor {descriptor}: "
                f"{error.strerror}",
                hint="plexspaces start-node --passphrase-fd 3 3< FILE",
            ) from error
        return given.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    if config.secrets.passphrase and sys.stdin.isatty():
        return getpass("Passphrase of the secrets: ")
    return None


class _Service:
    """A node from start to end: the first signal drains it, the second ends it at once."""

    def __init__(self, builder: NodeBuilder, manager: ServiceManager, stop_s: float) -> None:
        self._builder = builder
        self._manager = manager
        self._stop_s = stop_s
        self._node: Node | None = None
        self._stop = asyncio.Event()
        self._status = DONE
        self._serving: asyncio.Task[None] | None = None
        self._aborting: asyncio.Task[None] | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._serving = loop.create_task(self._serve())
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            # Only a signal cancels it, and the exit status says which.
            with self._manager.kept_informed(), suppress(asyncio.CancelledError):
                await self._serving
            if self._aborting is not None:
                await self._aborting
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        return self._status

    async def _serve(self) -> None:
        async with self._builder.build() as node:
            self._node = node
            cluster = await node.clustering.describe() if node.clustering else None
            _announce(node, cluster)
            self._manager.ready(f"serving at {node.address}, isolation level {node.isolation}")
            await self._stop.wait()
            self._manager.stopping("waiting for running messages", within_s=self._stop_s)
            note("stopping: waiting for running messages (Ctrl-C again to stop at once)")
            if not await node.drain():
                self._status = FAILED
                note("some applications could not be stopped and saved: see the log")
        note("stopped")

    def _on_signal(self, number: signal.Signals) -> None:
        assert self._serving is not None
        if self._node is not None and not self._stop.is_set():
            self._stop.set()
            return
        self._status = status_of_signal(number)
        if self._node is None:
            self._serving.cancel()
        elif self._aborting is None:
            self._aborting = asyncio.get_running_loop().create_task(self._abort(self._node))

    async def _abort(self, node: Node) -> None:
        assert self._serving is not None
        await node.abort()
        self._serving.cancel()


def _announce(node: Node, cluster: ClusterInfo | None) -> None:
    say(f"✓ {'Empty node' if node.is_empty else 'Node'} started successfully")
    say(f"  Node ID: {node.id}")
    say("  Node is ready to accept deployments via ApplicationService")
    address = f"{node.address} (TLS)" if node.speaks_tls else node.address
    fields = [("Address", address), ("Isolation", f"{node.isolation}: {node.isolation_note}")]
    if node.http_address:
        fields.append(("HTTP", f"{'https' if node.speaks_tls else 'http'}://{node.http_address}"))
    elif node.http_fault:
        fields.append(("HTTP", f"off ({node.http_fault})"))
    if node.is_unguarded:
        here = is_loopback(split_address(node.address)[0])
        who = "every user of this host" if here else "everybody who reaches a port"
        fields.append(("Access", f"{who}, for no token exists (plexspaces token create)"))
    if cluster is not None:
        fields.append(("Cluster", _cluster_line(cluster)))
    if node.recovered:
        fields.append(("Restarting", ", ".join(node.recovered)))
    print_fields(fields)


def _cluster_line(cluster: ClusterInfo) -> str:
    """Return the cluster, how many nodes it has, and how others join it."""
    up = sum(one.state == "up" for one in cluster.nodes)
    own = next((one for one in cluster.nodes if one.id == cluster.answered_by), None)
    if not up:
        return f"{cluster.cluster}, of which no majority is reached yet; its actors wait"
    how = f"; others join with --join {own.route}" if own is not None and own.route else ""
    return f"{cluster.cluster}, {up} of {len(cluster.nodes)} nodes up{how}"
