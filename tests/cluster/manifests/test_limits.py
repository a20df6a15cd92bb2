"""What the API server and the scheduler make of pods: hardened, counted, in their pool."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from crucible.specs.context import PoolSpec
from crucible.testing.cluster import Cluster
from crucible.testing.manifests import of_kind, pod_templates, render
from crucible.testing.site import RUNS, SYSTEM, Site, hardened_pod

MANIFESTS = Path(__file__).parents[3] / "manifests"
POOL = "crucible.dev/pool"


@pytest.fixture(autouse=True)
def installed(site: Site, definitions: None) -> None:
    install(site, "gpu")


def install(site: Site, overlay: str) -> None:
    """A quota counts once a controller has taken note of it."""
    site.install(overlay)
    hard = site.cluster.get("resourcequota", "crucible-runs", RUNS)["spec"]["hard"]["pods"]
    noted = f"jsonpath={{.status.hard.pods}}={hard}"
    site.cluster.wait(noted, "resourcequota/crucible-runs", namespace=RUNS)


@pytest.fixture(scope="module")
def closed(site: Site) -> str:
    """A run namespace that enforces `restricted`."""
    return site.cluster.add_namespace(
        "closed", {"pod-security.kubernetes.io/enforce": "restricted"}
    )


def step_pod(namespace: str, *, non_root: bool) -> dict[str, Any]:
    """As KFP 2.17 and Argo 4 build one: seccomp on the pod, each container hardened by itself."""
    pod = hardened_pod("step", namespace)
    hardened = copy.deepcopy(pod["spec"]["containers"][0]["securityContext"])
    own = {**hardened, "runAsNonRoot": True, "runAsUser": 65532}
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    main = {**pod["spec"]["containers"][0], "securityContext": {**hardened, **profile}}
    if non_root:
        main["securityContext"] |= {"runAsNonRoot": True}
    pod["spec"] |= {
        "securityContext": profile,
        "initContainers": [
            {"name": name, "image": name, "securityContext": {**own, **profile}}
            for name in ("init", "kfp-launcher")
        ],
        "containers": [{"name": "wait", "image": "wait", "securityContext": own}, main],
        "volumes": [
            {"name": "s3-scratch", "emptyDir": {}},
            {
                "name": "my-minio-cred",
                "secret": {"secretName": "mlpipeline-minio-artifact", "optional": True},
            },
        ],
    }
    return pod


def test_the_systems_namespace_refuses_what_is_not_restricted(site: Site) -> None:
    assert site.refusal(hardened_pod("fine", SYSTEM)) == ""
    privileged = hardened_pod("bad", SYSTEM)
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    assert "violates PodSecurity" in site.refusal(privileged)
    host = hardened_pod("bad", SYSTEM, volumes=[{"name": "node", "hostPath": {"path": "/"}}])
    assert "restricted volume types" in site.refusal(host)


def test_our_steps_fit_into_a_restricted_namespace(site: Site, closed: str) -> None:
    assert site.refusal(step_pod(closed, non_root=True)) == ""
    assert "runAsNonRoot != true" in site.refusal(step_pod(closed, non_root=False))
    # Hence KFP's own namespace enforces less: pipelines by others may not say it.
    assert site.refusal(step_pod(RUNS, non_root=False)) == ""


def test_trainers_fit_into_a_restricted_namespace(site: Site, closed: str) -> None:
    [runtime] = of_kind(render(MANIFESTS / "overlays" / "gpu"), "ClusterTrainingRuntime")
    [template] = pod_templates(runtime)
    pod = copy.deepcopy(template)
    pod["spec"]["containers"][0]["image"] = "registry.example/train:1"
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] |= {"name": "trainer", "namespace": closed}
    assert site.refusal(pod) == ""


def test_the_quota_refuses_too_much(site: Site) -> None:
    install(site, "dev")
    asks = hardened_pod("greedy")
    for resource, much in (("cpu", "17"), ("memory", "65Gi"), ("nvidia.com/gpu", "2")):
        requests = {"requests": {resource: much}}
        if resource == "nvidia.com/gpu":
            requests["limits"] = {resource: much}
        asks["spec"]["containers"][0]["resources"] = requests
        assert "exceeded quota: crucible-runs" in site.refusal(asks), resource
    asks["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "8", "memory": "16Gi"}}
    assert site.refusal(asks) == ""
    install(site, "gpu")
    asks["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "96", "memory": "700Gi"}}
    assert site.refusal(asks) == ""


def test_pods_of_argo_and_kfp_pass_the_quota(site: Site) -> None:
    """Those without requests get some; MySQL's request is above no default limit."""
    site.cluster.apply(hardened_pod("bare"))
    [bare] = site.cluster.get("pod", "bare", RUNS)["spec"]["containers"]
    site.cluster.kubectl("delete", "pod", "bare", f"--namespace={RUNS}", "--now")
    assert bare["resources"] == {"requests": {"cpu": "50m", "memory": "64Mi"}}
    mysql = hardened_pod("mysql")
    mysql["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m", "memory": "800Mi"}}
    assert site.refusal(mysql) == ""
    driver = hardened_pod("driver")
    driver["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi"},
    }
    assert site.refusal(driver) == ""


