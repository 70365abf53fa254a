"""The data model: frozen records, enumerations and the tables of legal states.

This module defines the terms that all folders share. It does no I/O and imports nothing but
`errors` and `allowed_hosts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from plexspaces_node.allowed_hosts import AllowedHosts
from plexspaces_node.errors import InvalidArgument

MIB = 1024 * 1024

ENGINE = "wasmtime 48.0.8"
"""The engine that compiles and runs artifacts, as in agent/Cargo.lock."""

ENGINE_REVISION = 1
"""Raise it whenever something that native code depends on changes: `settings` in
agent/src/settings.rs, or such a feature of wasmtime in agent/Cargo.toml and
agent/compile/Cargo.toml. It is part of the key of native code."""

DEFAULT_MESSAGE_LIMIT_BYTES = 16 * MIB
MAX_MESSAGE_LIMIT_BYTES = 256 * MIB
"""The largest limit that a node can be given. Every process that handles a message holds all of it
in memory."""

NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DEFAULT_TENANT = "default"
"""The tenant of an application whose name has none before it."""
VERSION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
SECRET_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
TRACE_ID_PATTERN = re.compile(r"[0-9a-f]{32}")
ENV_NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")

ENVIRONMENT_LIMIT_BYTES = 128 * 1024
"""The maximum length of an application's variables and arguments together, in bytes of UTF-8."""
LABEL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""The key and the value of a node's label."""
MOST_LABELS = 16
"""How many labels a node may have, and how many a deploy may ask for."""
MOST_REPLICAS = 64
MOST_SECRETS_USED = 64
"""How many secrets one application can use."""
MAX_CONCURRENCY = 1024
"""The maximum number of messages that one command can handle at the same time."""
HTTP_CONCURRENCY = 100
"""How many requests an HTTP component handles at the same time, by default."""

PLATFORM_VARIABLES = (
    *("PLEXSPACES_MESSAGE_TYPE", "PLEXSPACES_SENDER"),
    *("PLEXSPACES_MESSAGE_LIMIT", "PLEXSPACES_STATE_BYTES"),
)
"""Variables that the platform sets in an application's environment and a user cannot: for a command
about each message, for an actor about the memory it must have ready. `TRACEPARENT` is not among
them: it is OpenTelemetry's, and one that a user set stays."""


class Language(StrEnum):
    """The languages that an application can be written in."""

    RUST = "rust"
    TYPESCRIPT = "typescript"
    GO = "go"
    PYTHON = "python"
    UNKNOWN = "unknown"


LANGUAGES = tuple(language for language in Language if language is not Language.UNKNOWN)
"""The languages that a user can name."""

LEVELS = ("firecracker", "qemu", "process")
"""The isolation levels, strongest first: the order in which `auto` tries them."""


class ArtifactKind(StrEnum):
    """How an artifact is run."""

    ACTOR = "actor"
    """A component that exports the actor contract."""
    COMMAND = "command"
    """A core module with `_start`: WASI preview 1."""
    COMMAND_COMPONENT = "command-component"
    """A component that exports `wasi:cli/run`: WASI 0.2 or 0.3."""
    HTTP_COMPONENT = "http-component"
    """A component that exports `wasi:http/incoming-handler` 0.2 or `wasi:http/handler` 0.3."""


class ApplicationState(StrEnum):
    """The state of an application."""

    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    FAILED = "Failed"


APPLICATION_TRANSITIONS: dict[ApplicationState, frozenset[ApplicationState]] = {
    ApplicationState.STARTING: frozenset(
        {
            ApplicationState.RUNNING,
            ApplicationState.RESTARTING,
            ApplicationState.STOPPING,
            ApplicationState.FAILED,
        }
    ),
    # Failed at once only through a bug of the node.
    ApplicationState.RUNNING: frozenset(
        {ApplicationState.RESTARTING, ApplicationState.STOPPING, ApplicationState.FAILED}
    ),
    ApplicationState.RESTARTING: frozenset(
        {ApplicationState.STARTING, ApplicationState.STOPPING, ApplicationState.FAILED}
    ),
    # Running again if its state cannot be saved.
    ApplicationState.STOPPING: frozenset({ApplicationState.STOPPED, ApplicationState.RUNNING}),
    # Failed again if its next version did not start and it had failed before.
    ApplicationState.STOPPED: frozenset({ApplicationState.STARTING, ApplicationState.FAILED}),
    ApplicationState.FAILED: frozenset({ApplicationState.STARTING, ApplicationState.STOPPING}),
}
"""The only legal transitions. Undeploy removes an application from any state once its VM is
gone."""


