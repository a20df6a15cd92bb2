"""TrainJobs, queues and workflows in a real API server, with the projects' own definitions.

Their controllers do not run: a test writes the status that they would write.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from crucible.cluster import Connection, connect
from crucible.cluster.paths import path_of
from crucible.cluster.queues import queue_view
from crucible.cluster.trainjobs import (
    API_VERSION,
    PLURAL,
    TrainerFeatures,
    create_trainjob,
    delete_trainjob,
    get_trainjob,
    trainer_features,
    watch_trainjobs,
)
from crucible.cluster.workflows import find_workflow
from crucible.errors import ObjectNotFound, ObjectRejected
from crucible.specs.context import KubernetesSpec
from crucible.testing.cluster import Cluster, OwnCluster
from crucible.testing.manifests import module_folder

TRAINER = ("github.com/kubeflow/trainer/v2", "manifests/base/crds")
KUEUE = ("sigs.k8s.io/kueue", "v0.17.1", "config/components/crd/bases")
ARGO = ("github.com/argoproj/argo-workflows/v4", "v4.0.5", "manifests/base/crds/minimal")


def define(cluster: Cluster, module: str, version: str, folder: str, word: str) -> None:
    """Define the kinds of which the file's name says so."""
    try:
        paths = sorted((module_folder(module, version) / folder).glob(f"*{word}*.yaml"))
    except FileNotFoundError as error:
        pytest.skip(f"no definitions here: {error}")
    cluster.apply([yaml.safe_load(path.read_text()) for path in paths])


def eventually(look: Callable[[], object], wanted: object) -> None:
    """An API server serves new definitions after a moment, and publishes them later still."""
    deadline = time.monotonic() + 60.0
    found = None
    while time.monotonic() < deadline:
        with contextlib.suppress(ObjectNotFound):
            found = look()
        if found == wanted:
            return
        time.sleep(0.2)
    assert found == wanted


@pytest.fixture(scope="module")
def kinds(cluster: Cluster) -> None:
    """Trainer, Kueue and Argo are known from now on."""
    if not isinstance(cluster, OwnCluster):
        pytest.skip("defines kinds for a whole cluster, and the one given is somebody's")
    define(cluster, TRAINER[0], "v2.3.0", TRAINER[1], "trainjobs")
    define(cluster, *KUEUE, "workloads")
    define(cluster, *ARGO, "workflows")
    with contextlib.closing(connect(KubernetesSpec(kubeconfig=str(cluster.kubeconfig)))) as any_:
        for group, version, plural in (
            ("trainer.kubeflow.org", "v1alpha1", "trainjobs"),
            ("kueue.x-k8s.io", "v1beta2", "workloads"),
            ("argoproj.io", "v1alpha1", "workflows"),
        ):
            path = path_of(f"{group}/{version}", plural)
            eventually(lambda path=path: any_.items("list", path)[0], [])


@pytest.fixture
def connection(cluster: Cluster, namespace: str) -> Iterator[Connection]:
    made = connect(KubernetesSpec(kubeconfig=str(cluster.kubeconfig), namespace=namespace))
    yield made
    made.close()


def job(name: str = "train") -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"run": "r"}},
        "spec": {
            "runtimeRef": {"name": "crucible-torch"},
            "suspend": True,
            "trainer": {"numNodes": 2, "command": ["true"]},
        },
    }


def set_status(connection: Connection, kind: tuple[str, str], name: str, status: Any) -> None:
    path = path_of(*kind, namespace=connection.namespace, name=name, part="status")
    connection.request(f"set the status of {name}", "PATCH", path, body={"status": status})


def condition(type_: str, status: str = "True", **fields: str) -> dict[str, str]:
    moment = "2026-01-01T00:00:00Z"
    filled = {"reason": "Because", "message": "so", **fields}
    return {"type": type_, "status": status, "lastTransitionTime": moment, **filled}


@pytest.mark.usefixtures("own_cluster")
def test_a_cluster_that_knows_none_of_them(namespace: str, connection: Connection) -> None:
    assert trainer_features(connection) is None
    assert queue_view(connection, namespace, "uid-1") is None
    with pytest.raises(ObjectNotFound, match="create TrainJob train"):
        create_trainjob(connection, namespace, job())
    with pytest.raises(ObjectNotFound, match="look for the workflow of run-1"):
        find_workflow(connection, namespace, "run-1")


@pytest.mark.usefixtures("kinds")
def test_versions_of_trainer_are_told_apart(
    cluster: Cluster, namespace: str, connection: Connection
) -> None:
    cluster.kubectl("create", "serviceaccount", "jane", f"--namespace={namespace}")
    kubeconfig = cluster.account_kubeconfig("jane", namespace)
    jane = connect(KubernetesSpec(kubeconfig=str(kubeconfig)))
    for version, expected in {
        "v2.0.0": TrainerFeatures("podSpecOverrides", has_progress=False, has_deadline=False),
        "v2.3.0": TrainerFeatures("runtimePatches", has_progress=True, has_deadline=True),
    }.items():
        define(cluster, TRAINER[0], version, TRAINER[1], "trainjobs")
        eventually(lambda: trainer_features(connection), expected)
        # Who may read no definitions has it from the published API.
        eventually(lambda: trainer_features(jane), expected)
    jane.close()


