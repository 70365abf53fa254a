"""What all tenants share: one that wants all of it leaves the others some."""

from __future__ import annotations

import pytest

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.access import fair_share
from plexspaces_node.node.access.identity import ALL, LOCAL, NOBODY, Identity, Kind, Scope


def of(tenant: str) -> Identity:
    return Identity(Kind.TOKEN, tenant, frozenset({Scope.READ}), tenant)


@pytest.mark.parametrize(("greedy", "most"), [(1, 50), (2, 33), (3, 25)])
def test_tenants_when_they_want_everything_then_as_much_is_left_as_each_has(
    greedy: int, most: int
) -> None:
    """For the next tenant, whoever that is."""
    share, tenants, in_use = fair_share.calls(100), [str(n) for n in range(greedy)], 0
    got = dict.fromkeys(tenants, 0)
    for _ in range(100):
        for tenant in tenants:
            try:
                share.check(tenant, in_use)
            except ResourceExhausted:
                continue
            share.take(tenant)
            got[tenant] += 1
            in_use += 1
    assert all(abs(each - most) <= 1 for each in got.values())
    share.check("next", in_use)
    for _ in range(got["0"]):
        share.give("0")
    share.check("0", in_use - got["0"])


def test_share_when_it_is_asked_for_by_whoever_looks_after_the_node_then_it_is_theirs() -> None:
    """All of it; and those without a token have one together."""
    share = fair_share.calls(4)
    for _ in range(4):
        share.check(ALL, 3)
        share.take(ALL)
    assert fair_share.tenant_of(LOCAL) == ALL
    assert fair_share.tenant_of(NOBODY) == fair_share.UNKNOWN != fair_share.tenant_of(of("default"))
