"""Configuration: defaults < release.toml < environment < flags, and where each value came from.

This module finds the file and loads the settings of `settings`. It reads only that file and the
environment: whether a path exists or a port is free is checked where it is used.

Former names of settings are translated before the sources are merged. An empty variable counts as
not set. A path may begin with ``~/``; a relative one is taken from the file's directory, or from
the current directory for a variable or a flag.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import PrivateAttr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from plexspaces_node import token_text, xdg
from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.settings import (
    PREFIX,
    Settings,
    current_key,
    current_keys,
    every_key,
    keys_of_variables,
    settings,
    unknown_name,
)

FILE_NAME = "release.toml"
FILE_VARIABLE = "PLEXSPACES_CONFIG"
TOKEN_VARIABLES = (token_text.VARIABLE, token_text.FILE_VARIABLE)
"""Not of the configuration: what a client proves itself with."""
COMPOSE_VARIABLES = ("PLEXSPACES_NODE_PORT", "PLEXSPACES_HTTP_PORT")
"""Only compose.yaml reads them, but they may be set in a shell in which commands run too."""
CLUSTER_TOKEN_VARIABLE = "PLEXSPACES_CLUSTER_TOKEN"
"""The variable of a node's environment that has the token of its cluster: no setting, for those
are shown."""
TENANT_VARIABLE = "PLEXSPACES_TENANT"
"""Only commands read it: see `cli.options.in_tenant`."""
_OTHERS = (
    FILE_VARIABLE,
    TENANT_VARIABLE,
    CLUSTER_TOKEN_VARIABLE,
    *TOKEN_VARIABLES,
    *COMPOSE_VARIABLES,
)
DATA_DIR_WITHOUT_HOME = Path("/var/lib/plexspaces")
SYSTEM_FILE = Path("/etc/plexspaces") / FILE_NAME
"""The file of the host's service, which commands on that host find too."""
KEYS_WITHOUT_HOME = Path("/etc/plexspaces")


_METRICS = "node.metrics_address"
_CREDENTIALS = re.compile(r"//[^/@]*@")
_ANY_ADDRESS = ("0.0.0.0", "::")
_CREATE_TOKEN = "plexspaces token create --name admin --scope admin"
_OPT_OUT = "or use 127.0.0.1, or set node.allow_remote = true if something else protects the port"


class Config(Settings, BaseSettings):
    """The whole configuration, immutable; made by `ConfigBootstrap.load` only."""

    model_config = SettingsConfigDict(frozen=True, strict=True, extra="forbid")

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def origin(self, key: str) -> str:
        """Return where the value of a dotted key came from, for example ``flag --address``.

        Raises `InvalidArgument` for a key that does not exist.
        """
        return self._origins.get(current_key(key), "default")

    def items(self) -> Iterator[tuple[str, object, str]]:
        """Iterate over every setting: dotted key, value, origin."""
        for key in settings():
            value: object = self
            for part in key.split("."):
                value = getattr(value, part)
            yield key, value, self.origin(key)

    def check_listen(self) -> None:
        """Raise `InvalidArgument` if a port would be open to other hosts without TLS.

        The node calls it before it opens anything, and `check_grants` before it serves. A client
        may use a remote address.
        """
        certificate, key, client_ca = self.tls.certificate, self.tls.key, self.tls.client_ca
        if (certificate is None) != (key is None) or (client_ca and not certificate):
            raise InvalidArgument(
                "TLS needs both tls.certificate and tls.key",
                hint="plexspaces tls init --host NAME makes them, and prints the lines to add",
            )
        for name, address in () if self.node.allow_remote else self.open_addresses():
            if name == _METRICS:
                raise InvalidArgument(
                    f"{name} {address!r}, from {self.origin(name)}, can be reached from other "
                    "hosts, and metrics have neither TLS nor tokens",
                    hint="use 127.0.0.1, or set node.allow_remote = true if something else "
                    "protects the ports",
                )
            raise InvalidArgument(
                f"{name} {address!r}, from {self.origin(name)}, can be reached from other hosts, "
                "and the node has no certificate",
                hint=f"plexspaces tls init --host {_named_by_clients(address)}, which prints the "
                f"lines for release.toml, and then {self._create_token()}; {_OPT_OUT}",
            )

    def check_grants(self, *, exist: bool) -> None:
        """Raise `InvalidArgument` if a port is open to other hosts while no token exists."""
        if exist or self.node.allow_remote:
            return
        for name, address in self._remote_addresses():
            raise InvalidArgument(
                f"{name} {address!r}, from {self.origin(name)}, can be reached from other hosts, "
                "and no token exists",
                hint=f"{self._create_token()}; {_OPT_OUT}",
            )

    def _create_token(self) -> str:
        """Return the command that makes a token of this node, also if flags have named it."""
        flags = [self.origin(key).startswith("flag ") for key in ("node.id", "node.data_dir")]
        by_flag = any(flags) or self.origin("node.address").startswith("flag ")
        node_id = f" --node-id {self.node.id}" if by_flag else ""
        data_dir = f" --data-dir {quoted(self.node.data_dir)}" if flags[1] else ""
        return f"{_CREATE_TOKEN}{node_id}{data_dir}"

    def open_addresses(self) -> list[tuple[str, str]]:
        """Return key and value of each address that other hosts can reach without TLS."""
        return [
            (name, address)
            for name, address in self._remote_addresses()
            if name == _METRICS or self.tls.certificate is None
        ]

    def _remote_addresses(self) -> list[tuple[str, str]]:
        addresses = {
            "node.address": self.node.address,
            _METRICS: self.node.metrics_address,
            "http.address": self.http.address,
        }
        return [
            (name, address)
            for name, address in addresses.items()
            if address and not is_loopback(split_address(address)[0])
        ]


