"""The options and the progress of a deploy, and what can be checked before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from plexspaces_node.api import convert
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import NodeInfo
from plexspaces_node.model import (
    MIB,
    ApplicationSpec,
    Language,
    VmConfig,
    check_name,
    check_vm_size,
)

_NO_DIGEST_YET = "0" * 64


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a deploy.

    Attributes:
        phase: `upload`, `cached` (the node has the artifact), `compile`, `stop` (of the version
            before), `vm` or `load`, which includes the actor's init; in a cluster also `place`
            (which node) and `copy` (to a second node).
        done_bytes: sent so far; only in the phase `upload`.
        total_bytes: to send; only in the phase `upload`.
    """

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0


OnProgress: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """The options of a deploy besides a name and an artifact.

    Attributes:
        language: the artifact's language, or None to detect it from the artifact.
        vcpus: virtual CPUs of the VM, or None for the node's default.
        memory_mib: memory of the VM, or None for the node's default.
        vm_id: an empty VM to deploy into, or "" for a new one.
        request_id: of an earlier deploy whose end was not seen, to be given its answer if it was
            done; "" for a deploy of its own.
        replace: an application of the name is replaced and keeps its state, its keys and values
            and its log; also its size, its environment, its arguments, its concurrency and its
            allowed hosts and its secrets where this names none.
        no_secrets: of the version that is replaced no secrets are kept.
        args: a command's arguments after its name, the same for every message.
        allow_hosts: the hosts that the application may send HTTP requests to, each `HOST` or
            `HOST:PORT`; "none" alone takes away those of the version that is replaced.
        secrets: for each variable whose value is a secret, the name of a secret of the
            application's tenant.
        concurrency: how many messages a command, or requests an HTTP component, handles at the same
            time. None means as many as its VM has vCPUs, for an HTTP component 100.
        replicas: in a cluster, on how many nodes a command or an HTTP component runs; None for one,
            and as it was where it is replaced.
        on: in a cluster, the labels that its nodes must have.
        level: in a cluster, the isolation level of its nodes, "" for any.
    """

    language: Language | None = None
    version: str = convert.DEFAULT_VERSION
    vcpus: int | None = None
    memory_mib: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    vm_id: str = ""
    request_id: str = ""
    replace: bool = False
    no_secrets: bool = False
    args: Sequence[str] = ()
    concurrency: int | None = None
    allow_hosts: Sequence[str] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    public: bool | None = None
    replicas: int | None = None
    on: Mapping[str, str] = field(default_factory=dict)
    level: str = ""


def spec_of(name: str, wish: DeployOptions) -> ApplicationSpec:
    """Return the spec of a deploy, without its digest; raises `InvalidArgument`."""
    if wish.vm_id:
        check_name(wish.vm_id, what="VM id")
    if wish.concurrency == 0:
        raise InvalidArgument("concurrency must be at least 1, not 0", hint="omit it")
    if wish.replicas == 0:
        raise InvalidArgument(
            "replicas must be at least 1, not 0", hint=f"plexspaces stop {name}, or omit it"
        )
    return ApplicationSpec(
        name=name,
        digest=_NO_DIGEST_YET,
        version=wish.version,
        language=wish.language,
        vm_config=size_of(wish, VmConfig()),
        env=dict(wish.env),
        args=tuple(wish.args),
        concurrency=wish.concurrency or 0,
        allow_hosts=tuple(wish.allow_hosts),
        secrets=dict(wish.secrets),
        public=wish.public,
        replicas=wish.replicas or 0,
        on=dict(wish.on),
        level=wish.level,
    )


def size_of(wish: DeployOptions, default: VmConfig) -> VmConfig:
    """Return the size of the VM; `default` fills in what the options do not set."""
    return VmConfig(
        vcpus=default.vcpus if wish.vcpus is None else wish.vcpus,
        memory_mib=default.memory_mib if wish.memory_mib is None else wish.memory_mib,
    )


def check_fits(size_bytes: int, config: VmConfig, node: NodeInfo) -> None:
    """Raise `InvalidArgument` for an artifact or a VM that is too large for a node."""
    if size_bytes > node.artifact_limit_bytes:
        raise InvalidArgument(
            f"the artifact has {size_bytes / MIB:.1f} MiB, "
            f"but the node accepts at most {node.artifact_limit_bytes / MIB:.1f} MiB",
            hint="build it without debug information, or raise the node's artifact limit",
        )
    check_vm_size(
        config,
        min_memory_mib=node.min_memory_mib,
        max_memory_mib=node.max_memory_mib,
        max_vcpus=node.max_vcpus,
    )
