"""The list of metrics and its documentation."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

from plexspaces_node.node.access.identity import LOCAL, Identity, Kind, Scope
from plexspaces_node.node.metrics import (
    APPLICATIONS,
    DAMAGES,
    METRICS,
    SCRAPES,
    STORE,
    NodeCollector,
    Readings,
    scraped,
    serve_metrics,
)

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"


def test_every_metric_is_documented_with_its_meaning() -> None:
    """The page names exactly what is served, in the same words."""
    rows = [row.split("|")[1:4] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    documented = {name.strip(" `"): meaning.strip() for name, _, meaning in rows}
    served = {name: meaning for name, (meaning, _) in METRICS.items()} | dict(
        (APPLICATIONS, STORE, DAMAGES)
    )
    assert documented == served


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_scrape_when_served_then_it_answers(host: str) -> None:
    """A scrape gets the page, by every kind of address."""
    with serve_metrics(f"{host}:0", Readings(list, lambda: 42, lambda: 7)) as port:
        page = urlopen(f"http://{host}:{port}/metrics", timeout=10).read().decode()
    assert "plexspaces_artifact_store_bytes 42.0" in page
    assert "plexspaces_registry_damage_total 7.0" in page


def test_connections_when_as_many_are_open_as_may_be_then_the_oldest_gives_way() -> None:
    """Whoever only connects takes a bounded number of threads, and keeps no scrape out."""
    with serve_metrics("127.0.0.1:0", Readings(list, lambda: 42, lambda: 0)) as port:
        place = ("127.0.0.1", port or 0)
        silent = [socket.create_connection(place, 10) for _ in range(SCRAPES)]
        page = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        assert "plexspaces_artifact_store_bytes 42.0" in page
        assert silent[0].recv(1) == b""
        for one in silent:
            one.close()


def test_connection_when_it_asks_for_nothing_then_it_is_ended(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One that was forgotten does not hold a thread for ever, and nothing is written of it."""
    with (
        serve_metrics("127.0.0.1:0", Readings(list, lambda: 0, lambda: 0), scrape_s=0.0) as port,
        socket.create_connection(("127.0.0.1", port or 0), 10) as silent,
    ):
        assert silent.recv(1) == b""
    assert capfd.readouterr().err == ""


def _application(name: str) -> Any:
    activity = SimpleNamespace(messages=3, failures=1, compute_ns=2e9, coordinate_ns=1e9)
    return SimpleNamespace(name=name, activity=activity, restarts=0, state="Running")


def test_scrape_when_somebody_has_to_do_with_one_tenant_then_it_has_no_other() -> None:
    """Neither a label nor a count tells that there is another, nor what the node has in all."""
    names = ("cart", "shop/cart", "shop/till", "rival/cart")
    readings = Readings(lambda: map(_application, names), lambda: 42, lambda: 7)
    read = frozenset({Scope.READ})
    shop = Identity(Kind.TOKEN, "prometheus", read, "shop")
    _, page = scraped(readings, shop)
    text = page.decode()
    assert 'plexspaces_messages_total{application="cart",tenant="shop"} 3.0' in text
    assert 'plexspaces_applications{state="Running"} 2.0' in text
    assert not any(word in text for word in ("rival", "default", "store_bytes", "damage"))
    _, page = scraped(readings, Identity(Kind.TOKEN, "one", read, "shop", "till"))
    assert 'application="cart"' not in page.decode()
    _, page = scraped(readings, LOCAL)
    for line in (
        'plexspaces_messages_total{application="cart",tenant="default"} 3.0',
        'plexspaces_messages_total{application="cart",tenant="rival"} 3.0',
        'plexspaces_applications{state="Running"} 4.0',
        "plexspaces_artifact_store_bytes 42.0",
        "plexspaces_registry_damage_total 7.0",
    ):
        assert line in page.decode()


def test_labels_are_those_of_the_page() -> None:
    """As the page says them."""
    rows = [row.split("|")[1:3] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    documented = {name.strip(" `"): set(labels.split(", ")) for name, labels in rows}
    readings = Readings(lambda: [_application("cart")], lambda: 42, lambda: 7)
    for family in NodeCollector(readings).collect():
        for sample in family.samples:
            assert set(sample.labels) == {one.strip() for one in documented[sample.name]} - {""}
