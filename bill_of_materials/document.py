"""The document: every component of every lock, and what the product itself is."""

from __future__ import annotations

import os
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

from bill_of_materials.locks import Package, Use, packages

_SCOPES = {
    Use.RUNNING: ComponentScope.REQUIRED,
    Use.BUILDING: ComponentScope.OPTIONAL,
    Use.DEVELOPING: ComponentScope.EXCLUDED,
}
_ALGORITHMS = {"sha256": HashAlgorithm.SHA_256, "sha512": HashAlgorithm.SHA_512}


def document(root: Path) -> str:
    """Return the bill of the checkout at `root`, as JSON of CycloneDX 1.6.

    The same locks give the same text, but for the time: that is now, or SOURCE_DATE_EPOCH
    (seconds), as for every build that can be repeated. Raises OSError and ValueError for locks
    that cannot be read.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    product = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        licenses=[LicenseExpression(project["license"])],
        purl=PackageURL("pypi", None, project["name"], project["version"]),
        bom_ref="product",
    )
    bom = Bom(components=[_component(package) for package in packages(root)])
    bom.metadata.component = product
    direct = {Requirement(told).name for told in project["dependencies"]}
    bom.register_dependency(product, [one for one in bom.components if one.name in direct])
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    bom.metadata.timestamp = (
        datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime.now(UTC)
    )
    told = sorted(f"{component.bom_ref} {component.hashes}" for component in bom.components)
    bom.serial_number = uuid5(NAMESPACE_URL, "\n".join([str(product.purl), *told]))
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _component(package: Package) -> Component:
    purl = package.purl
    return Component(
        name=purl.name,
        group=purl.namespace,
        version=purl.version,
        type=package.kind,
        scope=_SCOPES[package.use],
        purl=purl,
        bom_ref=str(purl),
        # One digest is of the one file there is. Python's lock has one of each file, for which
        # CycloneDX has no place: those are told beside the component.
        hashes=[_hash(one) for one in package.digests] if len(package.digests) == 1 else (),
        properties=[
            Property(name="plexspaces:lock", value=package.lock),
            *(
                Property(name="plexspaces:file-digest", value=one)
                for one in package.digests
                if len(package.digests) > 1
            ),
        ],
    )


def _hash(digest: str) -> HashType:
    algorithm, _, content = digest.partition(":")
    return HashType(alg=_ALGORITHMS[algorithm], content=content)
