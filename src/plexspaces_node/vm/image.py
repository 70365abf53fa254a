"""The guest image: kernel, initial RAM disk and root that every microVM boots.

One directory holds the three files and `image.json`, which describes them. This module defines that
record and its checks. It does not know how an image is built (`guest_image`) or booted (the
drivers).

    DIRECTORY/
      vmlinux       the kernel, an uncompressed ELF file
      initrd        loads the kernel's modules and mounts the root
      rootfs.erofs  the root, read-only, shared by all VMs
      image.json    this file's record; written last, so that without it there is no image
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plexspaces_node import xdg
from plexspaces_node.errors import InvalidArgument, NotFound, WrongState, quoted
from plexspaces_node.model import ENGINE
from plexspaces_node.vm.erofs import MAGIC, MAGIC_OFFSET

RECORD = "image.json"
KERNEL = "vmlinux"
INITRD = "initrd"
ROOTFS = "rootfs.erofs"
FORMAT = 2
"""The version of the record; raised if an older reader could not understand it."""

BUILD_HINT = "build it with: plexspaces image build"

_RECORD_LIMIT_BYTES = 64 * 1024
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_FORMER_ROOTFS = "rootfs.ext4"
"""The name in configurations of earlier versions."""
_FILE_NAMES = {"kernel": KERNEL, "initrd": INITRD, "rootfs": ROOTFS}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An entry of `image.json` about one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class GuestImage:
    """An image that can be booted, as far as a look at its files can tell.

    Attributes:
        kernel: an uncompressed ELF kernel.
        initrd: the kernel's initial RAM disk.
        rootfs: an EROFS file system, for `/dev/vda`, read-only.
        digest: SHA-256 over the three files, 64 hexadecimal digits.
        generation: of the link that the agent inside uses.
        engine: the runtime of the agent inside; artifacts must be compiled for the same one.
        arch: the architecture it runs on, as `uname -m` prints it.
        min_memory_mib: the smallest memory with which its agent runs an application.
        made_of: name and version of everything that went into it.
        files: size and digest of each, by `kernel`, `initrd` and `rootfs`.
    """

    kernel: Path
    initrd: Path
    rootfs: Path
    digest: str
    generation: int
    engine: str
    arch: str
    min_memory_mib: int
    made_of: Mapping[str, str]
    files: Mapping[str, FileRecord]

    @classmethod
    def open(cls, directory: Path, *, generation: int | None = None) -> GuestImage:
        """Read the image in `directory` and check it as far as that is quick; blocks for a few ms.

        Checks sizes and magic numbers, not contents: see `verify`. Raises `NotFound` if there is no
        image, `InvalidArgument` if one of its files is missing, truncated or wrong, `WrongState` if
        it is intact but built for another architecture, engine or, with `generation`, another
        generation of the link.
        """
        image = cls.read(directory)
        image._check_files()
        image._check_fit(generation)
        return image

    @classmethod
    def read(cls, directory: Path) -> GuestImage:
        """Read only `image.json`; for listings.

        Raises `NotFound` if there is none, `InvalidArgument` if it cannot be understood.
        """
        path = directory.absolute() / RECORD
        record = _read_record(path)
        if record.get("format") != FORMAT:
            raise InvalidArgument(
                f"{path} has format {record.get('format')!r}, not {FORMAT}",
                hint="rebuild the image with: plexspaces image build",
            )
        try:
            return cls(
                **{role: path.with_name(name) for role, name in _FILE_NAMES.items()},
                digest=_text(record["digest"]),
                generation=int(record["generation"]),
                engine=_text(record["engine"]),
                arch=_text(record["arch"]),
                min_memory_mib=int(record["min_memory_mib"]),
                made_of={_text(k): _text(v) for k, v in record["made_of"].items()},
                files={role: _file_record(record["files"][role]) for role in _FILE_NAMES},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument(f"{path} is not an image's record", hint=BUILD_HINT) from error

    @classmethod
    def seal(
        cls,
        directory: Path,
        *,
        generation: int,
        min_memory_mib: int,
        made_of: Mapping[str, str],
        arch: str | None = None,
    ) -> GuestImage:
        """Write the record of the three files in `directory` and return the image.

        Reads them completely, so it blocks for up to a second. Raises `OSError`.
        """
        files = {role: _measure(directory / name) for role, name in _FILE_NAMES.items()}
        record = {
            "format": FORMAT,
            "digest": _digest(files),
            "generation": generation,
            "engine": ENGINE,
            "arch": arch or platform.machine(),
            "min_memory_mib": min_memory_mib,
            "made_of": dict(sorted(made_of.items())),
            "files": {
                role: {"size_bytes": file.size_bytes, "sha256": file.sha256}
                for role, file in files.items()
            },
        }
        path = directory / RECORD
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return cls.read(directory)

    @property
    def directory(self) -> Path:
        """The image's directory."""
        return self.kernel.parent

    @property
    def size_bytes(self) -> int:
        """The size of the three files on disk."""
        return sum(file.size_bytes for file in self.files.values())

    def verify(self) -> None:
        """Read every file and compare it with the record; blocks for about a second.

        Raises `InvalidArgument`, which names the file that has changed.
        """
        self._check_files()
        for role, name in _FILE_NAMES.items():
            path = self.directory / name
            try:
                found = _measure(path)
            except OSError as error:
                raise _broken(path, f"cannot be read: {error.strerror}") from error
            if found != self.files[role]:
                raise _broken(path, f"has SHA-256 {found.sha256}, not {self.files[role].sha256}")
        if self.digest != _digest(self.files):
            raise _broken(self.directory / RECORD, "is inconsistent: was it edited by hand?")

    def _check_files(self) -> None:
        for role, name in _FILE_NAMES.items():
            path, expected = self.directory / name, self.files[role].size_bytes
            try:
                size = path.stat().st_size if path.is_file() else None
            except OSError as error:
                raise _broken(path, f"cannot be read: {error.strerror}") from error
            if size is None:
                raise _broken(path, "is missing")
            if size != expected:
                raise _broken(path, f"has {size} bytes, not {expected}")
        _check_kernel(self.kernel, self.arch)
        _check_root(self.rootfs)

    def _check_fit(self, generation: int | None) -> None:
        anew = "rebuild it with: plexspaces image build"
        if self.arch != platform.machine():
            raise WrongState(
                f"the image in {self.directory} is for {self.arch}, not {platform.machine()}",
                hint=anew,
            )
        if generation not in (None, self.generation):
            raise WrongState(
                f"the agent of the image in {self.directory} speaks generation "
                f"{self.generation} of the link, this node speaks {generation}",
                hint=anew,
            )
        if self.engine != ENGINE:
            raise WrongState(
                f"the agent of the image in {self.directory} runs {self.engine}, "
                f"this node compiles for {ENGINE}",
                hint=anew,
            )


