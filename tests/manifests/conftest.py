"""Every overlay, built once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from crucible.testing.manifests import Manifest, render

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
_BUILT: dict[str, list[Manifest]] = {}


@pytest.fixture(scope="session")
def manifests() -> Path:
    return MANIFESTS


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    """The objects of one overlay; a test with it runs for each."""
    return _built(request.param)


@pytest.fixture(scope="session")
def gpu() -> list[Manifest]:
    """The overlay that holds every component."""
    return _built("gpu")


@pytest.fixture(scope="session")
def versions() -> dict[str, str]:
    """The pinned version of each prerequisite, by repository."""
    content = yaml.safe_load((MANIFESTS / "third-party" / "kustomization.yaml").read_text())
    found: dict[str, str] = {}
    for address in content["resources"]:
        match = re.match(
            r"https://github\.com/([\w-]+/[\w-]+)/.*(?:[?&]ref=|/download/)(v?\d[\d.]*\d)\b",
            address,
        )
        assert match, f"not pinned: {address}"
        assert found.setdefault(match[1], match[2]) == match[2]
    return found


def _built(name: str) -> list[Manifest]:
    if name not in _BUILT:
        _BUILT[name] = render(MANIFESTS / "overlays" / name)
    return _BUILT[name]