@pytest.fixture(scope="module")
def pools(site: Site) -> dict[str, list[str]]:
    """One simulated node a pool, labelled and tainted as the README says."""
    from crucible.testing.cluster.simulated import TAINT

    return {
        pool: site.cluster.add_nodes(
            1, prefix=pool, labels={POOL: pool}, taints=(TAINT, f"{POOL}={pool}:NoSchedule")
        )
        for pool in ("gpu-train", "gpu-eval", "gpu-serve")
    }


def pool_pod(pool: str, **spec: Any) -> dict[str, Any]:
    pod = hardened_pod(f"in-{pool}", nodeSelector={POOL: pool}, **spec)
    limits = {PoolSpec().gpu_resource: "8"}
    pod["spec"]["containers"][0]["resources"] = {"limits": limits}
    return pod


def place(cluster: Cluster, pod: dict[str, Any]) -> dict[str, Any]:
    """The pod once the scheduler has looked at it; the pod itself is gone again."""
    name = pod["metadata"]["name"]
    cluster.apply(pod)
    try:
        cluster.wait("jsonpath={.status.conditions[?(@.type=='PodScheduled')].status}",
                     f"pod/{name}", namespace=RUNS)  # fmt: skip
        return cluster.get("pod", name, RUNS)
    finally:
        cluster.kubectl("delete", "pod", name, f"--namespace={RUNS}", "--grace-period=0", "--force")


@pytest.mark.parametrize("pool", ["gpu-train", "gpu-eval", "gpu-serve"])
def test_a_pod_lands_in_its_pool(site: Site, pools: dict[str, list[str]], pool: str) -> None:
    """With the selector and tolerations that contexts document, on nodes as the README has them."""
    tolerations = [
        {"key": POOL, "operator": "Equal", "value": pool, "effect": "NoSchedule"},
        {"key": "kwok.x-k8s.io/node", "operator": "Exists"},
    ]
    placed = place(site.cluster, pool_pod(pool, tolerations=tolerations))
    assert [placed["spec"]["nodeName"]] == pools[pool]


def test_a_pod_of_another_pool_stays_away(site: Site, pools: dict[str, list[str]]) -> None:
    tolerations = [
        {"key": POOL, "operator": "Equal", "value": "gpu-eval", "effect": "NoSchedule"},
        {"key": "kwok.x-k8s.io/node", "operator": "Exists"},
    ]
    waiting = place(site.cluster, pool_pod("gpu-train", tolerations=tolerations))
    assert "nodeName" not in waiting["spec"]
    [scheduled] = [c for c in waiting["status"]["conditions"] if c["type"] == "PodScheduled"]
    assert re.search(r"untolerated taint", scheduled["message"])
