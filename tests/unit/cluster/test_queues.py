"""Where something stands in Kueue's queue."""

from __future__ import annotations

import pytest

from crucible.cluster.queues import queue_view
from crucible.testing.kube_api import Fault

WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/runs/workloads"
VISIBILITY = "/apis/visibility.kueue.x-k8s.io"


@pytest.fixture
def kueue(api) -> None:
    versions = [{"version": "v1beta1"}, {"version": "v1beta2"}]
    api.documents |= {
        "/apis/kueue.x-k8s.io": {"versions": versions, "preferredVersion": versions[1]},
        "/apis/kueue.x-k8s.io/v1beta2": {"resources": [{"name": "workloads"}]},
    }


def put(api, name: str, uid: str, *conditions: dict[str, str]) -> None:
    metadata = {"name": name, "labels": {"kueue.x-k8s.io/job-uid": uid}}
    spec, status = {"queueName": "gpus"}, {"conditions": list(conditions)}
    api.put(WORKLOADS, {"metadata": metadata, "spec": spec, "status": status})


def serve_positions(api, *names: str) -> None:
    resources = [{"name": "localqueues/pendingworkloads"}]
    items = [{"metadata": {"name": n}, "positionInLocalQueue": i} for i, n in enumerate(names)]
    path = f"{VISIBILITY}/v1beta2/namespaces/runs/localqueues/gpus/pendingworkloads"
    api.documents |= {
        VISIBILITY: {"versions": [{"version": "v1beta2"}]},
        f"{VISIBILITY}/v1beta2": {"resources": resources},
        path: {"items": items},
    }


def test_no_kueue(connection) -> None:
    assert queue_view(connection, "runs", "u") is None


@pytest.mark.usefixtures("kueue")
def test_not_queued(api, connection) -> None:
    put(api, "other", "another-uid")
    assert queue_view(connection, "runs", "u") is None


@pytest.mark.usefixtures("kueue")
def test_waiting_with_a_position(api, connection) -> None:
    reason = "couldn't assign flavors: insufficient unused quota for nvidia.com/gpu"
    pending = {"type": "QuotaReserved", "status": "False", "message": reason}
    put(api, "trainjob-a", "u", pending)
    serve_positions(api, "other", "trainjob-a")
    found = queue_view(connection, "runs", "u")
    assert (found.position, found.is_admitted) == (2, False)
    assert str(found) == f"waiting for quota of queue gpus, position 2: {reason}"


@pytest.mark.usefixtures("kueue")
def test_a_cluster_that_does_not_tell_positions(api, connection) -> None:
    put(api, "trainjob-a", "u")
    assert str(queue_view(connection, "runs", "u")) == "waiting for quota of queue gpus"
    serve_positions(api, "trainjob-a")
    api.faults.append(Fault("pendingworkloads", status=403))
    assert queue_view(connection, "runs", "u").position is None


@pytest.mark.usefixtures("kueue")
def test_admitted(api, connection) -> None:
    put(api, "trainjob-a", "u", {"type": "Admitted", "status": "True"})
    assert str(queue_view(connection, "runs", "u")) == "admitted by queue gpus"
