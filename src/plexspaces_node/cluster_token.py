"""The token of a cluster: the secret that its nodes share, and everything that follows from it.

    pxc_ CLUSTER _ SECRET CHECK      43 + 6 letters and digits after the cluster's name

From it each node derives the same authority, which signs the nodes' certificates, and the same
keys. So a node that has it needs nobody's help to join, and one that has not cannot: whoever has
the token is a node of the cluster, with all rights that nodes have.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plexspaces_node.certificates import Pair, authority_of
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import NAME_PATTERN
from plexspaces_node.private_file import read_private
from plexspaces_node.token_text import SECRET_BYTES, checked_digits, in_checked_digits

PREFIX = "pxc_"

KEPT = Path("cluster") / "token"
"""Where a node keeps the token of its cluster, in its data directory."""


@dataclass(frozen=True, slots=True)
class ClusterToken:
    """The secret of a cluster, and its name."""

    secret: bytes = field(repr=False)
    cluster: str = ""

    @classmethod
    def new(cls, cluster: str = "") -> ClusterToken:
        """Return one of 256 random bits."""
        return cls(secrets.token_bytes(SECRET_BYTES), cluster)

    @classmethod
    def read(cls, path: Path, *, of_user: bool = False) -> ClusterToken:
        """Return the token in a file; raises `InvalidArgument`, also as `read_private` does."""
        content = read_private(path, what="the token of the cluster", of_user=of_user)
        return cls.parse(content.decode("latin-1"), source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str) -> ClusterToken:
        """Return the token in a text, which is not repeated in errors; `source` is.

        Raises `InvalidArgument`.
        """
        text = text.strip()
        begin, _, _ = text.rpartition("_")
        secret = checked_digits(text, f"{begin}_")
        cluster = begin.removeprefix(PREFIX)
        is_named = begin.startswith(PREFIX) and NAME_PATTERN.fullmatch(cluster)
        if secret is None or not (is_named or f"{begin}_" == PREFIX):
            raise InvalidArgument(
                f"what {source} has is no token of a cluster",
                hint="print it on a machine of the cluster: plexspaces nodes token",
            )
        return cls(secret, cluster if is_named else "")

    @property
    def text(self) -> str:
        """The token as users pass it on."""
        return in_checked_digits(
            self.secret, f"{PREFIX}{self.cluster}_" if self.cluster else PREFIX
        )

    def derive(self, purpose: str, size: int = SECRET_BYTES) -> bytes:
        """Return the key for a purpose; none tells anything about another."""
        info = f"plexspaces-cluster {purpose}".encode()
        return HKDF(SHA256(), length=size, salt=None, info=info).derive(self.secret)

    def authority(self, cluster: str) -> Pair:
        """Return the authority that signs the nodes of this cluster; each node has the same key."""
        return authority_of(f"PlexSpaces cluster {cluster}", self.derive("authority", 48))
