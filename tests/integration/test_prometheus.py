"""Metrics, alerts and the Grafana dashboard against a real Prometheus that scrapes a real node."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import pytest
from support.nodes import builder, with_tls
from support.patience import patient
from support.prometheus import Prometheus, prometheus, promtool, tool
from support.traces import agents_of

from plexspaces_node.certificates import make_authority, make_node_certificate
from plexspaces_node.client import ClientTls, NodeClient
from plexspaces_node.errors import ActorError, PlexSpacesError
from plexspaces_node.model import MIB

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "plexspaces-alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "plexspaces.json"

_NAME = re.compile(r"\b(?:plexspaces_|process_)\w+|\bup\b")
_GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_SELECTED = re.compile(r"(\w+)=~?\"")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_LABEL = re.compile(r"\$labels\.(\w+)")
_THRESHOLD = re.compile(r"\s(?:>|==) [0-9.]+")


class Shop(NamedTuple):
    """A node with TLS, two tenants and what a scraper of all of them has."""

    address: str
    ca: Path
    token: Path
    client: NodeClient


@pytest.fixture
async def shop(tmp_path: Path, probe_wasm: Path) -> AsyncIterator[Shop]:
    authority = make_authority("CA of the test")
    pair = make_node_certificate(authority, ["localhost", "127.0.0.1"])
    ca, token = tmp_path / "ca", tmp_path / "token"
    ca.write_bytes(authority.certificate)
    async with with_tls(builder(tmp_path / "data"), tmp_path, pair).build() as node:
        async with NodeClient(node.address, tls=ClientTls(ca)) as owner:
            admin = (await owner.create_token("root", scopes=["admin"], tenant="*")).secret
        async with NodeClient(node.address, tls=ClientTls(ca), token=admin) as client:
            reader = await client.create_token("prometheus", scopes=["read"], tenant="*")
            token.write_text(reader.secret)
            await client.deploy("shop/cart", probe_wasm)
            await client.deploy("till", probe_wasm)
            await client.set_quota({"messages_per_s": 1000, "memory_mib": 4096}, tenant="shop")
            await client.set_quota({"messages_per_s": 1000}, tenant="shop", application="cart")
            sending = asyncio.create_task(_send(client))
            try:
                yield Shop(node.http_address, ca, token, client)
            finally:
                sending.cancel()


async def _send(client: NodeClient) -> None:
    """Send messages to both, some of which fail, until cancelled."""
    while True:
        for name, kind in (("shop/cart", "e"), ("till", "c"), ("shop/cart", "?"), ("till", "?")):
            with suppress(PlexSpacesError, ActorError):
                await client.invoke(name, type=kind, payload=b"x" * 100)
        await asyncio.sleep(0.01)


@pytest.fixture
async def server(
    shop: Shop, tmp_path: Path, pytestconfig: pytest.Config
) -> AsyncIterator[Prometheus]:
    """A Prometheus with the sample of `deploy/`, which names this node and these files."""
    config = (DEPLOY / "prometheus" / "scrape.yaml").read_text()
    for sample, ours in (
        ("_interval: 15s", "_interval: 1s"),
        ("/etc/prometheus/plexspaces-ca.crt", str(shop.ca)),
        ("/etc/prometheus/plexspaces.token", str(shop.token)),
        ('"node-1.example:8080", "node-2.example:8080"', f'"{shop.address}"'),
    ):
        assert sample in config
        config = config.replace(sample, ours)
    shutil.copy(ALERTS, tmp_path)
    program = tool("prometheus", pytestconfig)
    async with prometheus(program, tmp_path, config) as server:
        yield server


async def test_page_when_promtool_checks_it_then_it_finds_nothing(
    shop: Shop, pytestconfig: pytest.Config
) -> None:
    """Names, units and help of everything that a node with applications serves."""

    def fetch() -> str:
        headers = {"Authorization": f"Bearer {shop.token.read_text()}"}
        context = ssl.create_default_context(cafile=str(shop.ca))
        request = Request(f"https://{shop.address}/metrics", headers=headers)
        with urlopen(request, timeout=10, context=context) as reply:
            text: str = reply.read().decode()
            return text

    await shop.client.invoke("till", type="c")
    text = await asyncio.to_thread(fetch)
    assert 'plexspaces_message_duration_seconds_bucket{application="till"' in text
    await asyncio.to_thread(promtool, pytestconfig, "check", "metrics", given=text)


def test_alerts_when_promtool_checks_and_tries_them_then_they_do_what_they_say(
    pytestconfig: pytest.Config,
) -> None:
    """Each fires where it should and not where it should not; see tests/vectors/alerts.yaml."""
    promtool(pytestconfig, "check", "rules", ALERTS)
    cases = ROOT / "tests" / "vectors" / "alerts.yaml"
    promtool(pytestconfig, "test", "rules", cases)
    names = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    text = cases.read_text()
    silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", text))
    fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n\s+- exp_labels", text))
    assert names == fired == silent


def _targets(dashboard: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target


def _filled(expression: str) -> str:
    """Return an expression as Grafana sends it, with everything chosen."""
    for name, value in (
        ("$__rate_interval", "10s"),
        ("$__range", "5m"),
        ("$instance", ".*"),
        ("$tenant", ".*"),
        ("$application", ".*"),
    ):
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


async def _with_data(server: Prometheus, expression: str) -> list[dict[str, Any]]:
    """Wait until an expression has a number, and return its series."""
    while True:
        found = await server.query(expression)
        if any(math.isfinite(float(one["value"][1])) for one in found):
            return found
        await asyncio.sleep(0.2)


async def _check_names(server: Prometheus, expression: str) -> None:
    names = set(await server.get("label/__name__/values"))
    labels = set(await server.get("labels"))
    assert set(_NAME.findall(expression)) - {"process_"} <= names, expression
    used = set(_SELECTED.findall(expression))
    for group in _GROUPED.findall(expression):
        used |= {one.strip() for one in group.split(",")}
    assert used <= labels, expression


async def test_dashboard_when_prometheus_scrapes_a_node_then_every_panel_has_data(
    shop: Shop, server: Prometheus, tmp_path: Path
) -> None:
    """Scraped with a token and TLS; after a VM was replaced, so that there is a restart."""
    async with asyncio.timeout(patient(30)):
        await _with_data(server, 'plexspaces_vms{state="Running"} == 2')
    for pid in agents_of(tmp_path / "data"):
        os.kill(pid, signal.SIGKILL)
    dashboard = json.loads(DASHBOARD.read_text())
    empty, loop = [], asyncio.get_running_loop()
    until_s = loop.time() + patient(60)
    for title, target in _targets(dashboard):
        expression = _filled(target["expr"])
        try:
            # All that is left, but at least one look.
            async with asyncio.timeout(max(1.0, until_s - loop.time())):
                found = await _with_data(server, expression)
        except TimeoutError:
            empty.append((title, expression))
            continue
        await _check_names(server, expression)
        for label in _PLACEHOLDER.findall(target["legendFormat"]):
            assert any(label in one["metric"] for one in found), (title, label)
    assert empty == []
    for variable in dashboard["templating"]["list"][1:]:
        selector, label = re.fullmatch(
            r"label_values\((.*), (\w+)\)", variable["query"]["query"]
        ).groups()  # type: ignore[union-attr]
        values = await server.get(f"label/{label}/values", match__=_filled(selector))
        assert values, variable["name"]


async def test_alerts_when_prometheus_scrapes_a_node_then_they_have_something_to_compare(
    shop: Shop, server: Prometheus
) -> None:
    """Each is evaluated without an error; without its threshold it has data, and none fires."""
    assert shop.client is not None

    async def rules() -> list[dict[str, Any]]:
        groups = (await server.get("rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async with asyncio.timeout(patient(30)):
        while any(rule["health"] == "unknown" for rule in await rules()):
            await asyncio.sleep(0.2)
    found = await rules()
    assert {rule["name"] for rule in found} == set(
        re.findall(r"- alert: (\w+)", ALERTS.read_text())
    )
    for rule in found:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", "")
        expression = rule["query"].replace('"Failed"', '"Running"')
        async with asyncio.timeout(patient(60)):
            series = await _with_data(server, _THRESHOLD.sub("", expression))
        await _check_names(server, expression)
        for label in _LABEL.findall(json.dumps(rule["annotations"])):
            assert any(label in one["metric"] for one in series), (rule["name"], label)
    firing = [rule["name"] for rule in await rules() if rule["state"] == "firing"]
    assert firing == []


async def test_exemplars_when_prometheus_scrapes_a_node_then_it_has_the_traces(
    shop: Shop, server: Prometheus
) -> None:
    """Of a bucket the trace of its last traced message."""
    begin, metric = time(), "plexspaces_message_duration_seconds_bucket"
    async with asyncio.timeout(patient(30)):
        while not (
            found := await server.get(
                "query_exemplars", query=metric, start=str(begin - 60), end=str(time() + 60)
            )
        ):
            await asyncio.sleep(0.2)
    exemplar = found[0]["exemplars"][0]
    assert re.fullmatch(r"[0-9a-f]{32}", exemplar["labels"]["trace_id"])
    assert 0 < float(exemplar["value"]) < 60
    assert shop.address in json.dumps(found[0]["seriesLabels"])


async def test_quota_that_is_told_is_what_was_set(shop: Shop, server: Prometheus) -> None:
    """In base units, by tenant and by application."""
    assert shop.client is not None
    async with asyncio.timeout(patient(30)):
        found = await _with_data(server, 'plexspaces_quota_limit{key="memory_mib"}')
    assert [float(one["value"][1]) for one in found] == [4096 * MIB]
    assert found[0]["metric"]["unit"] == "bytes"
    assert "application" not in found[0]["metric"]
