"""A cluster of its own with the manifests in it: they have fixed names and hold for all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible.testing.cluster import KUBECONFIG_VARIABLE, start_cluster
from crucible.testing.site import Site

MANIFESTS = Path(__file__).parents[3] / "manifests"


@pytest.fixture(scope="package")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if os.environ.get(KUBECONFIG_VARIABLE):
        pytest.skip("installs for a whole cluster, and the one given is somebody's")
    request.getfixturevalue("buildable")
    with start_cluster("manifests") as own:
        yield Site(own, MANIFESTS)


@pytest.fixture(scope="package")
def definitions(site: Site) -> None:
    """Kinds of Trainer, JobSet, Kueue and Argo."""
    try:
        site.define_custom_resources()
    except FileNotFoundError as error:
        pytest.skip(f"no definitions of custom resources: {error}")