class VmState(StrEnum):
    """The state of a VM."""

    STARTING = "Starting"
    EMPTY = "Empty"
    RUNNING = "Running"
    STOPPING = "Stopping"
    GONE = "Gone"


@dataclass(frozen=True, slots=True)
class VmConfig:
    """The size of a VM.

    Only checks that the numbers are positive; the node checks a driver's limits when a VM is
    requested.
    """

    vcpus: int = 1
    memory_mib: int = 256

    def __post_init__(self) -> None:
        if self.vcpus < 1:
            raise InvalidArgument(
                f"vcpus must be at least 1, not {self.vcpus}", hint="deploy with --vcpus 1"
            )
        if self.memory_mib < 1:
            raise InvalidArgument(
                f"memory must be at least 1 MiB, not {self.memory_mib}",
                hint="deploy with --memory 256",
            )


def check_vm_size(
    config: VmConfig, *, min_memory_mib: int, max_memory_mib: int, max_vcpus: int
) -> None:
    """Raise `InvalidArgument` for a VM outside a node's limits."""
    if config.vcpus > max_vcpus:
        raise InvalidArgument(
            f"vcpus must be at most {max_vcpus} on this node, not {config.vcpus}",
            hint=f"deploy with --vcpus {max_vcpus}",
        )
    if not min_memory_mib <= config.memory_mib <= max_memory_mib:
        nearest = min(max(config.memory_mib, min_memory_mib), max_memory_mib)
        raise InvalidArgument(
            f"memory must be from {min_memory_mib} to {max_memory_mib} MiB on this node, "
            f"not {config.memory_mib}",
            hint=f"deploy with --memory {nearest}",
        )


