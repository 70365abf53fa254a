"""What each call of a node needs, in one table, and the one function that decides.

Nothing is looked up for a decision: a refusal tells nothing about what there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from plexspaces_node.node.access.identity import ALL, Identity, Scope


class About(StrEnum):
    """What kind of thing a call is about."""

    NOTHING = "nothing"
    """Nothing that belongs to somebody, or what the caller may see of many things."""
    APPLICATION = "application"
    """One application, or what is to become one: the request's `name`."""
    TENANT = "tenant"
    """What a tenant has, such as its secrets: the request's `tenant`."""
    ARTIFACT = "artifact"
    """What a tenant's applications are deployed from: the request's `tenant`, or the caller's own.

    Who has to do with some of its applications has to do with all of it.
    """
    NODE = "node"
    """What all tenants share."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one call needs.

    Attributes:
        scopes: of which a caller has at least one; None for a call that everybody may make.
        about: what it is about, which the caller must cover.
        changes: whether it changes something, or reads what is worth a line in the audit log.
        public: whether everybody may make it to an application that was deployed so.
    """

    scopes: frozenset[Scope] | None
    about: About = About.NOTHING
    changes: bool = False
    public: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """The thing that one call is about.

    Attributes:
        tenant: `ALL` for what is not one tenant's.
        application: its full name, "" for none.
        is_public: whether the application was deployed so that everybody may send to it.
    """

    tenant: str = ALL
    application: str = ""
    is_public: bool = False


ADMINS = frozenset({Scope.ADMIN})
DEPLOYERS = ADMINS | {Scope.DEPLOY}
READERS = DEPLOYERS | {Scope.READ}
INVOKERS = ADMINS | {Scope.INVOKE}
ANYBODY_KNOWN = frozenset(Scope)

_APPLICATIONS = "plexspaces.node.v1.ApplicationService/"
_CLUSTER = "plexspaces.node.v1.ClusterService/"
_QUOTAS = "plexspaces.node.v1.QuotaService/"
_SECRETS = "plexspaces.node.v1.SecretService/"
_TELEMETRY = "plexspaces.node.v1.TelemetryService/"
_TOKENS = "plexspaces.node.v1.TokenService/"

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        _APPLICATIONS + "InspectNode": Rule(ANYBODY_KNOWN),
        _APPLICATIONS + "FindArtifact": Rule(DEPLOYERS, About.ARTIFACT),
        _APPLICATIONS + "UploadArtifact": Rule(DEPLOYERS, About.ARTIFACT, changes=True),
        _APPLICATIONS + "Deploy": Rule(DEPLOYERS, About.APPLICATION, changes=True),
        _APPLICATIONS + "Undeploy": Rule(DEPLOYERS, About.APPLICATION, changes=True),
        _APPLICATIONS + "Stop": Rule(DEPLOYERS, About.APPLICATION, changes=True),
        _APPLICATIONS + "Start": Rule(DEPLOYERS, About.APPLICATION, changes=True),
        _APPLICATIONS + "Invoke": Rule(INVOKERS, About.APPLICATION, public=True),
        _APPLICATIONS + "List": Rule(READERS),
        _APPLICATIONS + "Inspect": Rule(READERS, About.APPLICATION),
        _APPLICATIONS + "Logs": Rule(READERS, About.APPLICATION),
        _APPLICATIONS + "StartVm": Rule(ADMINS, About.NODE, changes=True),
        _APPLICATIONS + "StopVm": Rule(ADMINS, About.NODE, changes=True),
        _APPLICATIONS + "ListVms": Rule(READERS),
        _APPLICATIONS + "InspectVm": Rule(READERS, About.APPLICATION),
        _APPLICATIONS + "VmConsole": Rule(READERS, About.APPLICATION),
        _CLUSTER + "ListNodes": Rule(READERS),
        _CLUSTER + "DrainNode": Rule(ADMINS, About.NODE, changes=True),
        _CLUSTER + "UndrainNode": Rule(ADMINS, About.NODE, changes=True),
        _CLUSTER + "RemoveNode": Rule(ADMINS, About.NODE, changes=True),
        _QUOTAS + "GetQuota": Rule(READERS, About.TENANT),
        _QUOTAS + "SetQuota": Rule(ADMINS, About.NODE, changes=True),
        _SECRETS + "SetSecret": Rule(ADMINS, About.TENANT, changes=True),
        _SECRETS + "ListSecrets": Rule(ADMINS, About.TENANT, changes=True),
        _SECRETS + "DeleteSecret": Rule(ADMINS, About.TENANT, changes=True),
        "plexspaces.node.v1.AuditService/ReadAudit": Rule(ADMINS, About.TENANT, changes=True),
        _TELEMETRY + "WatchActivity": Rule(READERS),
        _TELEMETRY + "GetActivity": Rule(READERS, About.APPLICATION),
        _TELEMETRY + "ListTraces": Rule(READERS, About.APPLICATION),
        _TELEMETRY + "Advise": Rule(READERS),
        _TOKENS + "CreateToken": Rule(ADMINS, About.TENANT, changes=True),
        _TOKENS + "ListTokens": Rule(ADMINS, About.TENANT, changes=True),
        _TOKENS + "RevokeToken": Rule(ADMINS, About.TENANT, changes=True),
        _TOKENS + "RotateToken": Rule(ADMINS, About.TENANT, changes=True),
        _TOKENS + "WhoAmI": Rule(ANYBODY_KNOWN),
        "grpc.health.v1.Health/Check": Rule(ANYBODY_KNOWN),
        "grpc.health.v1.Health/List": Rule(ANYBODY_KNOWN),
        "grpc.health.v1.Health/Watch": Rule(ANYBODY_KNOWN),
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(ANYBODY_KNOWN),
        # Of HTTP alone; every other route is a method above.
        "HTTP /": Rule(None),
        "HTTP /ui": Rule(None),
        "HTTP /api": Rule(None),
        "HTTP /openapi.json": Rule(None),
        "HTTP /metrics": Rule(READERS),
    }
)
"""Every call, by service and method; a test holds that none is missing."""

