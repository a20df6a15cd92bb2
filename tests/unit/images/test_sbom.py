"""The bill of materials against CycloneDX's own schema, and against what it was made from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from crucible.images.lock import Pin
from crucible.images.sbom import Package, debian_packages, python_packages, write_sbom

MADE_AT = datetime(1980, 1, 1, tzinfo=UTC)
HASHES = ("a" * 64, "b" * 64)
STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13.dfsg-1
Description: compression library
 Version: of no package

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: base-files
Status: install ok installed
Architecture: amd64
Version: 12.4+deb12u14
"""


def install(folder: Path, name: str, version: str, *fields: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *fields]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_python_packages_have_version_licence_and_the_locks_hashes(tmp_path: Path) -> None:
    install(tmp_path, "B_b", "2.0", "License-Expression: MIT OR Apache-2.0", "License: no")
    install(tmp_path, "a", "1.0", "License: BSD", "Classifier: License :: OSI Approved :: X")
    install(tmp_path, "c", "3", "License: " + "long " * 40, "Classifier: License :: OSI :: MIT")
    install(tmp_path, "d", "4")
    assert python_packages(tmp_path, {"b-b": Pin("b-b", "2.0", HASHES)}) == [
        Package("pypi", "a", "1.0", licence="BSD"),
        Package("pypi", "b-b", "2.0", licence="MIT OR Apache-2.0", hashes=HASHES),
        Package("pypi", "c", "3", licence="MIT"),
        Package("pypi", "d", "4"),
    ]


def test_debian_packages_are_those_installed() -> None:
    arch = {"arch": "amd64"}
    assert debian_packages(STATUS) == [
        Package("deb", "base-files", "12.4+deb12u14", "debian", arch),
        Package("deb", "zlib1g", "1:1.2.13.dfsg-1", "debian", arch),
    ]


def bill(packages: list[Package]) -> Any:
    text = write_sbom("train", packages, MADE_AT)
    problems = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problems is None, str(problems)[:500]
    return json.loads(text)


def test_the_bill_is_valid_and_names_every_package() -> None:
    packages = [
        Package("pypi", "a", "1.0", licence="MIT OR Apache-2.0", hashes=HASHES),
        Package("pypi", "b", "1.0", licence="Some words"),
        *debian_packages(STATUS),
        Package("generic", "cpython", "3.11.2", licence="PSF-2.0"),
    ]
    found = bill(packages)
    assert found["metadata"]["component"]["name"] == "crucible-train"
    components = {component["name"]: component for component in found["components"]}
    assert components["a"]["purl"] == "pkg:pypi/a@1.0"
    (archives,) = components["a"]["externalReferences"]
    assert {entry["content"] for entry in archives["hashes"]} == set(HASHES)
    assert components["a"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert components["b"]["licenses"] == [{"license": {"name": "Some words"}}]
    assert components["zlib1g"]["purl"] == "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64"
    assert components["cpython"]["licenses"] == [{"license": {"id": "PSF-2.0"}}]
    (needs,) = (entry for entry in found["dependencies"] if entry["ref"] == "crucible-train")
    assert len(needs["dependsOn"]) == len(packages)


def test_equal_packages_give_equal_bytes_and_others_another_serial_number() -> None:
    one, two = [Package("pypi", "a", "1")], [Package("pypi", "a", "2")]
    assert write_sbom("base", one, MADE_AT) == write_sbom("base", list(one), MADE_AT)
    assert bill(one)["serialNumber"] != bill(two)["serialNumber"]
