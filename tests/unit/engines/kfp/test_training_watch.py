"""What is said of a TrainJob while it waits, starts and runs, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.cluster import Connection, Patience, connect
from crucible.engines.kfp.training_watch import TrainJobWatch
from crucible.engines.kfp.trainjob import TrainJobRequest
from crucible.sdk.retry import Backoff
from crucible.specs.context import KubernetesSpec
from crucible.testing.kube_api import Fault, KubeApi, kube_api

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/runs/trainjobs"
PODS = "/api/v1/namespaces/runs/pods"
Json = dict[str, Any]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with kube_api() as running:
        yield running


@pytest.fixture
def connection(api: KubeApi, tmp_path: Path) -> Iterator[Connection]:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump({
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }))  # fmt: skip
    patience = Patience(budget_seconds=0.2, backoff=Backoff(first_seconds=0.02, max_seconds=0.1))
    made = connect(KubernetesSpec(kubeconfig=str(path), namespace="runs"), patience=patience)
    yield made
    made.close()


@pytest.fixture
def watched(connection: Connection) -> Callable[..., TrainJobWatch]:
    def watched(**fields: Any) -> TrainJobWatch:
        base: Json = {
            "namespace": "runs", "runtime": "r", "image": "i", "nodes": 2, "memory_gib": 1.0,
            "processes_per_node": 1, "resources": {}, "env": [], "pod": {}, "queue": "gpus",
            "timeout_seconds": None, "queued_timeout_seconds": None,
        }  # fmt: skip
        request = TrainJobRequest(**(base | fields))
        return TrainJobWatch(connection, request, "job", clock=Clock())

    return watched


def put_job(api: KubeApi, *, suspend: bool = False, **status: Any) -> None:
    api.put(JOBS, {"metadata": {"name": "job"}, "spec": {"suspend": suspend}, "status": status})


def put_pod(api: KubeApi, node: int, phase: str = "Running", **status: Any) -> None:
    labels = {
        "jobset.sigs.k8s.io/jobset-name": "job",
        "batch.kubernetes.io/job-completion-index": str(node),
    }
    state = {"state": {"running": {}}} if phase == "Running" else {}
    containers = [{"name": "node", **state}]
    api.put(PODS, {
        "metadata": {"name": f"job-{node}", "labels": labels},
        "spec": {"containers": [{"name": "node"}]},
        "status": {"phase": phase, "containerStatuses": containers, **status},
    })  # fmt: skip


def waiting(reason: str) -> list[Json]:
    return [{"name": "node", "state": {"waiting": {"reason": reason}}}]


def test_a_suspended_job_waits_for_quota(api: KubeApi, watched: Any) -> None:
    put_job(api, suspend=True)
    watch = watched(queued_timeout_seconds=600.0)
    assert watch.look().words == "suspended: waiting for quota of queue gpus"
    watch.clock.now = 599.0
    assert watch.look().failure is None
    watch.clock.now = 601.0
    failure = watch.look().failure
    assert failure.cause == "quota"
    assert "got no quota in 10 min" in failure.message


def test_waiting_for_quota_is_no_time_of_the_step(api: KubeApi, watched: Any) -> None:
    put_job(api, suspend=True)
    watch = watched(timeout_seconds=60.0)
    watch.look()
    watch.clock.now = 1000.0
    put_job(api)
    assert watch.look().failure is None
    watch.clock.now = 1059.0
    assert watch.look().failure is None
    watch.clock.now = 1061.0
    assert watch.look().failure.cause == "timeout"


def test_a_job_that_loses_its_quota_has_not_failed(api: KubeApi, watched: Any) -> None:
    put_job(api)
    put_pod(api, 0)
    put_pod(api, 1)
    watch = watched()
    assert watch.look().words == "2 of 2 nodes run"
    put_job(api, suspend=True)
    api.remove(PODS, "job-0")
    api.remove(PODS, "job-1")
    look = watch.look()
    assert not look.is_over
    assert "waiting for quota" in look.words
    put_job(api)
    put_pod(api, 0)
    assert not watch.look().is_over


def test_a_pod_that_goes_away_ends_it(api: KubeApi, watched: Any) -> None:
    put_job(api)
    put_pod(api, 0)
    put_pod(api, 1)
    watch = watched()
    watch.look()
    api.remove(PODS, "job-1")
    assert watch.look().is_over
    assert watch.lost == [1]
    assert watch.pods[1].name == "job-1"


@pytest.mark.parametrize("type_", ["Complete", "Failed"])
def test_what_trainer_says_is_over(api: KubeApi, watched: Any, type_: str) -> None:
    put_job(api, conditions=[{"type": type_, "status": "True"}])
    assert watched().look().is_over


def test_a_job_that_was_deleted_is_over(api: KubeApi, watched: Any) -> None:
    look = watched().look()
    assert (look.is_over, look.job) == (True, None)


def test_a_node_without_room_waits_and_says_so(api: KubeApi, watched: Any) -> None:
    put_job(api)
    put_pod(api, 0)
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                 "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}  # fmt: skip
    put_pod(api, 1, "Pending", conditions=[condition])
    watch = watched()
    assert "node 1 does not start: Unschedulable: 0/3 nodes" in watch.look().words
    watch.clock.now = 10_000.0
    assert watch.look().failure is None


def test_a_node_without_an_image_is_given_up(api: KubeApi, watched: Any) -> None:
    put_job(api)
    put_pod(api, 0)
    put_pod(api, 1, "Pending", containerStatuses=waiting("ImagePullBackOff"))
    watch = watched()
    assert watch.look().failure is None
    watch.clock.now = 179.0
    assert watch.look().failure is None
    watch.clock.now = 181.0
    failure = watch.look().failure
    assert failure.cause == "image"
    assert "node 1 does not start: node: ImagePullBackOff" in failure.message


def test_a_cluster_that_is_away_ends_nothing(api: KubeApi, watched: Any) -> None:
    put_job(api)
    put_pod(api, 0)
    api.faults.append(Fault(status=503, times=20))
    assert watched().look().words == "1 of 2 nodes run"