def _named_by_clients(address: str) -> str:
    host = split_address(address)[0]
    return "NAME" if host in _ANY_ADDRESS else host


class ConfigBootstrap:
    """Loads the `Config` of a command: finds the file, reads, merges and checks the sources."""

    @staticmethod
    def load(
        config_file: str | Path | None = None,
        flags: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        system_file: Path = SYSTEM_FILE,
    ) -> Config:
        """Merge defaults < file < environment < flags.

        The file is `config_file`, else ``$PLEXSPACES_CONFIG``, else ``./release.toml``, else
        ``$XDG_CONFIG_HOME/plexspaces/release.toml``, else `system_file`; only the first two must
        exist. `flags` are keyed by dotted key; None means not given. `environ` replaces the process
        environment.

        Raises `InvalidArgument` for a file that cannot be read, an unknown key or variable, two
        names of one setting in one source, and a bad value. Blocks while it reads one small file.
        """
        variables = {k: v for k, v in (os.environ if environ is None else environ).items() if v}
        path = _find_file(config_file, variables, system_file)
        sources = (
            _Source(_from_flags(flags or {}, variables)),
            _Source(_from_environment(variables)),
            _Source(_from_file(path, variables) if path else {}),
        )
        given = {key: one for source in reversed(sources) for key, one in source.given.items()}
        # A dict, because type checkers accept only the fields of a settings class as keywords.
        build: dict[str, Any] = {"_build_sources": ((*sources, _ComputedDefaults(variables)), {})}
        try:
            config = Config(**build)
        except ValidationError as exc:
            raise _bad_value(exc, given) from exc
        config._origins = MappingProxyType({key: one.origin for key, one in given.items()})
        return config

    @staticmethod
    def check_variables() -> None:
        """Raise `InvalidArgument` for an unknown variable, as `load` does.

        For commands that need no configuration but should report a misspelt variable.
        """
        _from_environment({k: v for k, v in os.environ.items() if v})


@dataclass(frozen=True, slots=True)
class _Given:
    value: object
    origin: str


class _Source(PydanticBaseSettingsSource):
    """A source of settings: the given values by dotted key."""

    def __init__(self, given: Mapping[str, _Given]) -> None:
        super().__init__(Config)
        self.given = given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # abstract in the base class, which does not call it

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
        data = xdg.directory(xdg.DATA, self._variables)
        root = data / "plexspaces" if data else DATA_DIR_WITHOUT_HOME
        config = xdg.directory(xdg.CONFIG, self._variables)
        keys = config / "plexspaces" if config else KEYS_WITHOUT_HOME
        return {
            "node": {"data_dir": root / str(node_id)},
            "secrets": {"key_file": keys / f"{node_id}.key"},
        }