def default_directory(variables: Mapping[str, str]) -> Path:
    """Return the directory of a user's image: `$XDG_DATA_HOME/plexspaces/image`.

    Raises `InvalidArgument` for a user without a home directory.
    """
    place = xdg.directory(xdg.DATA, variables)
    if place is None:
        raise InvalidArgument(
            "there is no home directory for the guest image",
            hint="set XDG_DATA_HOME, or choose a directory: plexspaces image build --dir DIR",
        )
    return place / "plexspaces" / "image"


def find_directory(kernel_path: Path, rootfs_path: Path, default: Path) -> Path:
    """Return the directory of the image to boot: the configured one if its files exist.

    `kernel_path` and `rootfs_path` are the configured files. Kernel, modules and root belong
    together, so they must be in one directory, under the names of this module. Raises
    `InvalidArgument` if both files exist and are not.
    """
    if rootfs_path.name == _FORMER_ROOTFS:
        rootfs_path = rootfs_path.with_name(ROOTFS)
    # os.path, because a directory that this user cannot read is no error.
    if not (os.path.isfile(kernel_path) and os.path.isfile(rootfs_path)):
        return default
    named = (kernel_path.name, rootfs_path.name)
    if kernel_path.parent != rootfs_path.parent or named != (KERNEL, ROOTFS):
        raise InvalidArgument(
            f"kernel {kernel_path} and root {rootfs_path} do not form one image: they must be "
            f"{KERNEL} and {ROOTFS} in one directory",
            hint="plexspaces image build --dir DIR, and name its files in release.toml",
        )
    return kernel_path.parent


def _read_record(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_RECORD_LIMIT_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"no guest image in {path.parent}", hint=BUILD_HINT) from error
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be read: {error.strerror}", hint=f"ls -la {quoted(path.parent)}"
        ) from error
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InvalidArgument(f"{path} is not an image's record", hint=BUILD_HINT)
    return record


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _file_record(value: Mapping[str, Any]) -> FileRecord:
    return FileRecord(int(value["size_bytes"]), _text(value["sha256"]))


def _measure(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(os.fstat(file.fileno()).st_size, digest)


def _digest(files: Mapping[str, FileRecord]) -> str:
    lines = "".join(f"{role} {files[role].sha256}\n" for role in sorted(_FILE_NAMES))
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_kernel(path: Path, arch: str) -> None:
    head = _head(path, 20)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        raise _broken(path, "is not an uncompressed ELF kernel")
    (machine,) = struct.unpack_from("<H", head, 18)
    found = _ELF_MACHINES.get(machine, f"machine number {machine}")
    if found != arch:
        raise _broken(path, f"is a kernel for {found}, not {arch}")


def _check_root(path: Path) -> None:
    if _head(path, MAGIC_OFFSET + len(MAGIC))[MAGIC_OFFSET:] != MAGIC:
        raise _broken(path, "is not an EROFS file system")


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror}") from error


def _broken(path: Path, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"the guest image is broken: {path} {what}",
        hint="rebuild it with: plexspaces image build",
    )
