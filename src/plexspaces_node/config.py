"""Configuration: defaults < release.toml < environment < flags, and where each value came from.

This file owns every setting of the product, its bounds, its environment variable and the search
for the file. It reads that one file and the environment, and nothing else: whether a path exists
or a port is free is asked by those who use it. No other module reads `os.environ`.
docs/configuration.md lists every setting; a test compares it with the classes below.

A variable is named ``PLEXSPACES_<SECTION>_<KEY>``; four settings have a second name
(`EXTRA_VARIABLES`). An empty variable counts as not set. A path may begin with ``~/``; a relative
one is taken from the file's directory, or from the current one for a variable or a flag.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.model import (
    DEFAULT_MESSAGE_LIMIT_BYTES,
    MAX_MESSAGE_LIMIT_BYTES,
    MIB,
    NAME_PATTERN,
    VERSION_PATTERN,
)

FILE_NAME = "release.toml"
FILE_VARIABLE = "PLEXSPACES_CONFIG"
COMPOSE_VARIABLE = "PLEXSPACES_NODE_PORT"
"""Read by compose.yaml alone, and set in a shell in which commands run too."""
PREFIX = "PLEXSPACES_"
EXTRA_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "firecracker.binary_path": "PLEXSPACES_FIRECRACKER_BIN",
        "firecracker.kernel_path": "PLEXSPACES_FIRECRACKER_KERNEL",
        "firecracker.rootfs_path": "PLEXSPACES_FIRECRACKER_ROOTFS",
        "firecracker.no_seccomp": "FIRECRACKER_NO_SECCOMP",
    }
)
"""Names that exist besides the regular one of the same setting."""

DATA_DIR_DEFAULT = "$XDG_DATA_HOME/plexspaces/<node.id>"
DATA_DIR_WITHOUT_HOME = Path("/var/lib/plexspaces")
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
    return value and _valid_address(value)


def _matching(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} does not match {pattern.pattern}")
        return value

    return AfterValidator(check)


_ADDRESS_WORDS = "HOST:PORT or [IPV6]:PORT, port 0 to 65535 (0 takes a free one)"
Name = Annotated[
    str, _matching(NAME_PATTERN), _Allowed("1 to 63 of a-z, 0-9 and -, no - at either end")
]
Version = Annotated[
    str, _matching(VERSION_PATTERN), _Allowed("1 to 64 letters, digits and . _ + -")
]
Address = Annotated[str, AfterValidator(_valid_address), _Allowed(_ADDRESS_WORDS)]
AddressOrOff = Annotated[
    str, AfterValidator(_valid_address_or_off), _Allowed(f'"" for off, or {_ADDRESS_WORDS}')
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


class ApplicationSection(Section):
    """``[application]``: what this installation calls itself."""

    name: Name = _setting("plexspaces-node", "Name of this installation.")
    version: Version = _setting("0.1.0", "Version of this installation.")


class NodeSection(Section):
    """``[node]``: the daemon."""

    id: Name = _setting("node-1", "Node ID; part of the default data directory.")
    address: Address = _setting(
        "127.0.0.1:9000", "Address the node listens on and the other commands connect to."
    )
    isolation: Isolation = _setting(
        "auto", "Isolation level; `auto` selects the strongest that works on this machine."
    )
    templates: bool = _setting(
        True,
        "Start QEMU machines as copies of a booted template; otherwise each one boots.",
    )
    data_dir: Path = Field(description="Data directory.")
    allow_remote: bool = _setting(
        False,
        "Allow the node to listen on an address that is not loopback. The API has no "
        "authentication yet: anyone who can reach the port controls the node.",
    )
    grace_s: float = _number(10.0, 0, 3600, "How long running messages have to finish on shutdown.")
    log_level: LogLevel = _setting("info", "Lowest level shown in the node's own log.")
    log_format: LogFormat = _setting(
        "auto", "Format of the node's own log; `auto` is console on a terminal, else json."
    )
    metrics_address: AddressOrOff = _setting(
        "", "Address that serves Prometheus metrics over HTTP."
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
    mailbox: int = _number(1024, 1, 1_000_000, "Messages that can wait for one actor.")
    log_bytes: int = _number(2 * MIB, 4096, 1024 * MIB, "Log kept on disk for each application.")
    keyvalue_bytes: int = _number(
        64 * MIB,
        0,
        16 * 1024 * MIB,
        "Size limit of an application's keys and values; a row counts as its value, twice its key "
        "and 32 bytes, rounded up to pages of 4096 bytes from half a page on.",
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
        10_000, 16, 1_000_000, "Calls that the node handles at once, including followed logs."
    )


class DefaultVmSection(Section):
    """``[firecracker.default_vm]``: the size of a machine when a deploy does not say."""

    vcpus: int = _number(1, 1, 32, "Virtual CPUs of a VM.")
    memory_mib: int = _number(
        256, 64, MIB, "Memory of a VM, in MiB; with QEMU or Firecracker at least 80."
    )


class FirecrackerSection(Section):
    """``[firecracker]``: where the VMM and what it boots are."""

    binary_path: Path | None = _setting(
        None, "The `firecracker` program; by default the one on `PATH`."
    )
    kernel_path: Path = _setting(Path("/var/lib/firecracker/vmlinux"), "Kernel of the guest.")
    rootfs_path: Path = _setting(
        Path("/var/lib/firecracker/rootfs.erofs"), "Root file system of the guest."
    )
    no_seccomp: bool = _setting(
        False, "Run Firecracker without its seccomp filters, which weakens the isolation."
    )
    default_vm: DefaultVmSection = DefaultVmSection()


class Config(BaseSettings):
    """The whole configuration, immutable; made by `ConfigBootstrap.load` only."""

    model_config = SettingsConfigDict(frozen=True, strict=True, extra="forbid")

    application: ApplicationSection = ApplicationSection()
    node: NodeSection
    limits: LimitsSection = LimitsSection()
    firecracker: FirecrackerSection = FirecrackerSection()
    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def origin(self, key: str) -> str:
        """Tell where the value of a dotted key came from, for example ``flag --address``.

        Raises `InvalidArgument` for a key that does not exist.
        """
        if key not in settings():
            raise _unknown("setting", key, settings())
        return self._origins.get(key, "default")

    def items(self) -> Iterator[tuple[str, object, str]]:
        """Iterate over every setting: dotted key, value, origin."""
        for key in settings():
            value: object = self
            for part in key.split("."):
                value = getattr(value, part)
            yield key, value, self.origin(key)

    def check_listen(self) -> None:
        """Raise `InvalidArgument` when a port would be open to other machines and may not be.

        For the node, before it binds; a client may well be configured with a remote address.
        """
        addresses = {"node.address": self.node.address}
        if self.node.metrics_address:
            addresses["node.metrics_address"] = self.node.metrics_address
        for key, address in addresses.items():
            if not self.node.allow_remote and not is_loopback(split_address(address)[0]):
                raise InvalidArgument(
                    f"{key} {address!r}, from {self.origin(key)}, can be reached from other "
                    "machines, and the API has no authentication yet",
                    hint="use 127.0.0.1, or set node.allow_remote = true if the network is yours",
                )


class ConfigBootstrap:
    """Makes the `Config` of a command: finds the file, reads, merges and checks."""

    @staticmethod
    def load(
        config_file: str | Path | None = None,
        flags: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Merge defaults < file < environment < flags.

        The file is `config_file`, else ``$PLEXSPACES_CONFIG``, else ``./release.toml``, else
        ``$XDG_CONFIG_HOME/plexspaces/release.toml``; only the first two must exist. `flags` are
        keyed by dotted key, and None means not given. `environ` replaces the process environment.

        Raises `InvalidArgument` for a file that cannot be read, an unknown key or variable, and a
        bad value. Blocks for the reading of one small file.
        """
        variables = {k: v for k, v in (os.environ if environ is None else environ).items() if v}
        path = _find_file(config_file, variables)
        sources = (
            _Source(_from_flags(flags or {}, variables)),
            _Source(_from_environment(variables)),
            _Source(_from_file(path, variables) if path else {}),
        )
        given = {key: one for source in reversed(sources) for key, one in source.given.items()}
        # As keywords of a dict, because type checkers see the fields of a settings class only.
        build: dict[str, Any] = {"_build_sources": ((*sources, _ComputedDefaults(variables)), {})}
        try:
            config = Config(**build)
        except ValidationError as exc:
            raise _bad_value(exc, given) from exc
        config._origins = MappingProxyType({key: one.origin for key, one in given.items()})
        return config

    @staticmethod
    def check_variables() -> None:
        """Raise `InvalidArgument` for a variable that no setting has, as `load` does.

        For what needs no configuration and is to be told of a misspelt one all the same.
        """
        _from_environment({k: v for k, v in os.environ.items() if v})


