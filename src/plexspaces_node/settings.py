"""Every setting: its key, its other names, its environment variable, its bounds and its meaning.

`config` loads them. docs/configuration.md lists them; a test compares it with the classes below.

A variable is named ``PLEXSPACES_<SECTION>_<KEY>``. Some settings have other names as well
(`FORMER_KEYS`, `OTHER_VARIABLES`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from plexspaces_node.address import split_address
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import (
    DEFAULT_MESSAGE_LIMIT_BYTES,
    LABEL_PATTERN,
    MAX_MESSAGE_LIMIT_BYTES,
    MIB,
    MOST_LABELS,
    NAME_PATTERN,
    VERSION_PATTERN,
)

PREFIX = "PLEXSPACES_"
FORMER_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "application.name": "installation.name",
        "application.version": "installation.version",
        "node.templates": "qemu.templates",
        "firecracker.kernel_path": "guest.kernel_path",
        "firecracker.rootfs_path": "guest.rootfs_path",
        "firecracker.default_vm.vcpus": "default_vm.vcpus",
        "firecracker.default_vm.memory_mib": "default_vm.memory_mib",
    }
)
"""Former keys and the settings they mean; with their variables they stay valid forever."""
OTHER_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "PLEXSPACES_FIRECRACKER_KERNEL": "guest.kernel_path",
        "PLEXSPACES_FIRECRACKER_ROOTFS": "guest.rootfs_path",
        "PLEXSPACES_FIRECRACKER_BIN": "firecracker.binary_path",
        "FIRECRACKER_NO_SECCOMP": "firecracker.no_seccomp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "otel.endpoint",
    }
)
"""Variables that are not named after a key, and the settings they mean."""

SECRETS_CREDENTIAL = "plexspaces-secrets-key"
"""The systemd credential that is the key of the secrets."""
COMPUTED_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "node.data_dir": "$XDG_DATA_HOME/plexspaces/<node.id>",
        "secrets.key_file": "$XDG_CONFIG_HOME/plexspaces/<node.id>.key",
    }
)
"""Defaults that depend on the environment and on the node's ID, in words."""
DAY_S = 24 * 3600
_CONFIG_SHOW = "`plexspaces config show` lists every setting"


@dataclass(frozen=True, slots=True)
class _Allowed:
    """Marks a setting's type with what it takes, in words, where the type does not say so."""

    words: str


def _valid_address(value: str) -> str:
    split_address(value)
    return value


def _valid_address_or_off(value: str) -> str:
    # The word for a variable, of which an empty one counts as not set.
    return "" if value in ("", "off") else _valid_address(value)


def _valid_collector(value: str) -> str:
    if value in ("", "off"):
        return ""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"{value!r} is not http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.query or parts.fragment:
        # Settings are shown, and headers of the environment are not.
        raise ValueError("user, query and fragment have no place in it; a token goes into a header")
    return value


def _valid_nats(value: str) -> str:
    for each in filter(None, map(str.strip, value.split(","))):
        parts = urlsplit(each)
        if parts.scheme not in ("nats", "tls") or not parts.hostname or parts.path:
            raise ValueError(f"{each!r} is not nats://HOST:PORT or tls://HOST:PORT")
        if parts.username is not None or parts.query or parts.fragment:
            # Settings are shown.
            raise ValueError("user and password have no place in it: see nats.credentials_file")
    return value


def _valid_name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(f"{value!r} does not match {NAME_PATTERN.pattern}")
    return value


def _valid_addresses(value: str) -> str:
    for each in filter(None, map(str.strip, value.split(","))):
        split_address(each)
    return value


def _valid_labels(value: str) -> str:
    labels_of(value)
    return value


