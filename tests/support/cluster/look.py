"""What is in a cluster's buckets, read beside one of its nodes, with what its directory has.

    python -m support.cluster.look DATA_DIR

prints the keys of both, and each placement that there is, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.cluster.node import ClusterNode
from support.patience import patient

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.nats.connection import Connection, Target
from plexspaces_node.node.nats.engine import REGISTRY, STATE
from plexspaces_node.node.nats.jetstream_bucket import JetStreamBucket
from plexspaces_node.node.nats.server_files import APP_USER

_LISTEN = re.compile(r'^listen: "127\.0\.0\.1:(\d+)"$', re.MULTILINE)
_CONNECT_S = 20.0


@dataclass(frozen=True, slots=True)
class Buckets:
    """The keys of both buckets."""

    registry: list[str]
    state: list[str]

    def of_applications(self) -> list[str]:
        """Return the keys that there are for applications, and not for nodes or tenants."""
        kinds = ("app.", "placed.", "status.")
        return [key for key in self.registry if key.startswith(kinds)] + self.state


async def buckets(node: ClusterNode) -> Buckets:
    """Return what a node's NATS server tells of the buckets."""
    argv = [sys.executable, "-m", "support.cluster.look", str(node.data_dir)]
    if node.host is not None:
        argv = node.host.argv(*argv)
    done = await asyncio.to_thread(
        subprocess.run,
        argv,
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
        env=node.environment(),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return Buckets(told[REGISTRY], told[STATE])


def target_of(data_dir: Path) -> Target:
    """Return where the NATS server beside a node is, and what it lets one in with."""
    content = (data_dir / "cluster" / "token").read_text()
    token = ClusterToken.parse(content, source=str(data_dir))
    found = _LISTEN.search((data_dir / "nats" / "server.conf").read_text())
    assert found is not None
    password = token.derive(f"nats {APP_USER}").hex()
    return Target((f"nats://127.0.0.1:{found[1]}",), APP_USER, password)


async def main(data_dir: str) -> None:
    """Print the keys of both buckets as JSON."""
    target = target_of(Path(data_dir))
    async with Connection.opened(lambda: target, name="look") as connection:
        await asyncio.wait_for(connection.session(), _CONNECT_S)
        told = {
            name: [one.key for one in await JetStreamBucket(connection, name).entries("")]
            for name in (REGISTRY, STATE)
        }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
