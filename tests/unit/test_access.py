"""Who may do what: the table of the policy, walked entirely, and the gate before every call."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from plexspaces_node.api.generated import (
    application_pb2,
    audit_pb2,
    cluster_pb2,
    quota_pb2,
    secret_pb2,
    telemetry_pb2,
    token_pb2,
)
from plexspaces_node.errors import InvalidArgument, PermissionDenied, Unauthenticated
from plexspaces_node.node.access.audit import Event
from plexspaces_node.node.access.gate import Gate, NoGrants
from plexspaces_node.node.access.identity import (
    ALL,
    LOCAL,
    NOBODY,
    UNGUARDED,
    Identity,
    Kind,
    Scope,
)
from plexspaces_node.node.access.policy import INVOKE, RULES, About, Target, decide, may_grant
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.http.routes import ROUTES

SERVICES = (
    *application_pb2.DESCRIPTOR.services_by_name.values(),
    *cluster_pb2.DESCRIPTOR.services_by_name.values(),
    *quota_pb2.DESCRIPTOR.services_by_name.values(),
    *telemetry_pb2.DESCRIPTOR.services_by_name.values(),
    *secret_pb2.DESCRIPTOR.services_by_name.values(),
    *audit_pb2.DESCRIPTOR.services_by_name.values(),
    *token_pb2.DESCRIPTOR.services_by_name.values(),
    Default().FindServiceByName(health.SERVICE_NAME),
    Default().FindServiceByName(reflection.SERVICE_NAME),
)
METHODS = {
    f"{service.full_name}/{method.name}": method
    for service in SERVICES
    for method in service.methods
}
_A = "plexspaces.node.v1.ApplicationService/"
READS = {_A + name for name in ("Inspect", "InspectVm", "List", "ListVms", "Logs", "VmConsole")}
READS |= {"plexspaces.node.v1.QuotaService/GetQuota", "HTTP /metrics"}
READS |= {"plexspaces.node.v1.ClusterService/ListNodes"}
READS |= {
    f"plexspaces.node.v1.TelemetryService/{name}"
    for name in ("Advise", "GetActivity", "ListTraces", "WatchActivity")
}
DEPLOYS = READS | {
    _A + name for name in ("Deploy", "FindArtifact", "Start", "Stop", "Undeploy", "UploadArtifact")
}
OPEN = {"HTTP /", "HTTP /ui", "HTTP /api", "HTTP /openapi.json"}
ANY = {verb for verb in RULES if verb.startswith("grpc.")} | OPEN | {_A + "InspectNode"}
ANY |= {"plexspaces.node.v1.TokenService/WhoAmI"}
ALLOWED = {
    Scope.ADMIN: set(RULES),
    Scope.DEPLOY: DEPLOYS | ANY,
    Scope.READ: READS | ANY,
    Scope.INVOKE: {INVOKE} | ANY,
}
"""What each scope may, told apart from the table that is tested."""


RECORDER = Recorder(list[Event]().append)


def who(
    *scopes: Scope, tenant: str = "shop", applications: str = ALL, kind: Kind = Kind.TOKEN
) -> Identity:
    return Identity(kind, "ci", frozenset(scopes), tenant, applications)


def target_of(verb: str, tenant: str) -> Target:
    """What a call about something of a tenant is about."""
    match RULES[verb].about:
        case About.APPLICATION:
            return Target(tenant, f"{tenant}/cart")
        case About.TENANT | About.ARTIFACT:
            return Target(tenant)
        case _:
            return Target()


def test_table_when_compared_with_the_services_then_no_method_is_missing() -> None:
    """A method without a rule is a hole, and a rule without a method a mistake."""
    of_http = {verb for verb in RULES if verb.startswith("HTTP ")}
    assert set(RULES) - of_http == set(METHODS)


def test_table_when_compared_with_the_routes_then_each_has_a_rule() -> None:
    """A route is a method under a path."""
    assert {route.verb for route in ROUTES} <= set(RULES)


def test_rule_when_about_something_then_the_request_names_it() -> None:
    """The gate takes the name, or the tenant, from there."""
    field_of = {About.APPLICATION: "name", About.TENANT: "tenant"}
    for verb, method in METHODS.items():
        if field := field_of.get(RULES[verb].about):
            assert field in method.input_type.fields_by_name, verb


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("verb", RULES)
def test_scope_when_a_call_is_made_about_its_own_then_as_the_table_says(
    verb: str, scope: Scope
) -> None:
    """Each scope with each call, about what is the caller's and about another tenant's."""
    rule, target = RULES[verb], target_of(verb, "shop")
    is_node = rule.about is About.NODE
    allowed = verb in ALLOWED[scope]
    assert decide(who(scope, tenant=ALL), rule, target) is allowed
    assert decide(who(scope), rule, target) is (allowed and not is_node)
    about_one = rule.about in (About.APPLICATION, About.TENANT, About.ARTIFACT)
    others = allowed and not is_node and not about_one
    assert decide(who(scope, tenant="rival"), rule, target) is others


@pytest.mark.parametrize("verb", RULES)
def test_nobody_when_a_call_is_made_then_only_what_is_open(verb: str) -> None:
    """A page of documentation, and what was deployed for everybody."""
    rule, target = RULES[verb], target_of(verb, "default")
    assert decide(NOBODY, rule, target) is (verb in OPEN)
    public = Target("default", "cart", is_public=True)
    assert decide(NOBODY, rule, public) is (verb in OPEN or verb == INVOKE)


@pytest.mark.parametrize("verb", RULES)
@pytest.mark.parametrize("identity", [LOCAL, UNGUARDED])
def test_owner_when_a_call_is_made_then_everything_is_allowed(
    verb: str, identity: Identity
) -> None:
    """On the machine itself nothing is in the way."""
    assert decide(identity, RULES[verb], target_of(verb, "shop"))


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("cart-*", "shop/cart-1", True),
        ("cart-*", "shop/cart", False),
        ("cart-*", "shop/my-cart-1", False),
        ("cart-*", "rival/cart-1", False),
        ("cart-*", "cart-1", False),
        ("*", "shop/x", True),
        ("*", "shopx/x", False),
        ("*", "/shop/x", False),
    ],
)
def test_identity_when_asked_then_covers_its_applications_alone(
    pattern: str, name: str, covered: bool
) -> None:
    """By tenant, and by the pattern within it."""
    assert who(Scope.READ, applications=pattern).covers(name) is covered


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("cart", "shop/cart"),
        ("shop/cart", "shop/cart"),
        ("rival/cart", "rival/cart"),
        ("default/cart", "cart"),
        ("default/rival/cart", "rival/cart"),
        ("../rival/cart", "../rival/cart"),
        ("", "shop/"),
    ],
)
def test_name_when_it_tries_to_leave_its_tenant_then_it_is_not_covered(
    given: str, full: str
) -> None:
    """What is decided about is what is looked up."""
    ci = who(Scope.ADMIN)
    assert ci.full(given) == full
    assert ci.covers(full) is full.startswith("shop/")


def test_token_limited_to_applications_when_it_asks_for_its_tenant_then_refused() -> None:
    """Tokens and secrets are of all applications of a tenant."""
    for verb, rule in RULES.items():
        limited = who(Scope.ADMIN, applications="cart-*")
        if rule.about in (About.TENANT, About.NODE):
            assert not decide(limited, rule, target_of(verb, "shop"))


def test_token_limited_to_applications_when_it_uploads_then_to_its_tenant() -> None:
    """It could deploy nothing otherwise; another tenant's artifacts are not its business."""
    limited, rule = who(Scope.DEPLOY, applications="cart-*"), RULES[_A + "FindArtifact"]
    gate = Gate(Grants(), RECORDER)
    for tenant, target in (("", Target("shop")), ("shop", Target("shop"))):
        assert gate.target(rule, limited, SimpleNamespace(tenant=tenant)) == target
        assert decide(limited, rule, target)
    assert not decide(limited, rule, gate.target(rule, limited, SimpleNamespace(tenant="rival")))
    assert gate.target(rule, LOCAL, SimpleNamespace(tenant="")) == Target("default")
    with pytest.raises(InvalidArgument):
        gate.target(rule, LOCAL, SimpleNamespace(tenant="../rival"))


