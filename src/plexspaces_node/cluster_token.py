"""The token of a cluster: the secret that its nodes share, and everything that follows from it.

    pxc_ SECRET CHECK      4 + 43 + 6 characters, letters and digits after the prefix

From it each node derives the same authority, which signs the nodes' certificates, and the same
keys. So a node that has it needs nobody's help to join, and one that has not cannot: whoever has
the token is a node of the cluster, with all rights that nodes have.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plexspaces_node.certificates import Pair, authority_of
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.token_text import SECRET_BYTES, checked_digits, in_checked_digits

VARIABLE = "PLEXSPACES_CLUSTER_TOKEN"
"""The variable of a node's environment that has the token."""

PREFIX = "pxc_"


@dataclass(frozen=True, slots=True)
class ClusterToken:
    """The secret of a cluster."""

    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> ClusterToken:
        """Return one of 256 random bits."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str, *, source: str) -> ClusterToken:
        """Return the token in a text, which is not repeated in errors; `source` is.

        Raises `InvalidArgument`.
        """
        secret = checked_digits(text.strip(), PREFIX)
        if secret is None:
            raise InvalidArgument(
                f"what {source} has is no token of a cluster",
                hint="print it on a machine of the cluster: plexspaces nodes token",
            )
        return cls(secret)

    @property
    def text(self) -> str:
        """The token as users pass it on."""
        return in_checked_digits(self.secret, PREFIX)

    def derive(self, purpose: str, size: int = SECRET_BYTES) -> bytes:
        """Return the key for a purpose; none tells anything about another."""
        info = f"plexspaces-cluster {purpose}".encode()
        return HKDF(SHA256(), length=size, salt=None, info=info).derive(self.secret)

    def authority(self, cluster: str) -> Pair:
        """Return the authority that signs the nodes of this cluster; each node has the same key."""
        return authority_of(f"PlexSpaces cluster {cluster}", self.derive("authority", 48))
