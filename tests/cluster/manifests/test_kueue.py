"""The queues under the real Kueue, with simulated GPU nodes: quota, gangs, pools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from crucible.engines.kfp.kubernetes_config import QUEUE_LABEL
from crucible.specs.pools import POOL_LABEL
from crucible.testing.cluster import Cluster
from crucible.testing.cluster.simulated import RUN_FOR_ANNOTATION
from crucible.testing.controllers import install_kueue, install_trainer
from crucible.testing.site import RUNS, Site, hardened_pod, pods_of_job

pytestmark = pytest.mark.slow
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def launcher(site: Site, definitions: None) -> Iterator[Cluster]:
    """Signed in as our launcher, with two nodes of 8 GPUs in each pool of two."""
    try:
        install_trainer(site.cluster)
        install_kueue(site.cluster)
    except FileNotFoundError as error:
        pytest.skip(f"controllers could not be built: {error}")
    site.install("gpu")
    nodes = []
    for pool in ("gpu-train", "gpu-eval"):
        made = {"labels": {POOL_LABEL: pool}, "taints": (f"{POOL_LABEL}={pool}:NoSchedule",)}
        nodes += site.cluster.add_nodes(2, prefix=f"queued-{pool}", **made)
    site.cluster.wait("condition=Active", "clusterqueue/crucible")
    account = site.cluster.account_kubeconfig("crucible-launcher", RUNS)
    yield site.cluster.with_kubeconfig(account)
    site.cluster.kubectl("delete", "nodes", *nodes)


@pytest.fixture
def names(launcher: Cluster) -> Iterator[list[str]]:
    """TrainJobs that are gone after the test."""
    made: list[str] = []
    yield made
    for name in made:
        launcher.kubectl("delete", "trainjob", name, f"--namespace={RUNS}", "--ignore-not-found")


def start(launcher: Cluster, names: list[str], name: str, run_for: str) -> None:
    """A job of two nodes with 8 GPUs each, which is all that the pool has."""
    pod = {"metadata": {"annotations": {RUN_FOR_ANNOTATION: run_for}}}
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    patch = {"template": {"spec": {"replicatedJobs": jobs}}}
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": RUNS,
            "labels": {QUEUE_LABEL: "crucible"},
        },
        "spec": {
            "runtimeRef": {"name": "crucible-torch"},
            "trainer": {
                "image": "registry.example/train:1",
                "numNodes": 2,
                "resourcesPerNode": {
                    "requests": {"cpu": "8", "memory": "64Gi"},
                    "limits": {GPU: "8"},
                },
            },
            "runtimePatches": [
                {"manager": "crucible.dev/engine", "trainingRuntimeSpec": patch},
            ],
        },
    }
    names.append(name)
    launcher.kubectl("create", "-f", "-", text=yaml.safe_dump(job))


def test_a_job_goes_to_its_pool_as_a_whole(launcher: Cluster, names: list[str]) -> None:
    """Kueue adds the pool's selector and toleration; the job itself names neither."""
    start(launcher, names, "whole", "2s")
    launcher.wait("condition=Complete", "trainjob/whole", namespace=RUNS, timeout_seconds=120)
    pods = pods_of_job(launcher, "whole")
    assert {pod["spec"]["nodeName"] for pod in pods} == {
        "queued-gpu-train-0",
        "queued-gpu-train-1",
    }
    for pod in pods:
        assert pod["spec"]["nodeSelector"][POOL_LABEL] == "gpu-train"
        assert pod["spec"]["priorityClassName"] == "crucible-training"


def test_a_job_waits_for_quota(launcher: Cluster, names: list[str]) -> None:
    """Suspended and without a pod, until the first has given back what it had."""
    start(launcher, names, "first", "20s")
    launcher.wait("jsonpath={.spec.suspend}=false", "trainjob/first", namespace=RUNS)
    start(launcher, names, "second", "1s")
    launcher.wait("condition=Suspended", "trainjob/second", namespace=RUNS)
    assert pods_of_job(launcher, "second") == []
    launcher.wait("condition=Complete", "trainjob/first", namespace=RUNS, timeout_seconds=120)
    launcher.wait("condition=Complete", "trainjob/second", namespace=RUNS, timeout_seconds=120)


def test_a_gpu_pod_is_queued_by_its_label(site: Site, launcher: Cluster) -> None:
    """As steps on one node are: the pool is the step's choice, the admission Kueue's."""
    pod = hardened_pod("evaluate", nodeSelector={POOL_LABEL: "gpu-eval"})
    pod["metadata"]["labels"] = {QUEUE_LABEL: "crucible"}
    pod["spec"]["containers"][0]["resources"] = {"limits": {GPU: "8"}}
    site.cluster.apply(pod)
    site.cluster.wait("condition=PodScheduled", "pod/evaluate", namespace=RUNS)
    spec = site.cluster.get("pod", "evaluate", RUNS)["spec"]
    site.cluster.kubectl("delete", "pod", "evaluate", f"--namespace={RUNS}", "--wait=false")
    assert spec["nodeName"].startswith("queued-gpu-eval-")
    assert any(toleration.get("key") == POOL_LABEL for toleration in spec["tolerations"])


def test_pods_without_a_queue_are_left_alone(site: Site, launcher: Cluster) -> None:
    site.cluster.apply(hardened_pod("driver"))
    site.cluster.wait("condition=PodScheduled", "pod/driver", namespace=RUNS)
    spec = site.cluster.get("pod", "driver", RUNS)["spec"]
    site.cluster.kubectl("delete", "pod", "driver", f"--namespace={RUNS}", "--wait=false")
    assert spec["nodeName"] == site.cluster.node_name
