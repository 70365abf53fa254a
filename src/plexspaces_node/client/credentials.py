"""A client's token and TLS files: from the environment, or kept for each node by `login`.

    $XDG_CONFIG_HOME/plexspaces/credentials.toml     mode 0600

    [nodes."node.example:9000"]
    token = "plx_…"
    ca = "/home/me/.config/plexspaces/ca.pem"

Loads neither gRPC nor protobuf. Everything here blocks for small files.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plexspaces_node import xdg
from plexspaces_node.client.address import parts_of
from plexspaces_node.client.tls import ClientTls
from plexspaces_node.errors import InvalidArgument, quoted
from plexspaces_node.private_file import make_private_directory, read_private, replace
from plexspaces_node.token_text import FILE_VARIABLE, VARIABLE, check_secret

_WHAT = "the file of credentials"
_FIELDS = ("token", "ca", "certificate", "key")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client proves itself with to one node.

    Attributes:
        token: the secret, "" for none.
        tls: whom it trusts, and its certificate; None for what the address says.
    """

    token: str = field(default="", repr=False)
    tls: ClientTls | None = None


def credentials_file(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the file that `login` writes, which may not be there.

    Raises `InvalidArgument` if there is no home directory.
    """
    place = xdg.directory(xdg.CONFIG, variables)
    if place is None:
        raise InvalidArgument(
            "there is no home directory for credentials",
            hint="set XDG_CONFIG_HOME to a directory of your own",
        )
    return place / "plexspaces" / "credentials.toml"


def credentials_of(address: str, variables: Mapping[str, str] = os.environ) -> Credentials:
    """Return what to use for the node at an address: the environment's token before a kept one.

    Raises `InvalidArgument` for what is no token, and for a file that others may read.
    """
    kept = _kept(variables).get(_key(address), {})
    token = token_of_environment(variables) or kept.get("token", "")
    if not kept:
        return Credentials(token)
    places = {name: Path(kept[name]) for name in _FIELDS[1:] if name in kept}
    return Credentials(token, ClientTls(**places) if places else None)


def token_of_environment(variables: Mapping[str, str] = os.environ) -> str:
    """Return the token that the environment has or names a file of, "" for none.

    Raises `InvalidArgument` for what is no token, and for a file that others may read.
    """
    token, named = variables.get(VARIABLE, ""), variables.get(FILE_VARIABLE, "")
    if token and named:
        raise InvalidArgument(
            f"{VARIABLE} and {FILE_VARIABLE} are both set", hint=f"unset {FILE_VARIABLE}"
        )
    source = VARIABLE
    if named:
        source = str(Path(named))
        token = read_private(Path(named), what="the token's file").decode("utf-8", "replace")
    token = token.strip()
    if token:
        check_secret(token, source=source)
    return token


def keep(address: str, credentials: Credentials, variables: Mapping[str, str] = os.environ) -> Path:
    """Write what is to be used for a node from now on, in place of what was; return the file."""
    entry = {"token": credentials.token}
    if credentials.tls is not None:
        for name in _FIELDS[1:]:
            if (place := getattr(credentials.tls, name)) is not None:
                entry[name] = str(place.absolute())
    path = credentials_file(variables)
    make_private_directory(path.parent)
    _write(path, {**_kept(variables), _key(address): entry})
    return path


def forget(address: str, variables: Mapping[str, str] = os.environ) -> bool:
    """Remove what is kept for a node; return whether there was something."""
    kept = _kept(variables)
    if kept.pop(_key(address), None) is None:
        return False
    _write(credentials_file(variables), kept)
    return True


def _key(address: str) -> str:
    return parts_of(address)[0].lower()


def _kept(variables: Mapping[str, str]) -> dict[str, dict[str, str]]:
    try:
        path = credentials_file(variables)
    except InvalidArgument:
        return {}
    if not path.exists():
        return {}
    text = read_private(path, what=_WHAT).decode("utf-8", "replace")
    try:
        return dict(_entries(tomllib.loads(text)))
    except (tomllib.TOMLDecodeError, TypeError) as error:
        # Its content is not repeated.
        raise InvalidArgument(
            f"{_WHAT} {str(path)!r} cannot be read: it is not what plexspaces login writes",
            hint=f"rm {quoted(path)}, then log in again: plexspaces login",
        ) from error


def _entries(content: Mapping[str, object]) -> Iterator[tuple[str, dict[str, str]]]:
    nodes = content.get("nodes", {})
    if not isinstance(nodes, dict):
        raise TypeError
    for address, entry in nodes.items():
        if not isinstance(entry, dict):
            raise TypeError
        yield address, {key: entry[key] for key in _FIELDS if isinstance(entry.get(key), str)}


def _write(path: Path, kept: Mapping[str, Mapping[str, str]]) -> None:
    lines = ["# Written by plexspaces login.\n"]
    for address, entry in sorted(kept.items()):
        # A basic string of TOML is one of JSON, for what is printable.
        lines.append(f"\n[nodes.{json.dumps(address)}]\n")
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in entry.items()
        ]
    replace(path, "".join(lines).encode())
