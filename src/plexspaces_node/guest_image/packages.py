"""Finds, fetches and unpacks the distribution's packages for a guest image, with apt.

Fetching needs no privileges. Packages are kept in the build cache, where apt finds them again and
checks them against the distribution's signed lists.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import Unavailable, Unsupported
from plexspaces_node.toolchains.process import Finished, run

KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")
"""The packages that depend on the current kernel for VMs, in Debian and in Ubuntu."""

_SYSTEM_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_PROVIDERS = {
    "dpkg-deb": "dpkg",
}
_KERNEL_PART = re.compile(r"linux-(image|binary|modules)-\d\S*")
_FIELD = re.compile(r"^([A-Z][A-Za-z0-9-]*): (\S+)$", re.MULTILINE)


class Tools:
    """The distribution's programs that a build runs."""

    def __init__(
        self,
        search: tuple[Path, ...],
        *,
        timeout_s: float,
        system: tuple[str, ...] = _SYSTEM_DIRECTORIES,
    ) -> None:
        self._path = os.pathsep.join(map(str, (*search, *system)))
        self._timeout_s = timeout_s

    def find(self, name: str) -> str:
        """Return the path of a program; raises `Unsupported` if it is not installed."""
        found = shutil.which(name, path=self._path)
        if found is not None:
            return found
        if name.startswith("apt-"):
            raise Unsupported(
                f"{name} is not installed: a guest image is built from Debian's packages",
                hint="build it on Debian or in a Debian container, and copy the directory here",
            )
        raise Unsupported(
            f"{name} is not installed",
            hint=f"apt-get install {_PROVIDERS.get(name, name)}",
        )

    async def attempt(
        self, name: str, *arguments: str, cwd: Path, more: Mapping[str, str] | None = None
    ) -> Finished:
        """Run a program to its end and return the result, whatever its status."""
        variables = {"PATH": self._path, "LC_ALL": "C", "HOME": str(cwd)}
        return await run(
            [self.find(name), *arguments],
            cwd=cwd,
            variables=variables | dict(more or {}),
            timeout_s=self._timeout_s,
        )

    async def run(
        self, name: str, *arguments: str, cwd: Path, more: Mapping[str, str] | None = None
    ) -> str:
        """Run a program and return its output; raises `Unavailable` if it fails."""
        finished = await self.attempt(name, *arguments, cwd=cwd, more=more)
        if finished.status:
            raise Unavailable(f"{name} failed with status {finished.status}: {_end_of(finished)}")
        return finished.output


@dataclass(frozen=True, slots=True)
class Package:
    """A package on disk."""

    name: str
    version: str
    file: Path


async def fetch(tools: Tools, cache: Path) -> tuple[Package, ...]:
    """Fetch the kernel's packages into `cache`, which is created, and return them.

    Packages already there are not fetched again. Raises `Unavailable` if the distribution does not
    have them or cannot be reached.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = await _kernel_parts(tools, cache)
    packages = [await _candidate(tools, cache, name) for name in names]
    if missing := [package for package in packages if not package.file.is_file()]:
        await _fetch(tools, cache, missing)
    return tuple(packages)


async def _fetch(tools: Tools, cache: Path, packages: list[Package]) -> None:
    # Fetched elsewhere and then renamed, so that what is in the cache is complete.
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        fetched = await tools.attempt(
            "apt-get",
            # Otherwise apt would drop to its own user, which cannot write to our cache.
            *("-q", "-o", "APT::Sandbox::User=root", "download"),
            *(f"{package.name}={package.version}" for package in packages),
            cwd=Path(directory),
        )
        files = [Path(directory, package.file.name) for package in packages]
        if fetched.status or not all(file.is_file() for file in files):
            raise Unavailable(
                f"the packages {' '.join(package.name for package in packages)} cannot be "
                f"fetched: {_end_of(fetched)}",
                hint="apt-get update, and check that this host can reach its mirror",
            )
        for file, package in zip(files, packages, strict=True):
            file.replace(package.file)


async def unpack(tools: Tools, package: Package, target: Path) -> None:
    """Unpack a package's files below `target`, without running its scripts.

    Raises `Unavailable` if the package is damaged; it is then fetched again the next time.
    """
    try:
        await tools.run("dpkg-deb", "-x", str(package.file), str(target), cwd=target.parent)
    except Unavailable:
        package.file.unlink(missing_ok=True)
        raise


async def _kernel_parts(tools: Tools, cwd: Path) -> tuple[str, ...]:
    refused: list[Unavailable] = []
    for package in KERNEL_PACKAGES:
        try:
            return await _parts_of(tools, cwd, package)
        except Unavailable as error:
            refused.append(error)
    raise refused[0]


async def _parts_of(tools: Tools, cwd: Path, package: str) -> tuple[str, ...]:
    parts: list[str] = []
    ask = [package]
    while ask:
        found = await tools.attempt("apt-cache", "depends", "--important", ask.pop(), cwd=cwd)
        if found.status:
            raise _not_offered(package, found)
        for word in found.output.split():
            if _KERNEL_PART.fullmatch(word) and word not in parts:
                parts.append(word)
                ask.append(word)
    if not parts:
        raise Unavailable(f"{package} depends on no kernel", hint="apt-get update")
    return tuple(parts)


async def _candidate(tools: Tools, cache: Path, name: str) -> Package:
    shown = await tools.attempt("apt-cache", "show", "--no-all-versions", name, cwd=cache)
    fields = {match[1]: match[2] for match in _FIELD.finditer(shown.output)}
    if shown.status or not {"Version", "Architecture"} <= set(fields):
        raise _not_offered(name, shown)
    version = fields["Version"]
    # As apt names downloaded files.
    file = f"{name}_{version.replace(':', '%3a')}_{fields['Architecture']}.deb"
    return Package(name, version, cache / file)


def _not_offered(what: str, finished: Finished) -> Unavailable:
    return Unavailable(
        f"this distribution does not offer {what}: {_end_of(finished)}",
        hint="apt-get update; the packages are those of Debian, 12 or newer, or of Ubuntu",
    )


def _end_of(finished: Finished) -> str:
    lines = [line.strip() for line in finished.output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
