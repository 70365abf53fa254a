"""The checks of `plexspaces doctor --security`: what keeps users and applications apart here.

A finding is a fault if it opens what should be closed to anybody, whoever uses the node. It is a
warning if it matters only between applications that do not trust each other, or if somebody else
may have taken care of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.config import Config
from plexspaces_node.doctor.finding import Finding
from plexspaces_node.doctor.host_walls import Host, check_host
from plexspaces_node.doctor.private_files import check_files
from plexspaces_node.doctor.versions import check_versions
from plexspaces_node.node.datadir import DataDirectory

_NETWORK = "Network"
_LEVEL = "Isolation"
_UNIT = "etc/systemd/system/plexspaces.service"
_CONFINED_BY = ("Delegate=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077")
_TLS_HINT = "plexspaces tls init --host NAME, then [tls] certificate and key"


async def examine_security(config: Config, host: Host | None = None) -> list[Finding]:
    """Run the checks; those of the host read what its kernel shows below `host`'s root.

    Takes some 100 ms, for the versions of programs. Changes nothing and never raises for a fault
    of the host. Run it as the node's user or root: others cannot see the node's files.
    """
    return await asyncio.to_thread(_examine, config, host or Host())


def _examine(config: Config, host: Host) -> list[Finding]:
    return [
        *check_host(host),
        *_levels(config),
        *_service(host),
        *check_versions(config),
        *_network(config),
        *check_files(config, host),
    ]


def _levels(config: Config) -> Iterator[Finding]:
    if config.node.isolation == "process":
        detail = "process: all applications share the host's kernel"
        hint = "for applications that do not trust each other: [node] isolation = firecracker"
        yield Finding(_LEVEL, "level", None, detail, hint)
    else:
        detail = f"{config.node.isolation}; `plexspaces doctor` says what works here"
        yield Finding(_LEVEL, "level", True, detail)
    if config.firecracker.no_seccomp:
        detail = "Firecracker runs without its system call filters"
        yield Finding(_LEVEL, "seccomp", False, detail, "[firecracker] no_seccomp = false")


def _service(host: Host) -> Iterator[Finding]:
    unit = host.read(_UNIT)
    if unit is None:
        return
    missing = [line for line in _CONFINED_BY if line not in unit.splitlines()]
    if missing:
        detail = f"/{_UNIT} lacks {', '.join(missing)}"
        yield Finding(_LEVEL, "service", None, detail, "plexspaces install-service --force")
    else:
        yield Finding(_LEVEL, "service", True, f"/{_UNIT} confines the node")


def _network(config: Config) -> Iterator[Finding]:
    named = [("address", config.node.address), ("HTTP", config.http.address)]
    for name, address in named:
        if address:
            yield _listening(config, name, address)
    yield _tokens(config)
    metrics = config.node.metrics_address
    if metrics and not is_loopback(split_address(metrics)[0]):
        detail = f"{metrics}: whoever reaches it reads names and sizes of all applications"
        yield Finding(_NETWORK, "metrics", None, detail, "[node] metrics_address = 127.0.0.1:9100")
    if config.http.cors_origins == "*":
        detail = "every web page may send requests and read replies"
        hint = "[http] cors_origins = https://the.site.you.mean"
        yield Finding(_NETWORK, "origins", None, detail, hint)


def _tokens(config: Config) -> Finding:
    try:
        # A node makes it with its first token, and from then on everybody needs one.
        DataDirectory(config.node.data_dir, "").token_key.stat()
    except PermissionError:
        hint = "sudo plexspaces doctor --security"
        return Finding(_NETWORK, "tokens", None, "this user may not look for them", hint)
    except OSError:
        who = "every user of this host who reaches loopback is admin of the node"
        detail = f"none: until the first one exists, {who}"
        hint = "plexspaces token create --name admin --scope admin"
        return Finding(_NETWORK, "tokens", None, detail, hint)
    detail = "callers need one, except the node's user and root by its unix sockets"
    return Finding(_NETWORK, "tokens", True, detail)


def _listening(config: Config, name: str, address: str) -> Finding:
    if config.tls.certificate is not None:
        told = "TLS" if config.tls.client_ca is None else "TLS, and clients need a certificate"
        return Finding(_NETWORK, name, True, f"{address}: {told}")
    if is_loopback(split_address(address)[0]):
        return Finding(_NETWORK, name, True, f"{address}: reached from this host only")
    if config.node.allow_remote:
        detail = f"{address}: other hosts reach it without TLS, by node.allow_remote"
        return Finding(_NETWORK, name, None, detail, f"if nothing else protects it: {_TLS_HINT}")
    detail = f"{address}: other hosts would reach it without TLS"
    return Finding(_NETWORK, name, False, detail, _TLS_HINT)
