"""What the project has of others, read into one form: the locks, and what is in the repository."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cyclonedx.model.component import ComponentType
from packageurl import PackageURL
from packaging.requirements import Requirement

_PYTHON = "requirements.txt"
_CARGO = ("agent/Cargo.lock", "agent/init/Cargo.lock")
_NPM = "src/plexspaces_node/toolchains/locked/typescript/package-lock.json"
_VENDORED = "src/plexspaces_node/node/http/vendored.json"
_GO = "sdk/go/go.mod"
_DOCKER = "Dockerfile"
# What the product runs on; a requirement for another system is in the lock, and nowhere else.
_PLATFORM = {"sys_platform": "linux", "platform_python_implementation": "CPython"}
_GO_REQUIRES = re.compile(r"^(?:require\s+|\t)(\S+)\s+v(\S+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^ARG (FIRECRACKER_\w+)=(\S+)$", re.MULTILINE)


class Use(Enum):
    """What a package is there for."""

    RUNNING = "running"
    BUILDING = "building"
    DEVELOPING = "developing"


@dataclass(frozen=True, slots=True)
class Package:
    """One package at one version.

    `digests` are `ALGORITHM:HEX`, one for each file the lock allows; `lock` is its path.
    """

    purl: PackageURL
    use: Use
    lock: str
    digests: tuple[str, ...] = ()
    kind: ComponentType = ComponentType.LIBRARY


def packages(root: Path) -> tuple[Package, ...]:
    """Return what the locks of the checkout at `root` name, each once, in the locks' order."""
    found: dict[str, Package] = {}
    everything = (_python, _cargo, _npm, _vendored, _go, _docker)
    for one in (each for read in everything for each in read(root)):
        found.setdefault(str(one.purl), one)
    return tuple(found.values())


def _python(root: Path) -> Iterator[Package]:
    running = {name for name, *_ in _requirements(root / "requirements-node.txt")}
    building = {name for name, *_ in _requirements(root / "requirements-build.txt")}
    for name, version, digests in _requirements(root / _PYTHON):
        use = (
            Use.RUNNING if name in running else Use.BUILDING if name in building else Use.DEVELOPING
        )
        yield Package(PackageURL("pypi", None, name, version), use, _PYTHON, digests)


def _requirements(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name, version and digests of what a lock of Python's has installed on Linux."""
    for line in path.read_text().replace("\\\n", " ").splitlines():
        told, *digests = line.split("--hash=")
        if not told.strip():
            continue
        requirement = Requirement(told.strip())
        (pin,) = requirement.specifier
        if requirement.marker is None or requirement.marker.evaluate(_PLATFORM):
            yield requirement.name, pin.version, tuple(one.strip() for one in digests)


def _cargo(root: Path) -> Iterator[Package]:
    """Yield the crates from outside; those of the project have no source in their lock."""
    for lock in _CARGO:
        for crate in tomllib.loads((root / lock).read_text())["package"]:
            if "source" in crate:
                purl = PackageURL("cargo", None, crate["name"], crate["version"])
                yield Package(purl, Use.RUNNING, lock, (f"sha256:{crate['checksum']}",))


def _npm(root: Path) -> Iterator[Package]:
    for place, package in json.loads((root / _NPM).read_text())["packages"].items():
        # The packages of other systems' programs are in the lock, and are never installed.
        if not place or "linux" not in package.get("os", ["linux"]):
            continue
        namespace, _, name = place.rpartition("node_modules/")[2].rpartition("/")
        yield Package(
            PackageURL("npm", namespace or None, name, package["version"]),
            Use.BUILDING,
            _NPM,
            (_digest(package["integrity"]),),
        )


def _vendored(root: Path) -> Iterator[Package]:
    """Yield what the dashboard carries, by the digest of the package that it is from."""
    for package in json.loads((root / _VENDORED).read_text()):
        purl = PackageURL("npm", None, package["name"], package["version"])
        yield Package(purl, Use.RUNNING, _VENDORED, (_digest(package["integrity"]),))


def _digest(integrity: str) -> str:
    """Return what npm calls the integrity of a package as a digest in hex."""
    algorithm, _, digest = integrity.partition("-")
    return f"{algorithm}:{base64.b64decode(digest).hex()}"


def _go(root: Path) -> Iterator[Package]:
    """Yield the modules that the SDK asks for: whoever builds with it has them too."""
    for module, version in _GO_REQUIRES.findall((root / _GO).read_text()):
        namespace, _, name = module.rpartition("/")
        yield Package(
            PackageURL("golang", namespace or None, name, f"v{version}"), Use.BUILDING, _GO
        )


def _docker(root: Path) -> Iterator[Package]:
    """Yield what the image fetches as it is, by its digest."""
    told = dict(_ARGUMENT.findall((root / _DOCKER).read_text()))
    purl = PackageURL(
        "github", "firecracker-microvm", "firecracker", f"v{told['FIRECRACKER_VERSION']}"
    )
    digest = f"sha256:{told['FIRECRACKER_SHA256']}"
    yield Package(purl, Use.RUNNING, _DOCKER, (digest,), ComponentType.APPLICATION)
