"""Of which cluster a node is: what its settings say, and what its data directory remembers.

A node founds its cluster or joins it once. From then on its data directory has the cluster's token,
in which its name is, and the node needs neither flags nor settings. That holds from the beginning:
a node that ends before it has joined, or before its cluster is founded, goes on with that at its
next start, and never founds a second cluster of the same token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.cluster_token import KEPT, ClusterToken
from plexspaces_node.config import CLUSTER_TOKEN_VARIABLE
from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.node.nats import routes
from plexspaces_node.private_file import read_private, replace, write_new
from plexspaces_node.settings import ClusterSection

_ROUTES, _FOUNDING, _OWN = "routes.json", "founding", "node.json"
_KEPT = ("address", "labels")
"""The settings that a node remembers: the others know it by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterIdentity:
    """The cluster that a node belongs to.

    Attributes:
        token: its secret, and its name.
        directory: what the node remembers of it.
        join: HOST:PORT of its servers, that the settings name.
        is_new: nothing is remembered yet; see `keep`.
        founds: this node is its first, and has not said yet that it is founded.
    """

    token: ClusterToken
    directory: Path
    join: tuple[str, ...] = ()
    is_new: bool = False
    founds: bool = False

    @property
    def name(self) -> str:
        """The name of the cluster."""
        return self.token.cluster

    @property
    def routes_file(self) -> Path:
        """Where the addresses of its servers are remembered."""
        return self.directory / _ROUTES

    @classmethod
    def of(
        cls, data_dir: Path, section: ClusterSection, environ: Mapping[str, str]
    ) -> ClusterIdentity | None:
        """Return the cluster of the node with this data directory; None for a node alone.

        Blocks for a few file operations; writes nothing. Raises `InvalidArgument` for a token that
        is missing, unreadable or none, and `WrongState` for settings of another cluster than the
        one that is remembered.
        """
        path = data_dir / KEPT
        kept = path.parent
        join = tuple(filter(None, map(str.strip, section.join.split(","))))
        if path.exists():
            token = ClusterToken.read(path, of_user=True)
            if section.name not in ("", token.cluster):
                raise WrongState(
                    f"the node belongs to the cluster {token.cluster!r}, and cluster.name is "
                    f"{section.name!r}",
                    hint=f"use --cluster {token.cluster}, or another data directory",
                )
            return cls(token=token, directory=kept, join=join, founds=(kept / _FOUNDING).exists())
        if not (section.name or join):
            return None
        given = _given(section, environ)
        if given is None and join:
            raise InvalidArgument(
                f"to join {', '.join(join)} the node needs the token of the cluster",
                hint="print it on a machine of the cluster: plexspaces nodes token; then set "
                f"{CLUSTER_TOKEN_VARIABLE}, or cluster.token_file",
            )
        token = given or ClusterToken.new(section.name)
        if section.name not in ("", token.cluster):
            raise InvalidArgument(
                f"the token is of the cluster {token.cluster!r}, and cluster.name is "
                f"{section.name!r}",
                hint=f"use --cluster {token.cluster}, or print the other one's token there: "
                "plexspaces nodes token",
            )
        return cls(token=token, directory=kept, join=join, is_new=True, founds=not join)

    def keep(self) -> None:
        """Remember it from now on. Blocks for a few file operations.

        Raises `InvalidArgument` if it cannot.
        """
        if not self.is_new:
            return
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if self.founds:
            replace(self.directory / _FOUNDING, b"")
        else:
            self.founded()
            routes.write(self.routes_file, routes.checked(self.join))
        # Last: from then on the rest counts.
        write_new(self.directory / KEPT.name, self.token.text.encode() + b"\n")

    def founded(self) -> None:
        """Remember that there is a cluster. Blocks for a file operation; idempotent."""
        (self.directory / _FOUNDING).unlink(missing_ok=True)

    def own(self, section: ClusterSection, is_given: Callable[[str], bool]) -> ClusterSection:
        """Return the settings with what was given at an earlier start, and remember what is now.

        After `keep`. `is_given` returns whether one, by its key, was set at this start. Blocks for
        a few file operations. Raises `InvalidArgument` for what cannot be read or written.
        """
        path = self.directory / _OWN
        known: dict[str, str] = {}
        if path.exists():
            with suppress(ValueError):
                read = json.loads(read_private(path, what="the node's own settings", of_user=True))
                known = {key: str(read[key]) for key in _KEPT if key in read}
        given = {key: getattr(section, key) for key in _KEPT if is_given(f"cluster.{key}")}
        if given.items() - known.items():
            replace(path, json.dumps(known | given).encode())
        return section.model_copy(update={**known, **given})


def _given(section: ClusterSection, environ: Mapping[str, str]) -> ClusterToken | None:
    """Return the token that the environment or a file has; raises `InvalidArgument`."""
    if text := environ.get(CLUSTER_TOKEN_VARIABLE, ""):
        return ClusterToken.parse(text, source=CLUSTER_TOKEN_VARIABLE)
    if section.token_file is None:
        return None
    return ClusterToken.read(section.token_file)
