"""A real API server takes every object, without a warning, as often as one likes."""

from __future__ import annotations

import pytest

from crucible.testing.site import RUNS, SYSTEM, Site, hardened_pod


@pytest.mark.parametrize("overlay", ["dev", "gpu", "profile"])
@pytest.mark.usefixtures("definitions")
def test_an_overlay_is_taken(site: Site, overlay: str) -> None:
    site.install(overlay)
    again = site.apply(overlay).splitlines()
    assert len(again) > 30
    assert all(line.endswith("serverside-applied") for line in again)


def test_what_kfp_wrote_into_its_config_stays(site: Site) -> None:
    root = {"data": {"defaultPipelineRoot": "minio://mlpipeline/elsewhere"}}
    config = {"apiVersion": "v1", "kind": "ConfigMap", **root}
    site.cluster.apply({**config, "metadata": {"name": "kfp-launcher", "namespace": RUNS}})
    site.install("dev")
    site.apply("dev")
    data = site.cluster.get("configmap", "kfp-launcher", RUNS)["data"]
    assert data["defaultPipelineRoot"] == "minio://mlpipeline/elsewhere"
    assert "secretName: crucible-store" in data["providers"]


def test_priorities_reach_pods(site: Site) -> None:
    site.install("dev")
    site.cluster.apply(hardened_pod("trainer", priorityClassName="crucible-training"))
    spec = site.cluster.get("pod", "trainer", RUNS)["spec"]
    site.cluster.kubectl("delete", "pod", "trainer", f"--namespace={RUNS}", "--now")
    assert (spec["priority"], spec["preemptionPolicy"]) == (10000, "Never")


def test_submitters_are_viewers(site: Site) -> None:
    """The controller fills the role; a second apply of ours must not empty it."""
    site.install("dev")
    site.cluster.wait("jsonpath={.rules}", "clusterrole/crucible-submitter")
    site.apply("dev")
    rules = site.cluster.get("clusterrole", "crucible-submitter")["rules"]
    resources = {resource for rule in rules for resource in rule["resources"]}
    assert {"pods/log", "workflows", "services/proxy", "runs"} <= resources


def test_a_deleted_store_leaves_its_volume(site: Site) -> None:
    site.install("dev")
    site.cluster.wait("create", "persistentvolumeclaim/data-store-0", namespace=SYSTEM)
    site.cluster.kubectl("delete", "statefulset", "store", f"--namespace={SYSTEM}", "--wait")
    claim = site.cluster.get("persistentvolumeclaim", "data-store-0", SYSTEM)
    site.apply("dev")
    assert "deletionTimestamp" not in claim["metadata"]
    assert claim["metadata"].get("ownerReferences", []) == []
