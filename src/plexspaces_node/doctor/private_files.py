"""Who may read and change what a node keeps: its data, sockets, keys, configuration, programs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from plexspaces_node.config import FILE_NAME, Config
from plexspaces_node.doctor.finding import Finding
from plexspaces_node.doctor.host_walls import Host
from plexspaces_node.errors import PlexSpacesError, quoted
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.programs import PROGRAMS, find_program
from plexspaces_node.settings import SECRETS_CREDENTIAL
from plexspaces_node.vm.image import INITRD, KERNEL, ROOTFS, default_directory, find_directory

AREA = "Files"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_CREDENTIAL = f"etc/credstore/{SECRETS_CREDENTIAL}"
_FROM_FILE = re.compile(rf"{re.escape(FILE_NAME)} \((.+?)\)")


def check_files(config: Config, host: Host) -> list[Finding]:
    """Check the modes of files and directories. Blocks for some `stat`s; changes nothing."""
    return [
        *_data(config.node.data_dir),
        *_keys(config, host),
        *(changed_by_its_owner(AREA, name, path) for name, path in _read_by_all(config)),
    ]


def changed_by_its_owner(area: str, name: str, path: Path) -> Finding:
    """Check that only its owner can change a file, and that of its directory; it may be a link."""
    try:
        places = {one: one.stat() for one in (path.resolve(), path.resolve().parent)}
    except FileNotFoundError:
        return Finding(area, name, None, f"{path} does not exist")
    except OSError as error:
        return Finding(area, name, None, f"{path}: {error.strerror}", f"ls -l {quoted(path)}")
    for place, status in places.items():
        mode = stat.S_IMODE(status.st_mode)
        if mode & _OTHERS_MAY_WRITE and not mode & stat.S_ISVTX:
            detail = f"others may change {place} (mode {mode:04o})"
            return Finding(area, name, False, detail, f"chmod go-w {quoted(place)}")
    return Finding(area, name, True, f"{path} can be changed by its owner only")


def _data(directory: Path) -> Iterator[Finding]:
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        yield Finding(AREA, "data directory", True, f"{directory} will be created for its owner")
        return
    except OSError as error:
        # As for a user who may not look into that of the service.
        hint = "sudo plexspaces doctor --security"
        yield Finding(AREA, "data directory", None, f"{directory}: {error.strerror}", hint)
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        detail = f"others can enter {directory} (mode {mode:04o})"
        yield Finding(AREA, "data directory", False, detail, f"chmod 700 {quoted(directory)}")
    else:
        detail = f"{directory} is for its owner only (mode {mode:04o})"
        yield Finding(AREA, "data directory", True, detail)
    laid_out = DataDirectory(directory, "")
    for name, path in (
        ("gRPC socket", laid_out.grpc_socket),
        ("HTTP socket", laid_out.http_socket),
        ("registry", laid_out.registry),
        ("tokens' key", laid_out.token_key),
    ):
        yield from _private(name, path, missing_is_fine=True)


def _keys(config: Config, host: Host) -> Iterator[Finding]:
    if config.tls.key is not None:
        yield from _private("TLS key", config.tls.key, group_of_root=True)
    secrets = config.secrets
    if not secrets.passphrase:
        if secrets.key_file.is_relative_to(config.node.data_dir):
            detail = f"{secrets.key_file} is in the data directory: every backup of it has both"
            yield Finding(AREA, "secrets key", False, detail, "[secrets] key_file elsewhere")
        yield from _private(
            "secrets key", secrets.key_file, missing_is_fine=True, group_of_root=True
        )
    yield from _private("credential", host.root / _CREDENTIAL, missing_is_fine=True)


def _private(
    name: str, path: Path, *, missing_is_fine: bool = False, group_of_root: bool = False
) -> Iterator[Finding]:
    """Report a file that others may read or write.

    With `group_of_root` the group may read a file of root, as services have it.
    """
    try:
        status = path.stat()
    except OSError as error:
        if not missing_is_fine:
            hint = f"ls -l {quoted(path)}"
            yield Finding(AREA, name, False, f"{path}: {error.strerror}", hint)
        return
    mode = stat.S_IMODE(status.st_mode)
    allowed = stat.S_IRGRP if group_of_root and status.st_uid == 0 else 0
    if mode & _OTHERS & ~allowed:
        detail = f"others may read or write {path} (mode {mode:04o})"
        yield Finding(AREA, name, False, detail, f"chmod 600 {quoted(path)}")
    else:
        yield Finding(AREA, name, True, f"{path} is for its owner only (mode {mode:04o})")


def _read_by_all(config: Config) -> Iterator[tuple[str, Path]]:
    origins = {origin for _, _, origin in config.items()}
    for told in sorted({found[1] for one in origins if (found := _FROM_FILE.match(one))}):
        yield "configuration", Path(told)
    for name in PROGRAMS:
        try:
            yield name, find_program(name)
        except PlexSpacesError:
            continue  # told by the other checks
    try:
        image = find_directory(
            config.guest.kernel_path, config.guest.rootfs_path, default_directory(os.environ)
        )
    except PlexSpacesError:
        return  # told by the other checks
    for name, file in (("guest kernel", KERNEL), ("guest initrd", INITRD), ("guest root", ROOTFS)):
        yield name, image / file
