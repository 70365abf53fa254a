"""Who calls: what the node knows about somebody after it has checked how they prove it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from plexspaces_node.model import DEFAULT_TENANT, full_name, split_name

ALL = "*"
"""Every tenant, and every application."""


class Scope(StrEnum):
    """What a grant allows."""

    ADMIN = "admin"
    """Everything, tokens, secrets and quotas among it."""
    DEPLOY = "deploy"
    """Deploy, stop, start and remove applications, and read."""
    INVOKE = "invoke"
    """Send messages and requests to applications."""
    READ = "read"
    """List and inspect applications, and read their logs."""


class Kind(StrEnum):
    """How somebody has proved who they are."""

    TOKEN = "token"
    CERTIFICATE = "certificate"
    LOCAL = "local"
    """By a unix socket, into which the kernel lets the node's user and root only."""
    ANONYMOUS = "anonymous"
    """Not at all."""
    APPLICATION = "application"
    """An actor on another node of the cluster, which says so."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who calls, and what they have been granted.

    Attributes:
        name: of the grant; for `LOCAL` and `ANONYMOUS` the kind.
        tenant: whose applications they have to do with, `ALL` for every tenant's.
        applications: a pattern as in a shell (``cart-*``) for the names within the tenant.
    """

    kind: Kind
    name: str
    scopes: frozenset[Scope]
    tenant: str
    applications: str = ALL

    @property
    def home(self) -> str:
        """The tenant that a name without one belongs to."""
        return DEFAULT_TENANT if self.tenant == ALL else self.tenant

    def full(self, name: str) -> str:
        """Return the full name that a name means for them; the name is not checked."""
        return full_name(*split_name(name)) if "/" in name else full_name(self.home, name)

    def covers(self, full: str) -> bool:
        """Return whether an application is one of those that they have to do with."""
        tenant, name = split_name(full)
        if self.tenant not in (ALL, tenant):
            return False
        return self.applications == ALL or fnmatchcase(name, self.applications)

    def covers_tenant(self, tenant: str) -> bool:
        """Return whether all applications of a tenant are."""
        return self.tenant in (ALL, tenant) and self.applications == ALL

    def is_of_all(self) -> bool:
        """Return whether nothing on the node is outside of what they have to do with."""
        return self.tenant == ALL and self.applications == ALL


_ADMIN = frozenset({Scope.ADMIN})

LOCAL = Identity(Kind.LOCAL, "local", _ADMIN, ALL)

UNGUARDED = Identity(Kind.ANONYMOUS, "anonymous", _ADMIN, ALL)
"""Whoever calls a node that has no grants yet."""

NOBODY = Identity(Kind.ANONYMOUS, "anonymous", frozenset(), DEFAULT_TENANT, "")
"""Whoever has not said who they are, where that is needed."""
