"""One Kubernetes for all tests here, started when the first of them asks for it.

`CRUCIBLE_TEST_KUBECONFIG` names another cluster to use instead. A test that asks for a cluster is
marked ``cluster`` and gets the time that a first build of Kubernetes takes.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible.testing.cluster import (
    KUBECONFIG_VARIABLE,
    Cluster,
    MachineUnfit,
    OwnCluster,
    build_programs,
    check_machine,
    start_cluster,
)
from crucible.testing.left_out import leave_out

BUILD_SECONDS = 1800


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"cluster", "site"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


@pytest.fixture(scope="session")
def buildable(request: pytest.FixtureRequest) -> None:
    """A Kubernetes can be started here, and is built."""
    try:
        check_machine()
    except MachineUnfit as unfit:
        leave_out(request.config, "THE CLUSTER TESTS", str(unfit))
        pytest.skip("no Kubernetes can be started here; why stands at the end")
    _build_aloud(request.config)


@pytest.fixture(scope="package")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Kubernetes with the rights of an administrator."""
    given = os.environ.get(KUBECONFIG_VARIABLE)
    if given:
        yield Cluster(Path(given), tmp_path_factory.mktemp("cluster"))
        return
    request.getfixturevalue("buildable")
    with start_cluster("tests") as own:
        yield own


@pytest.fixture
def own_cluster(cluster: Cluster) -> OwnCluster:
    """A cluster whose parts may be killed."""
    if not isinstance(cluster, OwnCluster):
        pytest.skip(f"breaks the cluster, and {KUBECONFIG_VARIABLE} names somebody's")
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, under the strictest of the pod security standards."""
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    name = cluster.add_namespace(f"test-{secrets.token_hex(4)}", strict)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def _build_aloud(config: pytest.Config) -> None:
    """Build what is absent, with lines that show on the terminal: it takes minutes."""
    capture = config.pluginmanager.getplugin("capturemanager")
    logger = logging.getLogger("crucible.testing.cluster")
    with capture.global_and_fixture_disabled():
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            build_programs()
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