INVOKE = _APPLICATIONS + "Invoke"
"""A message, and a request to an HTTP component, however it is sent."""
METRICS = "HTTP /metrics"
UPLOAD_ARTIFACT = _APPLICATIONS + "UploadArtifact"
START_VM = _APPLICATIONS + "StartVm"


def decide(identity: Identity, rule: Rule, target: Target) -> bool:
    """Return whether somebody may make a call about this."""
    if rule.scopes is None or (rule.public and target.is_public):
        return True
    if not identity.scopes & rule.scopes:
        return False
    if rule.about is About.APPLICATION:
        return identity.covers(target.application)
    if rule.about is About.TENANT:
        return identity.applications == ALL and identity.tenant in (ALL, target.tenant)
    if rule.about is About.ARTIFACT:
        return identity.tenant in (ALL, target.tenant)
    return rule.about is not About.NODE or identity.is_of_all()


_REACH: Mapping[Scope, frozenset[Scope]] = MappingProxyType(
    {
        Scope.ADMIN: frozenset(Scope),
        Scope.DEPLOY: frozenset({Scope.DEPLOY, Scope.READ}),
        Scope.INVOKE: frozenset({Scope.INVOKE}),
        Scope.READ: frozenset({Scope.READ}),
    }
)
"""What each scope includes."""


def may_grant(
    identity: Identity, scopes: Collection[Scope], tenant: str, applications: str
) -> bool:
    """Return whether somebody may hand out as much: not more than they have themselves.

    Whether one pattern includes another is not looked at: it is the same one, or theirs is all.
    """
    reach = frozenset[Scope]().union(*(_REACH[each] for each in identity.scopes))
    return (
        reach.issuperset(scopes)
        and identity.tenant in (ALL, tenant)
        and identity.applications in (ALL, applications)
    )
