"""The bill of materials of an image, CycloneDX 1.6, made in the image while it is built.

``python -m crucible.images.sbom SET`` lists the installed distributions (with the archives that the
locks of the image accept), the Debian packages and the Python that runs them. Equal images give
equal bytes: the serial number follows from the content and the time is `SOURCE_DATE_EPOCH`.

Limits: files that a base image brings in no package are not seen, Python itself excepted; licences
of Debian packages are left out, since they stand in prose.
"""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING

import crucible
from crucible.images.lock import Pin, normalise, read_lock

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

SBOM_DIR = Path("/usr/share/sbom")
LOCKS_DIR = Path("/usr/share/crucible/images")
"""In an image: the folders of base and of its own set."""
DPKG_STATUS = Path("/var/lib/dpkg/status")
_EPOCH = 315532800
"""1980-01-01, as the layers have it."""
_MAX_LICENCE_CHARS = 80
"""What is longer is not the name of a licence but its text."""
_NAMESPACE = uuid.UUID("6f2b1f0e-6f0b-5d0c-9b0a-3f6f0b6d2c11")


@dataclass(frozen=True)
class Package:
    """One entry of the bill."""

    kind: str
    """Of the package URL: ``pypi``, ``deb`` or ``generic``."""
    name: str
    version: str
    namespace: str | None = None
    qualifiers: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    hashes: tuple[str, ...] = ()
    """SHA-256 of the archives of which one was installed."""


def python_packages(site_packages: Path, pins: Mapping[str, Pin]) -> list[Package]:
    """The distributions installed in a folder, by name."""
    packages = []
    for found in distributions(path=[str(site_packages)]):
        name = normalise(found.metadata["Name"])
        hashes = pins[name].hashes if name in pins else ()
        licence = _licence(found)
        packages.append(Package("pypi", name, found.version, licence=licence, hashes=hashes))
    return sorted(packages, key=lambda package: package.name)


def debian_packages(status: str) -> list[Package]:
    """What ``/var/lib/dpkg/status`` says is installed, by name."""
    packages = []
    for paragraph in status.split("\n\n"):
        fields = dict(_fields(paragraph))
        if fields.get("Status") == "install ok installed":
            qualifiers = {"arch": fields["Architecture"]}
            name, version = fields["Package"], fields["Version"]
            packages.append(Package("deb", name, version, "debian", qualifiers))
    return sorted(packages, key=lambda package: package.name)


def write_sbom(set_name: str, packages: Sequence[Package], made_at: datetime) -> str:
    """The bill as CycloneDX JSON.

    Args:
        set_name: of the image.
        packages: what is in it.
        made_at: goes into the bill.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    image = Component(
        name=f"crucible-{set_name}",
        version=crucible.__version__,
        type=ComponentType.CONTAINER,
        bom_ref=f"crucible-{set_name}",
    )
    components = [_component(package) for package in packages]
    bom = Bom(
        components=components,
        metadata=BomMetaData(component=image, timestamp=made_at),
        serial_number=uuid.uuid5(_NAMESPACE, repr((set_name, crucible.__version__, packages))),
    )
    bom.register_dependency(image, components)
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return outputter.output_as_string(indent=2) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the bill of the image in which this runs to ``/usr/share/sbom/SET.cdx.json``."""
    (set_name,) = arguments
    site_packages = Path(crucible.__file__).parents[1]
    pins: dict[str, Pin] = {}
    for folder in sorted(LOCKS_DIR.iterdir()):
        pins |= read_lock(folder / "requirements.txt")
    packages = python_packages(site_packages, pins)
    if DPKG_STATUS.exists():
        packages += debian_packages(DPKG_STATUS.read_text(encoding="utf-8"))
    packages.append(_interpreter())
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))
    text = write_sbom(set_name, packages, datetime.fromtimestamp(seconds, UTC))
    SBOM_DIR.mkdir(parents=True, exist_ok=True)
    (SBOM_DIR / f"{set_name}.cdx.json").write_text(text, encoding="utf-8")
    return 0


def _interpreter() -> Package:
    name = platform.python_implementation().lower()
    return Package("generic", name, platform.python_version(), licence="PSF-2.0")


def _fields(paragraph: str) -> Iterator[tuple[str, str]]:
    """The one-line fields of a paragraph of Debian's control format."""
    for line in paragraph.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "\t")):
            yield name, value.strip()


def _licence(found: Distribution) -> str | None:
    """As the distribution declares it: an expression, a name, or what its classifiers say."""
    metadata = found.metadata
    (expression, *_) = metadata.get_all("License-Expression") or [""]
    (name, *_) = metadata.get_all("License") or [""]
    if expression:
        return str(expression)
    if name and "\n" not in name and len(name) <= _MAX_LICENCE_CHARS:
        return str(name)
    last = [text.split(" :: ")[-1] for text in metadata.get_all("Classifier") or () if
            text.startswith("License :: ")]  # fmt: skip
    return ", ".join(sorted(last)) or None


def _component(package: Package) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import (
        ExternalReference,
        ExternalReferenceType,
        HashAlgorithm,
        HashType,
        XsUri,
    )
    from cyclonedx.model.component import Component, ComponentType

    purl = _purl(package)
    references = []
    if package.hashes:
        archives = ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(purl.to_string()),
            comment="one of the archives with these hashes",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hex_) for hex_ in package.hashes],
        )
        references.append(archives)
    licence = package.licence
    return Component(
        type=ComponentType.APPLICATION if package.kind == "generic" else ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else (),
        external_references=references,
    )


def _purl(package: Package) -> PackageURL:
    from packageurl import PackageURL

    return PackageURL(
        type=package.kind,
        namespace=package.namespace,
        name=package.name,
        version=package.version,
        qualifiers=dict(package.qualifiers),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
