"""The training runtime under the real Trainer and JobSet, their webhooks included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.engines.kfp.kubernetes_config import SCRATCH
from crucible.engines.kfp.trainjob import (
    JobIdentity,
    Owner,
    TrainJobRequest,
    trainjob_json,
    trainjob_manifest,
)
from crucible.sdk.component import Resources
from crucible.specs.context import ContextDocument
from crucible.testing.cluster import Cluster, ClusterFailed
from crucible.testing.controllers import install_trainer
from crucible.testing.manifests import of_kind, render, restricted_violations
from crucible.testing.network_policy import Pod, allowed
from crucible.testing.plans import make_step
from crucible.testing.site import RUNS, Site, pods_of_job

MANIFESTS = Path(__file__).parents[3] / "manifests"
pytestmark = pytest.mark.slow
SHELL = "docker.io/library/crucible-shell:1"
RENDEZVOUS = """
echo "node $PET_NODE_RANK of $PET_NNODES, port $PET_MASTER_PORT, user $(id -u)"
ls /var/run/secrets 2>/dev/null
[ "$PET_NODE_RANK" = 0 ] && { echo welcome | timeout 90 nc -l -p "$PET_MASTER_PORT"; exit; }
for attempt in $(seq 60); do
    said=$(nc -w 5 "$PET_MASTER_ADDR" "$PET_MASTER_PORT" </dev/null 2>/dev/null) && break
    sleep 1
done
echo "the master said: $said"
[ "$said" = welcome ]
"""


@pytest.fixture(scope="module")
def launcher(site: Site, definitions: None) -> Cluster:
    """Signed in as our launcher of TrainJobs."""
    try:
        install_trainer(site.cluster)
    except FileNotFoundError as error:
        pytest.skip(f"Trainer could not be built: {error}")
    site.install("gpu")
    account = site.cluster.account_kubeconfig("crucible-launcher", RUNS)
    return site.cluster.with_kubeconfig(account)


def train_job(name: str, script: str, **spec: Any) -> dict[str, Any]:
    numbers = {"runAsUser": 65532, "runAsGroup": 65532}
    pod = {"spec": {"securityContext": {**numbers, "runAsNonRoot": True}}}
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    patch = {"template": {"spec": {"replicatedJobs": jobs}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": RUNS},
        "spec": {
            "runtimeRef": {"name": "crucible-torch"},
            "trainer": {
                "image": SHELL,
                "numNodes": 2,
                "resourcesPerNode": {"requests": {"cpu": "50m", "memory": "32Mi"}},
                "command": ["sh", "-c", script],
            },
            "runtimePatches": [
                {"manager": "crucible.dev/engine", "trainingRuntimeSpec": patch},
            ],
            **spec,
        },
    }


def test_two_nodes_meet(launcher: Cluster) -> None:
    launcher.kubectl("create", "-f", "-", text=yaml.safe_dump(train_job("meet", RENDEZVOUS)))
    launcher.wait("condition=Complete", "trainjob/meet", namespace=RUNS, timeout_seconds=180)
    pods = pods_of_job(launcher, "meet")
    said = [
        launcher.kubectl("logs", pod["metadata"]["name"], f"--namespace={RUNS}").splitlines()
        for pod in pods
    ]
    assert said == [
        ["node 0 of 2, port 29500, user 65532"],
        ["node 1 of 2, port 29500, user 65532", "the master said: welcome"],
    ]
    for pod in pods:
        assert pod["spec"]["priorityClassName"] == "crucible-training"
        assert pod["spec"]["automountServiceAccountToken"] is False
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        assert [mount["mountPath"] for mount in mounts] == ["/dev/shm"]
    launcher.kubectl("delete", "trainjob", "meet", f"--namespace={RUNS}")


def test_the_policies_select_these_pods(launcher: Cluster) -> None:
    """By the labels that Trainer and JobSet really give them."""
    launcher.kubectl("create", "-f", "-", text=yaml.safe_dump(train_job("labels", "sleep 60")))
    selector = "--selector=jobset.sigs.k8s.io/jobset-name=labels"
    launcher.wait("create", "pod", selector, namespace=RUNS)
    labels = pods_of_job(launcher, "labels")[0]["metadata"]["labels"]
    launcher.kubectl("delete", "trainjob", "labels", f"--namespace={RUNS}")
    policies = of_kind(render(MANIFESTS / "overlays" / "gpu"), "NetworkPolicy")
    trainer = Pod(RUNS, labels)
    assert allowed(policies, trainer, trainer, 29500)
    assert not allowed(policies, trainer, "203.0.113.7", 443)
    assert not allowed(policies, Pod(RUNS, {"app": "notebook"}), trainer, 29500)


def test_a_failed_node_ends_the_job(launcher: Cluster) -> None:
    """Nothing starts it again but the step that made it."""
    script = '[ "$PET_NODE_RANK" = 0 ] && exit 3; trap exit TERM; sleep 300 & wait'
    launcher.kubectl("create", "-f", "-", text=yaml.safe_dump(train_job("fail", script)))
    launcher.wait("condition=Failed", "trainjob/fail", namespace=RUNS, timeout_seconds=120)
    assert len(pods_of_job(launcher, "fail")) <= 2
    launcher.kubectl("delete", "trainjob", "fail", f"--namespace={RUNS}")


def test_the_engines_job_keeps_what_the_runtime_says(launcher: Cluster) -> None:
    """What the engine changes in the pods must leave them hardened, closed off and with memory."""
    job = engines_job()
    launcher.kubectl("create", "-f", "-", text=yaml.safe_dump(job))
    name = job["metadata"]["name"]
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={name}"
    launcher.wait("create", "pod", selector, namespace=RUNS)
    [pod, *_] = pods_of_job(launcher, name)
    launcher.kubectl("delete", "trainjob", name, f"--namespace={RUNS}")
    assert restricted_violations(pod["spec"]) == []
    assert pod["spec"]["automountServiceAccountToken"] is False
    [container] = pod["spec"]["containers"]
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/dev/shm", SCRATCH}
    volumes = {volume["name"]: volume["emptyDir"] for volume in pod["spec"]["volumes"]}
    assert set(volumes) == {"shared-memory", "scratch"}
    assert volumes["shared-memory"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "crucible"


def engines_job() -> dict[str, Any]:
    context = ContextDocument.model_validate(
        {
            "apiVersion": "crucible/v1",
            "kind": "Context",
            "metadata": {"name": "test"},
            "store": {"uri": "s3://crucible/artifacts"},
            "images": {"train": "registry.example/train@sha256:" + "0" * 64},
        }
    )
    resources = Resources(cpus=8, memory_gib=64, gpus=8, nodes=2, pool="gpu-train")
    image = context.images["train"]
    step = make_step("count", "Count", resources=resources, image=image)
    job = trainjob_manifest(
        TrainJobRequest.from_json(trainjob_json(context, step)),
        JobIdentity("run-1", "count", 1),
        Owner("launcher", "0000"),
        component="some:Component",
        board_prefix="journal/run-1/steps/count/0001/",
        patch_field="runtimePatches",
    )
    del job["metadata"]["ownerReferences"]  # there is no such pod here, and it would be collected
    return job


def test_trainer_refuses_what_the_runtime_lacks(launcher: Cluster) -> None:
    job = train_job("wrong", "true")
    job["spec"]["runtimeRef"]["name"] = "no-such-runtime"
    with pytest.raises(ClusterFailed, match="no-such-runtime"):
        launcher.kubectl("create", "-f", "-", text=yaml.safe_dump(job))
