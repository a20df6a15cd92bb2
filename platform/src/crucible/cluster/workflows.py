"""What Argo says about the nodes of a KFP run: the only place where a failure has its reason.

Source: argoproj/argo-workflows v4, ``status.nodes``; a large status is kept compressed in
``status.compressedNodes``, or in Argo's database, where we cannot read it.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.times import seconds_of
from crucible.cluster.wire import Json

API_VERSION, PLURAL = "argoproj.io/v1alpha1", "workflows"
RUN_LABEL = "pipeline/runid"
_NAME_FORMAT = "workflows.argoproj.io/pod-name-format"
_MAX_PREFIX_CHARS = 253 - 10 - 1
"""A pod's name without its hash; source: Argo's util/k8s.GeneratePodName."""
_MAX_STATUS_BYTES = 64 << 20


@dataclass(frozen=True)
class WorkflowNode:
    """One node: a pod, or a group of others."""

    id: str
    path: str
    """Where it stands: ``WORKFLOW.root.train.executor``."""
    display_name: str
    type: str
    """``Pod``, ``DAG``, ``Retry``, ``Skipped``, ..."""
    phase: str
    """``Pending``, ``Running``, ``Succeeded``, ``Failed``, ``Error``, ``Skipped``, ``Omitted``."""
    message: str
    """E.g. ``Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.``"""
    pod_name: str
    """Empty for a group."""
    template: str
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class WorkflowView:
    """The Workflow of a run at one moment."""

    name: str
    namespace: str
    uid: str
    phase: str
    message: str
    nodes: tuple[WorkflowNode, ...]
    is_complete: bool
    """False if the nodes are kept where we cannot read them."""
    created_at: float

    def node(self, pod_name: str) -> WorkflowNode | None:
        """The node of a pod."""
        return next((node for node in self.nodes if node.pod_name == pod_name), None)


def find_workflow(connection: Connection, namespace: str, run_id: str) -> WorkflowView | None:
    """The newest Workflow of a KFP run; None if it is not there yet, or was cleaned away.

    Errors as `Connection.call`.
    """
    path = path_of(API_VERSION, PLURAL, namespace=namespace)
    query = {"labelSelector": f"{RUN_LABEL}={run_id}"}
    items, _ = connection.items(f"look for the workflow of {run_id}", path, query)
    views = [workflow_view(item) for item in items]
    return max(views, key=lambda view: view.created_at, default=None)


def workflow_view(item: Json) -> WorkflowView:
    """The view of a Workflow as the API gives it."""
    metadata, status = item["metadata"], item.get("status") or {}
    nodes, is_complete = _nodes_of(status)
    uses_old_names = (metadata.get("annotations") or {}).get(_NAME_FORMAT) == "v1"
    return WorkflowView(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        phase=status.get("phase") or "",
        message=status.get("message") or "",
        nodes=tuple(_nodes(metadata["name"], nodes, uses_old_names=uses_old_names)),
        is_complete=is_complete,
        created_at=seconds_of(metadata.get("creationTimestamp")) or 0.0,
    )


def _nodes_of(status: Json) -> tuple[Json, bool]:
    """Nodes by id, and whether that is all of them."""
    packed = status.get("compressedNodes")
    if not packed:
        return status.get("nodes") or {}, not status.get("offloadNodeStatusVersion")
    try:
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        data = inflate.decompress(base64.b64decode(packed), _MAX_STATUS_BYTES)
        nodes = json.loads(data)
    except (binascii.Error, zlib.error, ValueError):
        return {}, False
    return (nodes, True) if isinstance(nodes, dict) else ({}, False)


def _nodes(workflow: str, nodes: Json, *, uses_old_names: bool) -> Iterator[WorkflowNode]:
    for node in nodes.values():
        reference = node.get("templateRef") or {}
        template = node.get("templateName") or reference.get("template") or ""
        pod_name = ""
        if node.get("type") == "Pod":
            pod_name = node["id"] if uses_old_names else _pod_name(workflow, node["id"], template)
        yield WorkflowNode(
            id=node["id"],
            path=node.get("name") or "",
            display_name=node.get("displayName") or node.get("name") or "",
            type=node.get("type") or "",
            phase=node.get("phase") or "",
            message=node.get("message") or "",
            pod_name=pod_name,
            template=template,
            started_at=seconds_of(node.get("startedAt")),
            finished_at=seconds_of(node.get("finishedAt")),
        )


def _pod_name(workflow: str, node_id: str, template: str) -> str:
    """``WORKFLOW-TEMPLATE-HASH``; the node's id is ``WORKFLOW-HASH``."""
    if node_id == workflow:
        return workflow
    number = node_id.rpartition("-")[2]
    prefix = f"{workflow}-{template}" if template else workflow
    return f"{prefix[:_MAX_PREFIX_CHARS]}-{number}"
