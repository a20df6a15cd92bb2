"""One reason out of many: processes that end for want of another are not it."""

from __future__ import annotations

from typing import Any

import pytest

from crucible.cluster.pods import PodView, pod_view
from crucible.cluster.trainjobs import TrainJobView, trainjob_view
from crucible.engines.kfp.training_verdict import node_of, verdict_of
from crucible.sdk.failure import FailureRecord
from crucible.sdk.pod.board import RankFailure

INDEX = "batch.kubernetes.io/job-completion-index"


def pod(node: int, phase: str = "Running", *, conditions: Any = (), **ended: Any) -> PodView:
    state = {"terminated": ended} if ended else {"running": {}}
    return pod_view(
        {
            "metadata": {"name": f"job-node-0-{node}-x", "labels": {INDEX: str(node)}},
            "spec": {"containers": [{"name": "node"}], "nodeName": f"worker-{node}"},
            "status": {
                "phase": phase,
                "containerStatuses": [{"name": "node", "state": state}],
                "conditions": list(conditions),
            },
        }
    )


def job(**status: Any) -> TrainJobView:
    return trainjob_view({"metadata": {"name": "job"}, "status": status})


def said(rank: int, cause: str, at: float, message: str = "m") -> RankFailure:
    return RankFailure(rank, rank, at, FailureRecord(cause, message, "f", 1))


def verdict(pods: list[PodView], failures: list[RankFailure] = [], lost: Any = ()) -> Any:  # noqa: B006
    by_node = {node_of(each): each for each in pods}
    return verdict_of(job(), by_node, failures, lost=lost, memory_gib=4.0)


def test_the_cause_counts_not_the_first_to_notice() -> None:
    failures = [
        said(0, "peer-lost", 1.0),
        said(2, "raised", 3.0, "ValueError: late"),
        said(1, "raised", 2.0, "ValueError: first"),
    ]
    found = verdict([pod(0), pod(1), pod(2)], failures)
    assert found.node == 1
    assert found.failure.cause == "raised"
    text = "rank 1 on node 1 (pod job-node-0-1-x on worker-1): ValueError: first"
    assert found.failure.message == text


def test_lack_of_memory_is_no_temporary_fault() -> None:
    killed = pod(1, "Failed", exitCode=137, reason="OOMKilled")
    found = verdict([pod(0), killed], [said(0, "peer-lost", 1.0)])
    assert (found.failure.cause, found.failure.exit_code) == ("out-of-memory", 137)
    assert "node 1" in found.failure.message
    assert "4 GiB" in found.failure.message


@pytest.mark.parametrize("code", [137, 143])
def test_a_node_that_a_signal_ended_is_tried_again(code: int) -> None:
    killed = pod(1, "Failed", exitCode=code, reason="Error")
    found = verdict([pod(0), killed], [said(0, "peer-lost", 1.0)], lost=[0])
    assert (found.failure.cause, found.failure.exit_code) == ("temporary", 75)
    assert found.node == 1


def test_a_node_that_cannot_even_begin_is_not_tried_again() -> None:
    found = verdict(
        [pod(0), pod(1, "Failed", exitCode=1, reason="Error")], [said(0, "peer-lost", 1)]
    )
    assert (found.failure.cause, found.failure.exit_code, found.node) == ("raised", 1, 1)


def test_an_evicted_node_says_why() -> None:
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
               "message": "drained"}  # fmt: skip
    failures = [said(0, "killed", 1.0), said(1, "killed", 0.5)]
    found = verdict([pod(0), pod(1, conditions=[evicted])], failures)
    assert found.failure.cause == "temporary"
    assert "EvictionByEvictionAPI: drained" in found.failure.message
    assert found.node == 1


def test_of_pods_that_went_away_the_first_is_told() -> None:
    found = verdict([pod(0), pod(1)], [said(0, "peer-lost", 2.0)], lost=[1, 0])
    assert (found.failure.cause, found.node) == ("temporary", 1)
    assert "its pod is gone" in found.failure.message


def test_with_no_other_reason_trainers_own_is_told() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "JobSetFailed", "message": "no quota"}
    found = verdict_of(job(conditions=[failed]), {}, [], lost=[], memory_gib=1.0)
    assert found.node is None
    assert found.failure.message == "TrainJob job: JobSetFailed: no quota"
