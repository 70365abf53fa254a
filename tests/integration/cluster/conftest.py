"""Networks of their own for the tests of several nodes."""

from __future__ import annotations

import pytest
from support.cluster import network as networks


@pytest.fixture
def own_network(pytestconfig: pytest.Config) -> None:
    """Only where there can be one."""
    networks.require(pytestconfig)
