"""Hints as a client of HTTP can follow them.

A hint of the node names a command or a flag. Here each that HTTP has too becomes a request, a
header or a member of a body. What only whoever runs the node can do stays as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial

_NAME = r"([\w.-]+(?:/[\w.-]+)?)"
_ONE = "/v1/applications"

_GROUP = re.compile(r"\\(\d)")
_RULES = tuple(
    (re.compile(pattern), said)
    for pattern, said in (
        (r"`(plexspaces [^`]+)`", r"\1"),
        (r"plexspaces login, with a.*", "send Authorization: Bearer TOKEN"),
        (r"plexspaces token create --name NAME --scope (\w+)", r"POST /v1/tokens with scope \1"),
        (r"with scope (\w+) --tenant (\S+)", r"with scope \1 and tenant \2"),
        (r", and keep it with: plexspaces login", ""),
        (r"plexspaces token list", "GET /v1/tokens"),
        (rf"plexspaces token rotate {_NAME}", r"POST /v1/tokens/\1/rotate"),
        (rf"plexspaces stop (?:--name )?{_NAME} --force", rf"POST {_ONE}/\1/stop?force"),
        (rf"plexspaces (stop|start) --name {_NAME}", rf"POST {_ONE}/\2/\1"),
        (rf"plexspaces undeploy --name {_NAME}", rf"DELETE {_ONE}/\1"),
        (rf"plexspaces inspect {_NAME}", rf"GET {_ONE}/\1"),
        (r"plexspaces logs -f", rf"GET {_ONE}/NAME/logs?follow"),
        (rf"plexspaces logs {_NAME}", rf"GET {_ONE}/\1/logs"),
        (r"plexspaces vms console --follow", "GET /v1/vms/NAME/console?follow"),
        (rf"plexspaces vms console {_NAME}", r"GET /v1/vms/\1/console"),
        (rf"plexspaces vms inspect {_NAME}", r"GET /v1/vms/\1"),
        (r"plexspaces vms list", "GET /v1/vms"),
        (
            rf"plexspaces quota show --tenant {_NAME} --application {_NAME}",
            r"GET /v1/quotas?tenant=\1&application=\2",
        ),
        (rf"plexspaces quota show --tenant {_NAME}", r"GET /v1/quotas?tenant=\1"),
        (rf"plexspaces secret list --tenant {_NAME}", r"GET /v1/secrets?tenant=\1"),
        (rf"plexspaces secret set {_NAME} --tenant {_NAME}", r"POST /v1/secrets/\1 for \2"),
        (r"plexspaces audit -f", "GET /v1/audit?follow"),
        (rf"plexspaces start {_NAME}", rf"POST {_ONE}/\1/start"),
        (rf"plexspaces nodes (drain|undrain) {_NAME}", r"POST /v1/nodes/\2/\1"),
        (rf"plexspaces nodes remove {_NAME}", r"DELETE /v1/nodes/\1"),
        (r"plexspaces nodes(?! token)", "GET /v1/nodes"),
        (r"plexspaces list", f"GET {_ONE}"),
        (r"plexspaces deploy …", f"POST {_ONE} with"),
        (r"--env NAME=VALUE", '"env": {"NAME": "VALUE"}'),
        (r"--timeout (\d+|SECONDS)", r"Prefer: wait=\1"),
        (r"--replace\b", '"replace": true'),
        (r"--vcpus (\w+)", r'"config": {"vcpus": \1}'),
        (r"--memory (\w+)", r'"config": {"memory_mib": \1}'),
        (r"--language (\w+)", r'"language": "\1"'),
        (r"--(memory|language|concurrency|name)\b", r'"\1"'),
        (r" with --wasm", ""),
        (
            r"deploy the file again, under any name",
            "upload it first: curl -T app.wasm http://HOST/v1/artifacts/",
        ),
    )
)


@lru_cache(maxsize=256)
def for_http(hint: str) -> str:
    """Return a hint in the words of HTTP."""
    for pattern, said in _RULES:
        hint = pattern.sub(partial(_expanded, said), hint)
    return hint


def _expanded(said: str, found: re.Match[str]) -> str:
    """Put what was found into a text; a full name is one segment of a path."""
    return _GROUP.sub(lambda group: found[int(group[1])].replace("/", "%2F"), said)