class Grants:
    """One token, and one certificate."""

    def exist(self) -> bool:
        return True

    def by_token(self, token: bytes) -> Identity | None:
        return who(Scope.INVOKE) if token == b"right" else None

    def by_certificate(self, name: str) -> Identity | None:
        return who(Scope.READ, kind=Kind.CERTIFICATE) if name == "ci" else None

    def is_current(self, identity: Identity) -> bool:
        return True

    def watch(self, identity: Identity, ended: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def test_gate_when_the_node_has_no_grants_then_everybody_is_its_owner() -> None:
    """As before the first token."""
    assert Gate(NoGrants(), RECORDER).identify(b"Bearer x") is UNGUARDED


@pytest.mark.parametrize("header", [b"Bearer right", b"bearer right", b"BEARER  right "])
def test_gate_when_a_token_is_right_then_its_grant(header: bytes) -> None:
    """The scheme in any case, as RFC 9110 has it."""
    assert Gate(Grants(), RECORDER).identify(header).scopes == {Scope.INVOKE}


@pytest.mark.parametrize(
    "header", [b"", b"right", b"Basic right", b"Bearer", b"Bearer ", b"Bearer wrong", b"\xff"]
)
def test_gate_when_a_token_is_wrong_then_refused(header: bytes) -> None:
    """Also one that is no token, and though its certificate is right."""
    with pytest.raises(Unauthenticated) as caught:
        Gate(Grants(), RECORDER).identify(header, certificate="ci")
    assert caught.value.hint


def test_gate_when_there_is_no_token_then_by_certificate_by_socket_or_nobody() -> None:
    """A certificate that nothing is granted to is worth nothing."""
    gate = Gate(Grants(), RECORDER)
    assert gate.identify(None, certificate="ci").kind is Kind.CERTIFICATE
    assert gate.identify(None, is_local=True) is LOCAL
    assert gate.identify(b"Bearer of an application's own", is_local=True) is LOCAL
    with pytest.raises(Unauthenticated):
        gate.identify(b"Bearer plx_wrong", is_local=True)
    assert gate.identify(None) is NOBODY
    with pytest.raises(Unauthenticated, match="'cd'"):
        gate.identify(None, certificate="cd")


def test_gate_when_the_owner_brings_a_token_before_there_are_any_then_still_the_owner() -> None:
    """It is of another node, or of one that was."""
    assert Gate(NoGrants(), RECORDER).identify(b"Bearer plx_x", is_local=True) is LOCAL


@pytest.mark.parametrize(
    ("of", "wanted", "allowed"),
    [
        (who(Scope.ADMIN), ({Scope.ADMIN}, "shop", ALL), True),
        (who(Scope.ADMIN), ({Scope.DEPLOY, Scope.INVOKE, Scope.READ}, "shop", "cart-*"), True),
        (who(Scope.ADMIN), ({Scope.READ}, "rival", ALL), False),
        (who(Scope.ADMIN), ({Scope.READ}, ALL, ALL), False),
        (who(Scope.ADMIN, tenant=ALL), ({Scope.ADMIN}, ALL, ALL), True),
        (LOCAL, ({Scope.ADMIN}, "rival", ALL), True),
        (who(Scope.ADMIN, applications="cart-*"), ({Scope.READ}, "shop", ALL), False),
        (who(Scope.ADMIN, applications="cart-*"), ({Scope.READ}, "shop", "c*"), False),
        (who(Scope.ADMIN, applications="cart-*"), ({Scope.READ}, "shop", "cart-*"), True),
        (who(Scope.DEPLOY), ({Scope.READ}, "shop", ALL), True),
        (who(Scope.DEPLOY), ({Scope.INVOKE}, "shop", ALL), False),
        (who(Scope.READ), ({Scope.DEPLOY}, "shop", ALL), False),
        (NOBODY, ({Scope.READ}, "default", ""), False),
    ],
)
def test_grant_when_it_is_more_than_the_granter_has_then_not_allowed(
    of: Identity, wanted: tuple[set[Scope], str, str], allowed: bool
) -> None:
    """In scopes, tenant and applications."""
    assert may_grant(of, *wanted) is allowed


def test_gate_when_it_refuses_then_it_says_what_is_missing_and_not_what_exists() -> None:
    """The same for an application that there is and one that there is not."""
    gate, request = Gate(Grants(), RECORDER), SimpleNamespace(name="rival/cart")
    rule = gate.rule(INVOKE)
    with pytest.raises(PermissionDenied, match=r"'ci' may not Invoke rival/cart.*tenant 'shop'"):
        gate.check(INVOKE, who(Scope.INVOKE), gate.target(rule, who(Scope.INVOKE), request))
    with pytest.raises(PermissionDenied, match="scope admin or invoke, and it has read"):
        gate.check(INVOKE, who(Scope.READ), Target("shop", "shop/cart"))
    with pytest.raises(Unauthenticated):
        gate.check(INVOKE, NOBODY, Target("shop", "shop/cart"))


def test_boundary_when_a_method_has_no_rule_then_it_is_not_served() -> None:
    """A new call that nobody has thought about fails at once."""
    with pytest.raises(KeyError):
        Gate(NoGrants(), RECORDER).rule("plexspaces.node.v1.ApplicationService/New")


def test_gate_when_a_scope_is_missing_then_the_hint_keeps_the_tenant() -> None:
    """A token made without it would be for `default`, where the application is not."""
    gate, identity = Gate(Grants(), RECORDER), who(Scope.DEPLOY)
    with pytest.raises(PermissionDenied) as caught:
        gate.check(_A + "Invoke", identity, Target("shop", "shop/cart"))
    assert str(caught.value.hint).endswith("--scope invoke --tenant shop")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("other", "--name other --scope SCOPE"),
        ("shop/other", "--name other --scope SCOPE --tenant shop"),
    ],
)
def test_gate_when_a_certificate_has_no_token_then_the_hint_makes_that_one(
    name: str, command: str
) -> None:
    """With the tenant, if its name has one."""
    with pytest.raises(Unauthenticated, match="nothing is granted") as caught:
        Gate(Grants(), RECORDER).identify(None, certificate=name)
    assert f"plexspaces token create {command}" in str(caught.value.hint)