@pytest.mark.usefixtures("kinds")
def test_a_trainjobs_life(namespace: str, connection: Connection) -> None:
    kind = API_VERSION, PLURAL
    with watch_trainjobs(connection, namespace, "run=r") as watching:
        made = create_trainjob(connection, namespace, job())
        assert create_trainjob(connection, namespace, job()).uid == made.uid
        assert watching.get(timeout_seconds=30.0).item == made
        assert made.state == "suspended"
        progress = {
            "progressPercentage": 40,
            "estimatedRemainingSeconds": 90,
            "metrics": [{"name": "loss", "value": "0.5"}],
            "lastUpdatedTime": "2026-01-01T00:00:00Z",
        }
        counts = dict.fromkeys(("active", "failed", "ready", "succeeded", "suspended"), 0)
        set_status(connection, kind, "train", {
            "jobsStatus": [{"name": "node", **counts, "ready": 1, "active": 1}],
            "trainerStatus": progress,
            "conditions": [condition("Suspended", "False")],
        })  # fmt: skip
        seen = watching.get(timeout_seconds=30.0).item
        assert (seen.progress_percentage, seen.remaining_seconds) == (40.0, 90.0)
        assert seen.metrics == {"loss": 0.5}
        failed = condition("Failed", reason="JobsFailed", message="node failed")
        set_status(connection, kind, "train", {"conditions": [failed]})
        seen = watching.get(timeout_seconds=30.0).item
        assert (seen.state, seen.failure) == ("failed", "JobsFailed: node failed")
        assert not delete_trainjob(connection, namespace, "train", uid="0" * 8)
        assert delete_trainjob(connection, namespace, "train", uid=made.uid)
        assert watching.get(timeout_seconds=30.0).kind == "deleted"
    assert get_trainjob(connection, namespace, "train") is None


@pytest.mark.usefixtures("kinds")
def test_what_trainer_does_not_take(namespace: str, connection: Connection) -> None:
    body = job()
    body["spec"]["trainer"]["numNodes"] = "two"
    with pytest.raises(ObjectRejected, match="numNodes"):
        create_trainjob(connection, namespace, body)


@pytest.mark.usefixtures("kinds")
def test_a_place_in_the_queue(namespace: str, connection: Connection) -> None:
    found = connection.get("look for Kueue", "/apis/kueue.x-k8s.io")
    kind = f"kueue.x-k8s.io/{found['preferredVersion']['version']}", "workloads"
    template = {"spec": {"containers": [{"name": "a", "image": "b"}], "restartPolicy": "Never"}}
    labels = {"kueue.x-k8s.io/job-uid": "uid-1"}
    body = {
        "apiVersion": kind[0],
        "kind": "Workload",
        "metadata": {"name": "w", "labels": labels},
        "spec": {
            "queueName": "gpus",
            "podSets": [{"name": "main", "count": 1, "template": template}],
        },
    }
    connection.create("queue it", path_of(*kind, namespace=namespace), body)
    pending = condition("QuotaReserved", "False", message="insufficient quota")
    set_status(connection, kind, "w", {"conditions": [pending]})
    said = "waiting for quota of queue gpus: insufficient quota"
    assert str(queue_view(connection, namespace, "uid-1")) == said
    assert queue_view(connection, namespace, "uid-2") is None
    admitted = [condition("QuotaReserved"), condition("Admitted")]
    set_status(connection, kind, "w", {"conditions": admitted})
    assert queue_view(connection, namespace, "uid-1").is_admitted


@pytest.mark.usefixtures("kinds")
def test_nodes_of_a_workflow(namespace: str, connection: Connection) -> None:
    assert find_workflow(connection, namespace, "run-1") is None
    node = {"id": "w-1", "name": "w", "type": "Pod", "phase": "Pending",
            "displayName": "step", "templateName": "t", "message": "Unschedulable"}  # fmt: skip
    packed = gzip.compress(json.dumps({"w-1": node}).encode())
    body = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "w", "labels": {"pipeline/runid": "run-1"}},
        "spec": {"entrypoint": "t"},
        "status": {
            "phase": "Running",
            "compressedNodes": base64.b64encode(packed).decode(),
        },
    }
    kind = "argoproj.io/v1alpha1", "workflows"
    connection.create("make it", path_of(*kind, namespace=namespace), body)
    found = find_workflow(connection, namespace, "run-1")
    assert (found.phase, found.is_complete) == ("Running", True)
    assert found.node("w-t-1").message == "Unschedulable"
