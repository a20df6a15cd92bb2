"""Views of pods: why one does not start, and how it ended."""

from __future__ import annotations

import pytest

from crucible.cluster.pod_events import events_of
from crucible.cluster.pods import get_pod, list_pods, pod_view, watch_pods

PODS = "/api/v1/namespaces/runs/pods"


def status(phase: str, *containers: dict[str, object], **fields: object) -> dict[str, object]:
    names = [entry["name"] for entry in containers] or ["main"]
    return {
        "metadata": {"name": "a", "namespace": "runs", "uid": "u", "resourceVersion": "7",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": name} for name in names], "nodeName": "n1"},
        "status": {"phase": phase, "containerStatuses": list(containers), **fields},
    }  # fmt: skip


def waiting(reason: str, message: str = "") -> dict[str, object]:
    return {"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}


def ended(code: int, reason: str, name: str = "main") -> dict[str, object]:
    times = {"startedAt": "2026-01-01T00:00:10Z", "finishedAt": "2026-01-01T00:01:10Z"}
    return {"name": name, "state": {"terminated": {"exitCode": code, "reason": reason, **times}}}


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", ""])
def test_what_passes_by_itself_is_no_obstacle(reason) -> None:
    assert pod_view(status("Pending", waiting(reason))).obstacle == ""


@pytest.mark.parametrize(
    "reason",
    ["ImagePullBackOff", "ErrImageNeverPull", "CreateContainerConfigError", "CrashLoopBackOff"],
)
def test_what_does_not_is_one(reason) -> None:
    found = pod_view(status("Pending", waiting(reason, 'secret "no-such" not found')))
    assert found.obstacle == f'main: {reason}: secret "no-such" not found'


def test_an_unschedulable_pod() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }
    found = pod_view(status("Pending", conditions=[condition]))
    assert found.obstacle.startswith("Unschedulable: 0/1 nodes")
    assert found.container("main").state == "waiting"


@pytest.mark.parametrize(
    ("item", "failure"),
    [
        (status("Failed", ended(137, "OOMKilled")), "main: OOMKilled (exit code 137)"),
        (status("Failed", ended(0, "Completed", "wait"), ended(3, "Error")),
         "main: Error (exit code 3)"),
        (status("Failed", ended(143, "Error"), reason="DeadlineExceeded", message="too long"),
         "DeadlineExceeded: too long"),
        (status("Failed", reason="Evicted", message="The node was low on resource: memory."),
         "Evicted: The node was low on resource: memory."),
        (status("Failed", ended(137, "Error"), conditions=[
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
             "message": "preempted"}]), "PreemptionByScheduler: preempted"),
        (status("Failed"), "failed without a reason"),
        (status("Succeeded", ended(0, "Completed")), ""),
        (status("Running", {"name": "main", "state": {"running": {}}}), ""),
    ],
)  # fmt: skip
def test_how_it_ended(item, failure) -> None:
    assert pod_view(item).failure == failure


def test_times_and_codes() -> None:
    found = pod_view(status("Failed", ended(3, "Error"), startTime="2026-01-01T00:00:05.5Z"))
    main = found.container("main")
    assert main.exit_code == 3
    assert main.finished_at - main.started_at == 60.0
    assert found.started_at - found.created_at == 5.5
    assert found.node == "n1"


def test_a_restart_keeps_how_the_last_run_ended() -> None:
    entry = {"name": "main", "restartCount": 2, "state": {"running": {}},
             "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}  # fmt: skip
    main = pod_view(status("Running", entry)).container("main")
    assert (main.restart_count, main.last_reason, main.last_exit_code) == (2, "OOMKilled", 137)


def test_readiness_ends_with_the_wish_to_delete() -> None:
    item = status("Running", conditions=[{"type": "Ready", "status": "True"}])
    assert pod_view(item).is_ready
    item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not pod_view(item).is_ready


def test_a_pod_of_which_nothing_is_known_yet() -> None:
    found = pod_view({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "main"}]}})
    assert (found.phase, found.obstacle, found.failure) == ("Unknown", "", "")


def test_lists_and_watches(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    api.put(PODS, pod("b"))
    assert [p.name for p in list_pods(connection, "runs", "run=a")] == ["a", "b"]
    assert list_pods(connection, "runs", "run=b") == []
    assert get_pod(connection, "runs", "b").phase == "Running"
    assert get_pod(connection, "runs", "c") is None
    with watch_pods(connection, "runs", "run=a", name="b") as watching:
        assert watching.get(timeout_seconds=5.0).item.name == "b"
        api.put(PODS, pod("b", "Failed"))
        assert watching.get(timeout_seconds=5.0).item.phase == "Failed"


def test_events_are_those_of_this_pod_oldest_first(api, connection, pod) -> None:
    made = api.put(PODS, pod("a"))
    events = "/api/v1/namespaces/runs/events"

    nanoseconds = iter(range(0x1000, 0x2000))

    def event(reason: str, uid: str, **fields: object) -> None:
        name = f"a.{next(nanoseconds):x}"
        item = {"metadata": {"name": name}, "involvedObject": {"uid": uid}, "reason": reason}
        api.put(events, {**item, **fields})

    uid = made["metadata"]["uid"]
    event("Late", uid, lastTimestamp="2026-01-01T00:05:00Z", type="Warning", count=4,
          source={"component": "kubelet"})  # fmt: skip
    event("Early", uid, eventTime="2026-01-01T00:00:00.123456Z", reportingComponent="scheduler")
    event("Then", uid, lastTimestamp="2026-01-01T00:00:00Z")  # whole seconds, as a kubelet's
    event("OfAnother", "other-uid")
    found = events_of(connection, get_pod(connection, "runs", "a"))
    assert [(e.reason, e.is_warning, e.count, e.source) for e in found] == [
        ("Early", False, 1, "scheduler"), ("Then", False, 1, ""), ("Late", True, 4, "kubelet"),
    ]  # fmt: skip