def _find_file(
    named: str | Path | None, variables: Mapping[str, str], system_file: Path
) -> Path | None:
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
    config_home = xdg.directory(xdg.CONFIG, variables)
    places = [Path(FILE_NAME)]
    if config_home:
        places.append(config_home / "plexspaces" / FILE_NAME)
    places.append(system_file)
    return next((place.absolute() for place in places if os.path.isfile(place)), None)


def _home(variables: Mapping[str, str]) -> Path | None:
    home = variables.get("HOME", "")
    return Path(home) if home.startswith("/") else None


def _from_flags(flags: Mapping[str, object], variables: Mapping[str, str]) -> dict[str, _Given]:
    given = {}
    chosen = [name for name, value in flags.items() if value is not None]
    for name, key in current_keys(chosen).items():
        flag = "node-id" if key == "node.id" else key.rpartition(".")[2].replace("_", "-")
        given[key] = _Given(_placed(key, flags[name], Path(), variables), f"flag --{flag}")
    return given


def _from_environment(variables: Mapping[str, str]) -> dict[str, _Given]:
    keys = keys_of_variables()
    given: dict[str, _Given] = {}
    for name in sorted(variables):
        if name not in keys:
            if name.startswith(PREFIX) and name not in _OTHERS:
                names = {one: settings()[key].variable for one, key in keys.items()}
                names |= {one: one for one in (FILE_VARIABLE, TENANT_VARIABLE)}
                raise unknown_name("environment variable", name, names)
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
    values = dict(_leaves(content, "", path))
    given = {}
    for name, key in current_keys(values, place=f" in {path}").items():
        origin = f"{FILE_NAME} ({path})" + (f" as {name}" if name != key else "")
        given[key] = _Given(_placed(key, values[name], path.parent, variables), origin)
    return given


def _with_place(reason: str, path: Path) -> str:
    # The parser names line and column, except for what is missing when the text ends.
    lines = path.read_text(encoding="utf-8").split("\n")
    end = f"at line {len(lines)}, column {len(lines[-1]) + 1}, the end of the file"
    return reason.replace("at end of document", end)


def _leaves(table: Mapping[str, Any], prefix: str, path: Path) -> Iterator[tuple[str, object]]:
    known = every_key()
    sections = {one.rpartition(".")[0] for one in known}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in known:
            yield key, value
        elif key not in sections:
            current = {one.rpartition(".")[0] for one in settings()}
            names = known | {section: section for section in current}
            raise unknown_name("key", key, names, place=f" in {path}")
        elif isinstance(value, dict):
            yield from _leaves(value, f"{key}.", path)
        else:
            raise InvalidArgument(
                f"{key} in {path} is a section, not a setting", hint=f"write it as [{key}]"
            )


def _parse(key: str, text: str) -> object:
    # A text of the wrong type is passed on unchanged. The check of the merged values refuses it
    # with the usual message, and only if no stronger source overrides it.
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
    # An unusable path stays a text, which the check of the merged values refuses.
    if text == "~" or text.startswith("~/"):
        home = _home(variables)
        return Path(os.path.normpath(home / text[2:])) if home else text
    if not text or "\0" in text or text.startswith("~"):
        return text
    return Path(os.path.abspath(base / text))


def _bad_value(exc: ValidationError, given: Mapping[str, _Given]) -> InvalidArgument:
    key = ".".join(str(part) for part in exc.errors(include_url=False)[0]["loc"])
    one = given[key]
    shown = repr(str(one.value) if isinstance(one.value, Path) else one.value)
    if key == "secrets.passphrase":
        # Somebody may take it for the passphrase itself.
        shown = "…"
    # A URL with a password is none that is allowed, and logs have what is said here.
    shown = _CREDENTIALS.sub("//…@", shown)
    return InvalidArgument(
        f"{key} = {shown[:120]}, from {one.origin}, is not allowed",
        hint=f"{key} takes {settings()[key].allowed}",
    )
