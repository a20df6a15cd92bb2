"""A cluster of its own with the manifests in it: they have fixed names and hold for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible.testing.cluster import Cluster, OwnCluster, start_cluster
from crucible.testing.site import Site

MANIFESTS = Path(__file__).parents[3] / "manifests"


@pytest.fixture(scope="session")
def site(cluster: Cluster) -> Iterator[Site]:
    if not isinstance(cluster, OwnCluster):
        pytest.skip("installs for a whole cluster, and the one given is somebody's")
    with start_cluster("manifests") as own:
        yield Site(own, MANIFESTS)


@pytest.fixture(scope="session")
def definitions(site: Site) -> None:
    """Kinds of Trainer, JobSet, Kueue and Argo."""
    try:
        site.define_custom_resources()
    except FileNotFoundError as error:
        pytest.skip(f"no definitions of custom resources: {error}")