def labels_of(value: str) -> dict[str, str]:
    """Return labels as users write them, KEY=VALUE with commas between; raises `ValueError`."""
    labels = {}
    for each in filter(None, map(str.strip, value.split(","))):
        key, equals, text = each.partition("=")
        if not equals or key in labels or not all(map(LABEL_PATTERN.fullmatch, (key, text))):
            raise ValueError(f"{each!r} is not a label KEY=VALUE, or its key stands twice")
        labels[key] = text
    if len(labels) > MOST_LABELS:
        raise ValueError(f"{len(labels)} labels are more than {MOST_LABELS}")
    return labels


def _matching(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} does not match {pattern.pattern}")
        return value

    return AfterValidator(check)


def _each_matching(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        for each in filter(None, map(str.strip, value.split(","))):
            if not pattern.fullmatch(each):
                raise ValueError(f"{each!r} does not match {pattern.pattern}")
        return value

    return AfterValidator(check)


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_ORIGIN = re.compile(r"\*|https?://[^/\s,]+")
_ADDRESS_WORDS = "HOST:PORT or [IPV6]:PORT, port 0 to 65535 (0 takes a free one)"
Name = Annotated[
    str, _matching(NAME_PATTERN), _Allowed("1 to 63 of a-z, 0-9 and -, no - at either end")
]
Version = Annotated[
    str, _matching(VERSION_PATTERN), _Allowed("1 to 64 letters, digits and . _ + -")
]
Address = Annotated[str, AfterValidator(_valid_address), _Allowed(_ADDRESS_WORDS)]
AddressOrOff = Annotated[
    str, AfterValidator(_valid_address_or_off), _Allowed(f'off or "", or {_ADDRESS_WORDS}')
]
HostNames = Annotated[
    str, _each_matching(_HOST_NAME), _Allowed('host names, separated by commas, or ""')
]
OriginsOrAny = Annotated[
    str,
    _each_matching(_ORIGIN),
    _Allowed('origins such as https://example.com, separated by commas, or *, or ""'),
]
CollectorUrl = Annotated[
    str,
    AfterValidator(_valid_collector),
    _Allowed('off or "", or http://HOST:PORT or https://HOST:PORT, with a path if need be'),
]
NameOrNone = Annotated[
    str,
    AfterValidator(lambda value: value and _valid_name(value)),
    _Allowed('1 to 63 of a-z, 0-9 and -, no - at either end, or ""'),
]
Addresses = Annotated[
    str, AfterValidator(_valid_addresses), _Allowed('HOST:PORT, with commas between, or ""')
]
Text = Annotated[str, _Allowed("any text")]
Labels = Annotated[
    str, AfterValidator(_valid_labels), _Allowed('KEY=VALUE, with commas between, or ""')
]
NatsUrls = Annotated[
    str,
    AfterValidator(_valid_nats),
    _Allowed('nats://HOST:PORT or tls://HOST:PORT, with commas between, or ""'),
]
Isolation = Literal["auto", "firecracker", "qemu", "process"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]


class Section(BaseModel):
    """Base of the sections: immutable, of exact types, without unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _setting(default: object, meaning: str) -> Any:
    return Field(default=default, description=meaning)


def _number(default: float, low: float, high: float, meaning: str) -> Any:
    return Field(default=default, ge=low, le=high, description=meaning)


class InstallationSection(Section):
    """``[installation]``: labels of this installation, shown by `config show`."""

    name: Name = _setting("plexspaces-node", "Name of this installation.")
    version: Version = _setting("0.1.0", "Version of this installation.")


class NodeSection(Section):
    """``[node]``: the daemon."""

    id: Name = _setting("node-1", "Node ID; part of the default data directory.")
    address: Address = _setting(
        "127.0.0.1:9000", "Address the node listens on and the other commands connect to."
    )
    isolation: Isolation = _setting(
        "auto", "Isolation level; `auto` selects the strongest that works on this host."
    )
    data_dir: Path = Field(description="Data directory.")
    allow_remote: bool = _setting(
        False,
        "Let the node listen on an address that is not loopback without TLS and without tokens: "
        "something else protects the ports.",
    )
    grace_s: float = _number(10.0, 0, 3600, "How long running messages have to finish on shutdown.")
    log_level: LogLevel = _setting("info", "Lowest level shown in the node's own log.")
    log_format: LogFormat = _setting(
        "auto", "Format of the node's own log; `auto` is console on a terminal, else json."
    )
    cgroups: bool = _setting(
        True,
        "Put each application's VM into a cgroup, so that CPU shares and quotas hold; only where "
        "the node has a cgroup v2 that is delegated to it.",
    )
    metrics_address: AddressOrOff = _setting(
        "", "Address that serves Prometheus metrics over HTTP."
    )


class HttpSection(Section):
    """``[http]``: the port for messages with curl, browsers and webhooks."""

    address: AddressOrOff = _setting(
        "127.0.0.1:8080", "Address that serves applications and the control API over HTTP."
    )
    hosts: HostNames = _setting(
        "",
        "Additional host names of the node, separated by commas; localhost, *.localhost "
        "and loopback addresses always work.",
    )
    cors_origins: OriginsOrAny = _setting(
        "",
        "Origins whose web pages may send requests and read replies, separated by commas; `*` is "
        "any.",
    )
    access_log: bool = _setting(False, "Log every HTTP request.")


class TlsSection(Section):
    """``[tls]``: the certificate of both ports; without one they do not speak TLS."""

    certificate: Path | None = _setting(
        None, "PEM file of the node's certificate, with its chain; both ports speak TLS then."
    )
    key: Path | None = _setting(None, "PEM file of its private key, which only its owner may read.")
    client_ca: Path | None = _setting(
        None,
        "PEM file of authorities; clients then need a certificate that one of them has signed.",
    )


class LimitsSection(Section):
    """``[limits]``: the bounds that keep one application from harming the others."""

    artifact_bytes: int = _number(128 * MIB, 1, 1024 * MIB, "Largest artifact accepted.")
    unused_artifact_bytes: int = _number(
        2048 * MIB,
        0,
        MIB * MIB,
        "Disk space for unused artifacts, including their native code; beyond it the least "
        "recently used one is removed.",
    )
    message_bytes: int = _number(
        DEFAULT_MESSAGE_LIMIT_BYTES,
        1,
        MAX_MESSAGE_LIMIT_BYTES,
        "Largest message and largest reply. Each takes up to three times its size in the node "
        "while in flight.",
    )
    message_timeout_s: float = _number(
        30.0, 0.001, DAY_S, "Timeout of a message whose sender sets none."
    )
    deploy_timeout_s: float = _number(120.0, 0.1, DAY_S, "Timeout of a deploy, without its upload.")
    compile_timeout_s: float = _number(300.0, 0.1, DAY_S, "Timeout of a compilation.")
    compile_memory_mib: int = _number(4096, 256, MIB, "Memory limit of the compiler, in MiB.")
    mailbox: int = _number(1024, 1, 1_000_000, "Messages in flight for one application.")
    log_bytes: int = _number(2 * MIB, 4096, 1024 * MIB, "Log kept on disk for each application.")
    audit_bytes: int = _number(
        64 * MIB, MIB, 16 * 1024 * MIB, "Audit log kept on disk; the oldest lines are removed."
    )
    keyvalue_bytes: int = _number(
        64 * MIB,
        0,
        16 * 1024 * MIB,
        "Size limit of an application's keys and values; each row counts as its value, twice its "
        "key and 32 bytes; above 2048 bytes that is rounded up to pages of 4096.",
    )
    registry_bytes: int = _number(
        16 * 1024 * MIB,
        MIB,
        MIB * MIB,
        "Disk space for the keys and states of all applications together.",
    )
    snapshot_interval_s: float = _number(
        1.0, 0.01, DAY_S, "Minimum time between two snapshots of an actor."
    )
    applications: int = _number(100, 1, 10_000, "Maximum number of applications on the node.")
    empty_vms: int = _number(32, 0, 10_000, "Maximum number of empty VMs on the node.")
    memory_mib: int = _number(
        0,
        0,
        MIB * MIB,
        "Memory of all VMs together, in MiB; 0 means the host's memory, or four times that at "
        "`process`.",
    )
    in_flight_bytes: int = _number(
        0,
        0,
        MIB * MIB,
        "Messages and replies in flight, of all applications together; 0 means a 64th of the "
        "host's memory, at least 64 MiB. Each takes up to three times its size.",
    )
    calls: int = _number(
        10_000,
        16,
        1_000_000,
        "Calls that the node handles at once, including followed logs; of one tenant no more than "
        "are left.",
    )


class SecretsSection(Section):
    """``[secrets]``: the key under which secrets are encrypted; see docs/secrets.md."""

    key_file: Path = Field(
        description="Key of the secrets, outside of the data directory; made with the first "
        f"secret. The systemd credential `{SECRETS_CREDENTIAL}` is used instead if there is one."
    )
    passphrase: bool = _setting(
        False, "Make the key of a passphrase that is asked for when the node starts."
    )


class DefaultVmSection(Section):
    """``[default_vm]``: the size of a VM if a deploy does not set one."""

    vcpus: int = _number(1, 1, 32, "Virtual CPUs of a VM.")
    memory_mib: int = _number(
        256, 64, MIB, "Memory of a VM, in MiB; with QEMU or Firecracker at least 80."
    )


class GuestSection(Section):
    """``[guest]``: the image that QEMU and Firecracker boot."""

    kernel_path: Path = _setting(Path("/var/lib/firecracker/vmlinux"), "Kernel of the guest.")
    rootfs_path: Path = _setting(
        Path("/var/lib/firecracker/rootfs.erofs"), "Root file system of the guest."
    )


class QemuSection(Section):
    """``[qemu]``: the level `qemu`."""

    templates: bool = _setting(
        True, "Start VMs as copies of a booted template; otherwise each one boots."
    )


class FirecrackerSection(Section):
    """``[firecracker]``: the level `firecracker`."""

    binary_path: Path | None = _setting(
        None, "The `firecracker` program; by default the one on `PATH`."
    )
    no_seccomp: bool = _setting(
        False, "Run Firecracker without its seccomp filters, which weakens the isolation."
    )


class OtelSection(Section):
    """``[otel]``: traces for a collector of OpenTelemetry; see docs/tracing.md."""

    endpoint: CollectorUrl = _setting(
        "",
        "Collector that takes traces by OTLP over HTTP; /v1/traces is added to it. Needs the extra "
        "`otel`.",
    )
    sample: float = _number(
        0.01,
        0,
        1,
        "Share of messages that are traced, besides the first of an application in 100 ms and "
        "those whose traceparent asks for it.",
    )


class ClusterSection(Section):
    """``[cluster]``: other nodes that this one works with; see docs/cluster.md."""

    name: NameOrNone = _setting(
        "", "Cluster that the node founds at its first start, or has founded or joined."
    )
    join: Addresses = _setting(
        "", "Nodes of the cluster that the node joins at its first start: their cluster.address."
    )
    token_file: Path | None = _setting(
        None,
        "File with the cluster's token, which only its owner may read; needed once, to join. The "
        "variable PLEXSPACES_CLUSTER_TOKEN may have the token instead.",
    )
    address: Address = _setting(
        "127.0.0.1:9400",
        "Address for the NATS servers of other nodes; the two ports after it are for the other "
        "nodes themselves.",
    )
    labels: Labels = _setting("", "Labels of the node, which a deploy can ask for.")


class NatsSection(Section):
    """``[nats]``: a NATS that the cluster uses instead of servers beside its nodes."""

    url: NatsUrls = _setting("", "Servers; without one the node runs its own.")
    user: Text = _setting("", "User there, if it asks for one.")
    password_file: Path | None = _setting(
        None, "File with the user's password, which only its owner may read."
    )
    credentials_file: Path | None = _setting(
        None, "Credentials file as `nsc` makes them, which only its owner may read."
    )
    ca_file: Path | None = _setting(
        None, "PEM file of the authority of its certificates; by default those of the host."
    )


class Settings(Section):
    """All sections; `Config` is this, loaded from its sources."""

    installation: InstallationSection = InstallationSection()
    node: NodeSection
    http: HttpSection = HttpSection()
    tls: TlsSection = TlsSection()
    limits: LimitsSection = LimitsSection()
    secrets: SecretsSection
    default_vm: DefaultVmSection = DefaultVmSection()
    guest: GuestSection = GuestSection()
    qemu: QemuSection = QemuSection()
    firecracker: FirecrackerSection = FirecrackerSection()
    otel: OtelSection = OtelSection()
    cluster: ClusterSection = ClusterSection()
    nats: NatsSection = NatsSection()


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, as messages and documentation describe it.

    Attributes:
        key: dotted, as in ``limits.message_bytes``.
        variable: its environment variable.
        default: the value, or a text for one that depends on the environment.
        allowed: the values it takes, in words.
        meaning: one or two sentences.
    """

    key: str
    variable: str
    default: object
    allowed: str
    meaning: str
    annotation: Any


@cache
def settings() -> Mapping[str, Setting]:
    """Every setting by its dotted key, in the order of the documentation."""
    return MappingProxyType({setting.key: setting for setting in _walk(Settings, "")})


def variable_of(key: str) -> str:
    """Return the environment variable of a dotted key, also of a former one."""
    return PREFIX + key.upper().replace(".", "_")


@cache
def keys_of_variables() -> Mapping[str, str]:
    """Return the setting of every variable, regular or not."""
    regular = {setting.variable: key for key, setting in settings().items()}
    former = {variable_of(former): key for former, key in FORMER_KEYS.items()}
    return MappingProxyType({**regular, **former, **OTHER_VARIABLES})


def every_key() -> dict[str, str]:
    """Return the current key of every key, former ones included."""
    return {**{key: key for key in settings()}, **FORMER_KEYS}


def current_key(key: str) -> str:
    """Return the current key of a setting. Raises `InvalidArgument` for a key that is unknown."""
    keys = every_key()
    if key not in keys:
        raise unknown_name("setting", key, keys)
    return keys[key]


def current_keys(names: Iterable[str], *, place: str = "") -> dict[str, str]:
    """Return the current key of each key given in one source.

    Raises `InvalidArgument` for a key that is unknown, and for two keys of one setting. `place`
    says in the message where they are.
    """
    keys = {name: current_key(name) for name in names}
    for (name, key), (other, other_key) in combinations(keys.items(), 2):
        if key == other_key:
            raise InvalidArgument(
                f"{name} and {other}{place} are the same setting", hint=f"keep only {key}"
            )
    return keys


def _walk(section: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, f"{key}.")
            continue
        yield Setting(
            key=key,
            variable=variable_of(key),
            default=COMPUTED_DEFAULTS.get(key, field.default),
            allowed=_allowed(field),
            meaning=field.description or "",
            annotation=field.annotation,
        )


def _allowed(field: FieldInfo) -> str:
    for mark in field.metadata:
        if isinstance(mark, _Allowed):
            return mark.words
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    if field.annotation is bool:
        return "true or false"
    if field.annotation in (int, float):
        low = next(mark.ge for mark in field.metadata if hasattr(mark, "ge"))
        high = next(mark.le for mark in field.metadata if hasattr(mark, "le"))
        return f"a {'whole ' if field.annotation is int else ''}number from {low} to {high}"
    return "a path: absolute, relative, or beginning with ~/"


def unknown_name(
    what: str, word: str, known: Mapping[str, str], *, place: str = ""
) -> InvalidArgument:
    """Return the error for an unknown name.

    `known` maps each known name to its current one, so that the hint never shows a former name.
    """
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]
    return InvalidArgument(
        f"unknown {what} {word!r}{place}",
        hint=f"the closest known name is {known[nearest]}; {_CONFIG_SHOW}",
    )
