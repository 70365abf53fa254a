"""The gate that every call passes, by gRPC and by HTTP: who is it, and may they?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from plexspaces_node.errors import PermissionDenied, Unauthenticated
from plexspaces_node.model import DEFAULT_TENANT, check_name, split_name
from plexspaces_node.node.access.identity import (
    ALL,
    LOCAL,
    NOBODY,
    UNGUARDED,
    Identity,
    Kind,
    Scope,
)
from plexspaces_node.node.access.pace import Pace
from plexspaces_node.node.access.policy import RULES, About, Rule, Target, decide
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.token_text import PREFIX

BEARER = b"bearer "
"""How the header `authorization` begins that brings a token; in lower case."""

_CREATE = "plexspaces token create --name NAME --scope"
_NEEDED_HINT = f"plexspaces login, with a token made on the node's host: {_CREATE} SCOPE"
_VALID_HINT = "ask an admin for a new one, and keep it with: plexspaces login"
_WEAKEST_FIRST = (Scope.READ, Scope.INVOKE, Scope.DEPLOY, Scope.ADMIN)


def is_token(authorization: bytes | None) -> bool:
    """Return whether a header has the form of a token of a node, this one or another."""
    if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
        return False
    return authorization[len(BEARER) :].strip().lower().startswith(PREFIX.encode())


class Grants(Protocol):
    """The grants of a node, as its gate asks for them; on the event loop, without waiting."""

    def exist(self) -> bool:
        """Return whether there is one, so that callers have to say who they are."""

    def by_token(self, token: bytes) -> Identity | None:
        """Return whose token this is; None for one that is unknown, revoked or expired."""

    def by_certificate(self, name: str) -> Identity | None:
        """Return the grant of the name in a certificate, as `by_token` does."""

    def is_current(self, identity: Identity) -> bool:
        """Return whether an identity, the object that was returned, is still proved."""

    def watch(self, identity: Identity, ended: Callable[[], None]) -> Callable[[], None]:
        """Call `ended` once an identity, the object that was returned, is no longer proved.

        The returned function ends the watch, and may be called twice.
        """


class NoGrants:
    """The grants of a node that has none."""

    def exist(self) -> bool:
        return False

    def by_token(self, token: bytes) -> Identity | None:
        del token
        return None

    def by_certificate(self, name: str) -> Identity | None:
        del name
        return None

    def is_current(self, identity: Identity) -> bool:
        del identity
        return False

    def watch(self, identity: Identity, ended: Callable[[], None]) -> Callable[[], None]:
        del identity, ended
        return lambda: None


class Call:
    """A call that has passed the gate.

    Attributes:
        identity: who makes it.
        name: the full name of the application it is about, "" for none.
        tenant: the tenant it is about; that of the application, or `ALL`.
        object: what it is about, for the audit log, if its request does not say it; else "".
        traceparent: what it says of the trace that it belongs to, unchecked; "" for nothing.
    """

    __slots__ = (
        "_done",
        "_left_s",
        "_peer",
        "identity",
        "name",
        "object",
        "tenant",
        "traceparent",
    )

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        identity: Identity,
        target: Target,
        *,
        peer: str,
        left_s: Callable[[], float | None],
        done: Callable[[Callable[[Any], None]], None],
        traceparent: str = "",
    ) -> None:
        """`done` takes what is called at the end of the call; `left_s` returns its deadline."""
        self.identity = identity
        self.name = target.application
        self.tenant = target.tenant
        self.object = ""
        self.traceparent = traceparent
        self._peer = peer
        self._left_s = left_s
        self._done = done

    def __repr__(self) -> str:
        return f"<Call of {self.identity.name} about {self.name or self.tenant}>"

    def peer(self) -> str:
        """Return the connection that the call came by."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Return how long the caller still waits, in seconds; None for no limit."""
        return self._left_s()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call something once the call has ended and its reply is written."""
        self._done(callback)


class Gate:
    """Tells who calls, and lets through what the policy allows. Used on the event loop.

    Attributes:
        recorder: notes in the audit log what was done, and what was refused.
        pace: how soon somebody unknown is told so.
        is_current: returns whether the token of an identity that this has returned is still valid.
        is_public: returns whether the application of a full name takes messages from everybody.
    """

    def __init__(
        self, grants: Grants, recorder: Recorder, rules: Mapping[str, Rule] = RULES
    ) -> None:
        self.recorder = recorder
        self.pace = Pace()
        # Asked for each request: not by a method that only passes it on.
        self.is_current = grants.is_current
        self._grants = grants
        self._rules = rules
        self.is_public: Callable[[str], bool] = lambda _: False

    def __repr__(self) -> str:
        return f"<Gate with {self._grants!r}>"

    def identify(
        self, authorization: bytes | None, *, certificate: str = "", is_local: bool = False
    ) -> Identity:
        """Return who calls; `NOBODY` for somebody who does not say it.

        `certificate` is the name in a client's certificate that was verified, "" for none. Raises
        `Unauthenticated` for a token that is not valid, and for another way than a token.
        """
        if is_local and not self._is_token_of_ours(authorization):
            return LOCAL
        if not self._grants.exist():
            return UNGUARDED
        if authorization is not None:
            if authorization[: len(BEARER)].lower() != BEARER:
                raise Unauthenticated(
                    "the header authorization does not begin with Bearer", hint=_NEEDED_HINT
                )
            identity = self._grants.by_token(authorization[len(BEARER) :].strip())
            if identity is None:
                raise Unauthenticated(
                    "the token is not valid: unknown, revoked or expired", hint=_VALID_HINT
                )
            return identity
        if certificate:
            identity = self._grants.by_certificate(certificate)
            if identity is None:
                raise Unauthenticated(
                    f"nothing is granted to the certificate {certificate!r}",
                    hint=_hint_for_certificate(certificate),
                )
            return identity
        return NOBODY

    def watch(self, identity: Identity, ended: Callable[[], None]) -> Callable[[], None]:
        """Call `ended` once what proved an identity that this has returned is revoked or expires.

        For what lasts long. The returned function ends the watch, and may be called twice.
        """
        return self._grants.watch(identity, ended)

    def _is_token_of_ours(self, authorization: bytes | None) -> bool:
        """Return whether somebody, who need not, brings a token: to have no more than it has."""
        if authorization is None or not self._grants.exist():
            return False
        return is_token(authorization)

    def rule(self, verb: str) -> Rule:
        """Return what a call needs; raises `KeyError` for one that is not in the policy."""
        return self._rules[verb]

    def check_known(self, rule: Rule, identity: Identity) -> None:
        """Raise `Unauthenticated` for nobody known, before their request is looked at.

        Not for a call that may be about something public.
        """
        if identity is NOBODY and rule.scopes is not None and not rule.public:
            raise _unknown()

    def target(self, rule: Rule, identity: Identity, request: Any) -> Target:
        """Return what a request is about, by the full name that its own name means.

        Raises `InvalidArgument` for a tenant that is none.
        """
        if rule.about is About.APPLICATION:
            return self.target_of(identity.full(request.name))
        if rule.about is About.TENANT:
            tenant = request.tenant or identity.tenant
            if tenant != ALL:
                check_name(tenant, what="tenant")
            return Target(tenant)
        if rule.about is About.ARTIFACT:
            # A stream says it only in its first part: see `ApplicationService.UploadArtifact`.
            tenant = getattr(request, "tenant", "") or identity.home
            check_name(tenant, what="tenant")
            return Target(tenant)
        return Target()

    def target_of(self, full: str) -> Target:
        """Return an application as what a call is about; whether it is public, `check` asks."""
        return Target(split_name(full)[0], full)

    def check(self, verb: str, identity: Identity, target: Target) -> bool:
        """Raise `Unauthenticated` or `PermissionDenied` unless somebody may make a call.

        Returns whether by what they have been granted, which stays so; not because the application
        is public just now.
        """
        rule = self._rules[verb]
        if decide(identity, rule, target):
            return True
        # Only now, for most messages are of somebody who may send them to any application.
        if rule.public and self.is_public(target.application):
            target = replace(target, is_public=True)
            if decide(identity, rule, target):
                return False
        if identity.kind is Kind.ANONYMOUS:
            raise _unknown()
        raise _denied(verb, rule, identity, target)


def _hint_for_certificate(name: str) -> str:
    tenant, slash, rest = name.partition("/")
    if slash:
        return (
            "on the node's host: plexspaces token create "
            f"--name {rest} --scope SCOPE --tenant {tenant}"
        )
    return (
        f"on the node's host: plexspaces token create --name {name} --scope SCOPE; "
        f"for a token of a tenant make another certificate: plexspaces tls client TENANT/{name}"
    )


def _unknown() -> Unauthenticated:
    return Unauthenticated("this node needs a token", hint=_NEEDED_HINT)


def _denied(verb: str, rule: Rule, identity: Identity, target: Target) -> PermissionDenied:
    who, what = f"{identity.kind} {identity.name!r}", verb.rpartition("/")[2]
    assert rule.scopes is not None
    weakest = next(scope for scope in _WEAKEST_FIRST if scope in rule.scopes)
    if not identity.scopes & rule.scopes:
        needed = " or ".join(sorted(rule.scopes))
        # For the same applications: without --tenant it would be for those of `default`.
        own = "" if identity.tenant in (ALL, DEFAULT_TENANT) else f" --tenant {identity.tenant}"
        has = ", ".join(sorted(identity.scopes)) or "none"
        return PermissionDenied(
            f"{who} may not {what}: that needs the scope {needed}, and it has {has}",
            hint=f"ask an admin for a token: {_CREATE} {weakest}{own}",
        )
    about = target.application or (f"tenant {target.tenant!r}" if target.tenant != ALL else "")
    covered = f"tenant {identity.tenant!r}"
    if identity.applications != ALL:
        covered = f"the applications {identity.applications!r} of {covered}"
    tenant = "'*'" if target.tenant == ALL else target.tenant
    return PermissionDenied(
        f"{who} may not {what} {about or 'what all tenants share'}: it is for {covered}",
        hint=f"ask an admin for a token: {_CREATE} {weakest} --tenant {tenant}",
    )
