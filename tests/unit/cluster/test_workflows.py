"""Argo's nodes of a run, plain, compressed, or kept elsewhere."""

from __future__ import annotations

import base64
import gzip
import json

import pytest

from crucible.cluster.workflows import find_workflow, workflow_view

WORKFLOWS = "/apis/argoproj.io/v1alpha1/namespaces/runs/workflows"
NODES = {
    "hello-x-1": {"id": "hello-x-1", "type": "DAG", "displayName": "root", "phase": "Running"},
    "hello-x-123": {
        "id": "hello-x-123", "type": "Pod", "displayName": "executor", "phase": "Pending",
        "templateName": "system-container-impl", "startedAt": "2026-01-01T00:00:00Z",
        "message": "Unschedulable: 0/1 nodes are available",
    },
}  # fmt: skip


def workflow(name: str = "hello-x", **status: object) -> dict[str, object]:
    metadata = {"name": name, "labels": {"pipeline/runid": "run-1"}}
    return {"metadata": metadata, "status": {"phase": "Running", **status}}


def packed(nodes: object) -> str:
    return base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()


@pytest.mark.parametrize(
    "status", [{"nodes": NODES}, {"compressedNodes": packed(NODES), "nodes": {}}]
)
def test_nodes(api, connection, status) -> None:
    api.put(WORKFLOWS, workflow(**status))
    found = find_workflow(connection, "runs", "run-1")
    assert found.is_complete
    pod = found.node("hello-x-system-container-impl-123")
    assert pod.message == "Unschedulable: 0/1 nodes are available"
    assert (pod.phase, pod.display_name, pod.started_at) == ("Pending", "executor", 1767225600.0)
    assert [node.pod_name for node in found.nodes if node.type == "DAG"] == [""]


def test_no_workflow(api, connection) -> None:
    api.put(WORKFLOWS, workflow())
    assert find_workflow(connection, "runs", "run-2") is None


def test_the_newest_of_several(api, connection) -> None:
    for name, day in (("old", "01"), ("new", "03"), ("middle", "02")):
        item = workflow(name)
        item["metadata"]["creationTimestamp"] = f"2026-01-{day}T00:00:00Z"  # type: ignore[index]
        api.put(WORKFLOWS, item)
    assert find_workflow(connection, "runs", "run-1").name == "new"


@pytest.mark.parametrize(
    "status",
    [
        {"offloadNodeStatusVersion": "fnv:1"},
        {"compressedNodes": "no base64!"},
        {"compressedNodes": base64.b64encode(b"no gzip").decode()},
        {"compressedNodes": packed([1, 2])},
        {"compressedNodes": packed(NODES)[:40]},
    ],
)
def test_nodes_that_cannot_be_read(status) -> None:
    found = workflow_view(workflow(**status))
    assert (found.nodes, found.is_complete) == ((), False)
    assert found.phase == "Running"


def test_a_workflow_that_has_only_been_made() -> None:
    found = workflow_view({"metadata": {"name": "a"}})
    assert (found.nodes, found.is_complete, found.phase) == ((), True, "")


def test_names_of_pods() -> None:
    """Source of the rule and of the length: Argo's GeneratePodName."""
    template = "t" * 300
    node = {"id": "w-99", "type": "Pod", "templateName": template}
    named = workflow_view({"metadata": {"name": "w"}, "status": {"nodes": {"w-99": node}}})
    assert named.nodes[0].pod_name == f"{('w-' + template)[:242]}-99"
    old = {
        "metadata": {"name": "w", "annotations": {"workflows.argoproj.io/pod-name-format": "v1"}}
    }
    assert workflow_view({**old, "status": {"nodes": {"w-99": node}}}).nodes[0].pod_name == "w-99"
    by_reference = {"id": "w-7", "type": "Pod", "templateRef": {"template": "tt"}}
    found = workflow_view({"metadata": {"name": "w"}, "status": {"nodes": {"w-7": by_reference}}})
    assert found.nodes[0].pod_name == "w-tt-7"