@dataclass(frozen=True, slots=True)
class ApplicationSpec:
    """A user's request for a deploy; checked on construction.

    Attributes:
        name: its full name.
        digest: SHA-256 of the artifact, 64 lowercase hex digits.
        language: what the user says, or None to read it from the artifact.
        env: environment variables of the application; never shown in listings.
        args: a command's arguments after its name.
        concurrency: how many messages a command, or requests an HTTP component, handles at the same
            time; 0 means the default of its kind. Whether an artifact can have arguments or a
            concurrency over one is only known once it has been inspected: see `check_kind`.
        allow_hosts: the hosts that it may send HTTP requests to, as `AllowedHosts` reads them.
        secrets: for each variable whose value is a secret, the secret's name.
        public: whether everybody may send messages to it; None for no, and as it was where it is
            replaced.
        replicas: in a cluster, on how many nodes it runs; 0 for one, and as it was where it is
            replaced.
        on: in a cluster, the labels that its nodes must have; empty for any, and as it was.
        level: in a cluster, the isolation level of its nodes; "" for any, and as it was.
    """

    name: str
    digest: str
    version: str = "0.1.0"
    language: Language | None = None
    vm_config: VmConfig = field(default_factory=VmConfig)
    env: dict[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    concurrency: int = 0
    allow_hosts: tuple[str, ...] = ()
    secrets: dict[str, str] = field(default_factory=dict)
    public: bool | None = None
    replicas: int = 0
    on: dict[str, str] = field(default_factory=dict)
    level: str = ""

    def __post_init__(self) -> None:
        check_full_name(self.name)
        if not VERSION_PATTERN.fullmatch(self.version):
            raise InvalidArgument(
                f"version {self.version!r} is not valid",
                hint="use letters, digits and . _ + - only, at most 64 characters",
            )
        check_digest(self.digest)
        _check_environment(self.env, self.args)
        _check_secrets(self.secrets, self.env)
        AllowedHosts.parse(self.allow_hosts)
        if not 0 <= self.concurrency <= MAX_CONCURRENCY:
            raise InvalidArgument(
                f"concurrency must be from 1 to {MAX_CONCURRENCY}, not {self.concurrency}",
                hint="omit it for the default",
            )
        _check_place(self.replicas, self.on, self.level)

    @property
    def artifact(self) -> str:
        """The full name of its artifact: its digest, in its tenant."""
        return beside(self.name, self.digest)

    def check_kind(self, kind: ArtifactKind) -> None:
        """Raise `InvalidArgument` if an actor is given a command's parameters."""
        if kind is not ArtifactKind.ACTOR:
            return
        if self.args:
            raise InvalidArgument(
                f"{self.name!r} is an actor, but only a command takes arguments",
                hint="pass variables instead: plexspaces deploy … --env NAME=VALUE",
            )
        if self.concurrency > 1:
            raise InvalidArgument(
                f"{self.name!r} is an actor, which handles one message at a time, "
                f"not {self.concurrency}",
                hint="omit --concurrency; for several actors deploy several applications",
            )
        if self.replicas > 1:
            raise InvalidArgument(
                f"{self.name!r} is an actor, of which there is one, not {self.replicas}",
                hint="omit replicas; for several actors deploy several applications",
            )


@dataclass(frozen=True, slots=True)
class PhaseTimings:
    """How long each phase of a deploy took, in nanoseconds of wall time; 0 if it did not run."""

    upload_ns: int = 0
    compile_ns: int = 0
    compile_cached: bool = False
    vm_ns: int = 0
    load_ns: int = 0
    init_ns: int = 0
    total_ns: int = 0


def check_name(name: str, *, what: str = "application name") -> None:
    """Raise `InvalidArgument` unless `name` is 1 to 63 of [a-z0-9-], no dash at either end."""
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidArgument(
            f"{what} {name!r} is not valid",
            hint="use 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or digit",
        )


def check_secret_name(name: str) -> None:
    """Raise `InvalidArgument` unless `name` can be that of a secret."""
    if not SECRET_NAME_PATTERN.fullmatch(name):
        raise InvalidArgument(
            f"secret name {name[:64]!r} is not valid",
            hint="use 1 to 63 letters, digits and . _ -, starting with a letter or digit",
        )


def is_environment_value(value: bytes) -> bool:
    """Return whether a variable can have this value: UTF-8 without zero bytes."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in value


def environment_bytes(env: Mapping[str, str], args: Sequence[str]) -> int:
    """Return how much variables and arguments count for `ENVIRONMENT_LIMIT_BYTES`."""
    variables = sum(len(name) + len(value.encode()) for name, value in env.items())
    # One more for each, so that the number of empty ones is limited too.
    return variables + sum(len(argument.encode()) + 1 for argument in args)


def full_name(tenant: str, name: str) -> str:
    """Return an application's full name: TENANT/NAME, or NAME alone in the tenant `default`."""
    return name if tenant == DEFAULT_TENANT else f"{tenant}/{name}"


def split_name(full: str) -> tuple[str, str]:
    """Return the tenant and the name of a full name; `default/NAME` is NAME."""
    tenant, slash, name = full.partition("/")
    return (tenant, name) if slash else (DEFAULT_TENANT, full)


def check_full_name(full: str, *, what: str = "application name") -> None:
    """Raise `InvalidArgument` unless `full` is NAME or TENANT/NAME; see `check_name`."""
    if "/" not in full:
        check_name(full, what=what)
    elif not all(map(NAME_PATTERN.fullmatch, split_name(full))):
        raise InvalidArgument(
            f"{what} {full!r} is not valid",
            hint="write TENANT/NAME, each 1 to 63 of a-z, 0-9 and -, starting and ending with a "
            "letter or digit",
        )


def beside(full: str, name: str) -> str:
    """Return the full name of what has a name in the tenant of the application `full`."""
    return full_name(split_name(full)[0], name)


def check_trace_id(trace_id: str) -> None:
    """Raise `InvalidArgument` for what is no trace id as W3C writes it."""
    if not TRACE_ID_PATTERN.fullmatch(trace_id):
        raise InvalidArgument(
            f"not a trace id: {trace_id[:64]!r}",
            hint="write its 32 hexadecimal digits, in lower case: the second part of a traceparent",
        )


def check_digest(digest: str) -> None:
    """Raise `InvalidArgument` unless it is a SHA-256: 64 lowercase hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InvalidArgument(
            f"{digest[:80]!r} is not a SHA-256 digest (64 lowercase hexadecimal digits)",
            hint="sha256sum FILE",
        )


def artifact_name(tenant: str, digest: str) -> str:
    """Return the full name of a tenant's artifact.

    Raises `InvalidArgument` for a digest that is none: one with a slash would be another tenant's.
    """
    check_digest(digest)
    return full_name(tenant, digest)


def file_name(full: str) -> str:
    """Return a full name as one segment of a path: `TENANT~NAME`.

    A name that was not checked stays one segment too.
    """
    return full.replace("/", "~")


def host_name(full: str) -> str:
    """Return a full name as the host that it has below the node's: `NAME.TENANT`."""
    tenant, name = split_name(full)
    return name if tenant == DEFAULT_TENANT else f"{name}.{tenant}"


def _check_environment(env: dict[str, str], args: tuple[str, ...]) -> None:
    """Limit variables and arguments to what can be loaded again under any other settings."""
    for key, value in env.items():
        if key in PLATFORM_VARIABLES:
            raise InvalidArgument(
                f"environment variable {key!r} is set by the platform",
                hint="choose another name",
            )
        if not ENV_NAME_PATTERN.fullmatch(key) or not _is_sound(value):
            # The value is not repeated, because it may be a secret.
            raise InvalidArgument(
                f"environment variable {key[:64]!r} is not valid",
                hint="write NAME=VALUE with letters, digits and _ in NAME, at most 255, "
                "and UTF-8 without zero bytes in VALUE",
            )
    for number, argument in enumerate(args, 1):
        if not _is_sound(argument):
            raise InvalidArgument(
                f"argument {number} contains a zero byte or is not UTF-8",
                hint="send such bytes in a message",
            )
    total = environment_bytes(env, args)
    if total > ENVIRONMENT_LIMIT_BYTES:
        raise InvalidArgument(
            f"variables and arguments of {total} bytes exceed the limit of "
            f"{ENVIRONMENT_LIMIT_BYTES}",
            hint="build large data into the artifact, or send it in a message",
        )


def check_label(key: str, value: str) -> None:
    """Raise `InvalidArgument` for what cannot be a node's label."""
    for text in (key, value):
        if not LABEL_PATTERN.fullmatch(text):
            raise InvalidArgument(
                f"label {key[:64]!r}={value[:64]!r} is not valid",
                hint="use 1 to 63 letters, digits and . _ -, starting with a letter or digit",
            )


def _check_place(replicas: int, on: Mapping[str, str], level: str) -> None:
    if not 0 <= replicas <= MOST_REPLICAS:
        raise InvalidArgument(
            f"replicas must be from 1 to {MOST_REPLICAS}, not {replicas}",
            hint="omit it for one",
        )
    if len(on) > MOST_LABELS:
        raise InvalidArgument(
            f"{len(on)} labels are too many", hint=f"select nodes by at most {MOST_LABELS}"
        )
    for key, value in on.items():
        check_label(key, value)
    if level and level not in LEVELS:
        raise InvalidArgument(
            f"unknown isolation level {level[:64]!r}", hint=f"choose one of {', '.join(LEVELS)}"
        )


def _check_secrets(secrets: dict[str, str], env: dict[str, str]) -> None:
    if len(secrets) > MOST_SECRETS_USED:
        raise InvalidArgument(
            f"{len(secrets)} secrets are too many for an application",
            hint=f"give it at most {MOST_SECRETS_USED}",
        )
    # The values are checked when they are set and when they are loaded.
    _check_environment(dict.fromkeys(secrets, ""), ())
    for variable, name in secrets.items():
        check_secret_name(name)
        if variable in env:
            raise InvalidArgument(
                f"variable {variable!r} is given a value and a secret",
                hint="give it one of the two",
            )


def _is_sound(text: str) -> bool:
    """Return whether a text can be encoded and has no zero byte."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