@dataclass(frozen=True, slots=True)
class Setting:
    """What there is to know about a setting, for messages and documentation.

    Attributes:
        key: dotted, as in ``limits.message_bytes``.
        variables: its environment variables, the regular one first.
        default: the value, or a text for one that depends on the environment.
        allowed: what it takes, in words.
        meaning: one or two sentences.
    """

    key: str
    variables: tuple[str, ...]
    default: object
    allowed: str
    meaning: str
    annotation: Any


@cache
def settings() -> Mapping[str, Setting]:
    """Every setting by its dotted key, in the order of the documentation."""
    return MappingProxyType({setting.key: setting for setting in _walk(Config, "")})


def _walk(section: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, f"{key}.")
            continue
        regular = PREFIX + key.upper().replace(".", "_")
        extra = (EXTRA_VARIABLES[key],) if key in EXTRA_VARIABLES else ()
        yield Setting(
            key=key,
            variables=(regular, *extra),
            default=DATA_DIR_DEFAULT if field.default is PydanticUndefined else field.default,
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


@dataclass(frozen=True, slots=True)
class _Given:
    value: object
    origin: str


class _Source(PydanticBaseSettingsSource):
    """One source of settings: the values given, by dotted key."""

    def __init__(self, given: Mapping[str, _Given]) -> None:
        super().__init__(Config)
        self.given = given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # required by the base class, used by its own sources only

    def __call__(self) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for key, one in self.given.items():
            *sections, name = key.split(".")
            table = nested
            for section in sections:
                table = table.setdefault(section, {})
            table[name] = one.value
        return nested


class _ComputedDefaults(_Source):
    """The weakest source: defaults that depend on the environment or on another setting."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__({})
        self._variables = variables

    def __call__(self) -> dict[str, Any]:
        node_id = self.current_state.get("node", {}).get("id", settings()["node.id"].default)
        data = _xdg("XDG_DATA_HOME", ".local/share", self._variables)
        root = data / "plexspaces" if data else DATA_DIR_WITHOUT_HOME
        return {"node": {"data_dir": root / str(node_id)}}


def _find_file(named: str | Path | None, variables: Mapping[str, str]) -> Path | None:
    if named is None:
        named = variables.get(FILE_VARIABLE)
    if named is not None:
        path = _path(str(named), Path(), variables)
        if not isinstance(path, Path) or not os.path.isfile(path):
            raise InvalidArgument(
                f"configuration file {str(named)!r} does not exist or is not a file",
                hint=f"pass an existing file with --config or {FILE_VARIABLE}",
            )
        return path
    config_home = _xdg("XDG_CONFIG_HOME", ".config", variables)
    places = [Path(FILE_NAME)]
    if config_home:
        places.append(config_home / "plexspaces" / FILE_NAME)
    return next((place.absolute() for place in places if os.path.isfile(place)), None)


def _xdg(variable: str, below_home: str, variables: Mapping[str, str]) -> Path | None:
    # The base directory specification says that a relative value is to be ignored.
    if variables.get(variable, "").startswith("/"):
        return Path(variables[variable])
    home = _home(variables)
    return home / below_home if home else None


def _home(variables: Mapping[str, str]) -> Path | None:
    home = variables.get("HOME", "")
    return Path(home) if home.startswith("/") else None


def _from_flags(flags: Mapping[str, object], variables: Mapping[str, str]) -> dict[str, _Given]:
    given = {}
    for key, value in flags.items():
        if key not in settings():
            raise _unknown("setting", key, settings())
        if value is None:
            continue
        name = "node-id" if key == "node.id" else key.rpartition(".")[2].replace("_", "-")
        value = _placed(key, value, Path(), variables)
        given[key] = _Given(value, f"flag --{name}")
    return given


def _from_environment(variables: Mapping[str, str]) -> dict[str, _Given]:
    keys = {name: setting.key for setting in settings().values() for name in setting.variables}
    given: dict[str, _Given] = {}
    for name in sorted(variables):
        if name not in keys:
            if name.startswith(PREFIX) and name not in (FILE_VARIABLE, COMPOSE_VARIABLE):
                raise _unknown("environment variable", name, (*keys, FILE_VARIABLE))
            continue
        key, origin = keys[name], f"environment {name}"
        value = _placed(key, _parse(key, variables[name]), Path(), variables)
        if key in given and given[key].value != value:
            raise InvalidArgument(
                f"{given[key].origin} and {origin} give {key} different values",
                hint=f"unset {name}",
            )
        given[key] = _Given(value, origin)
    return given


def _from_file(path: Path, variables: Mapping[str, str]) -> dict[str, _Given]:
    try:
        content = TomlConfigSettingsSource(Config, toml_file=path).toml_data
    except tomllib.TOMLDecodeError as exc:
        raise InvalidArgument(
            f"{path} is not valid TOML: {_with_place(str(exc), path)}",
            hint="fix the file at that line",
        ) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise InvalidArgument(
            f"{path} cannot be read: {exc}", hint=f"ls -l {quoted(path)}"
        ) from exc
    return {
        key: _Given(_placed(key, value, path.parent, variables), f"{FILE_NAME} ({path})")
        for key, value in _leaves(content, "", path)
    }


def _with_place(reason: str, path: Path) -> str:
    # The parser names line and column, except for what is missing when the text ends.
    lines = path.read_text(encoding="utf-8").split("\n")
    end = f"at line {len(lines)}, column {len(lines[-1]) + 1}, the end of the file"
    return reason.replace("at end of document", end)


def _leaves(table: Mapping[str, Any], prefix: str, path: Path) -> Iterator[tuple[str, object]]:
    known = settings()
    sections = {one.rpartition(".")[0] for one in known}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in known:
            yield key, value
        elif key not in sections:
            raise _unknown("key", key, (*known, *sections), place=f" in {path}")
        elif isinstance(value, dict):
            yield from _leaves(value, f"{key}.", path)
        else:
            raise InvalidArgument(
                f"{key} in {path} is a section, not a setting", hint=f"write it as [{key}]"
            )


def _parse(key: str, text: str) -> object:
    # A text that is not of the type is handed on as it is: the check of the merged values refuses
    # it with the same message as everything else, and only if no stronger source overrides it.
    try:
        parsed: object = TypeAdapter(settings()[key].annotation).validate_strings(text)
    except ValidationError:
        return text
    return parsed


def _placed(key: str, value: object, base: Path, variables: Mapping[str, str]) -> object:
    if settings()[key].annotation in (Path, Path | None) and isinstance(value, str | Path):
        return _path(str(value), base, variables)
    return value


def _path(text: str, base: Path, variables: Mapping[str, str]) -> Path | str:
    # What is no usable path stays a text, which the check of the merged values refuses.
    if text == "~" or text.startswith("~/"):
        home = _home(variables)
        return Path(os.path.normpath(home / text[2:])) if home else text
    if not text or "\0" in text or text.startswith("~"):
        return text
    return Path(os.path.abspath(base / text))


def _unknown(what: str, word: str, known: Iterable[str], *, place: str = "") -> InvalidArgument:
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]
    return InvalidArgument(
        f"unknown {what} {word!r}{place}",
        hint=f"the closest known name is {nearest}; {_CONFIG_SHOW}",
    )


def _bad_value(exc: ValidationError, given: Mapping[str, _Given]) -> InvalidArgument:
    key = ".".join(str(part) for part in exc.errors(include_url=False)[0]["loc"])
    one = given[key]
    shown = repr(str(one.value) if isinstance(one.value, Path) else one.value)
    return InvalidArgument(
        f"{key} = {shown[:120]}, from {one.origin}, is not allowed",
        hint=f"{key} takes {settings()[key].allowed}",
    )
