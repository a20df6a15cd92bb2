"""Where a TrainJob or a pod stands in Kueue's queue.

Source: Kueue, API group ``kueue.x-k8s.io``; a queued object has a Workload with its uid as label.
"""

from __future__ import annotations

from dataclasses import dataclass

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.pods import condition_views
from crucible.cluster.resources import served_version
from crucible.cluster.wire import Json
from crucible.errors import ClusterError, ClusterUnavailable

GROUP = "kueue.x-k8s.io"
_VISIBILITY = "visibility.kueue.x-k8s.io"
_OWNER = "kueue.x-k8s.io/job-uid"


@dataclass(frozen=True)
class QueueView:
    """A queued object."""

    queue: str
    """Name of the LocalQueue."""
    is_admitted: bool
    """It has its quota and may run."""
    position: int | None
    """From 1, among those that wait in the same queue; None if it does not wait or nobody tells."""
    reason: str
    """Why it waits, in Kueue's words."""

    def __str__(self) -> str:
        if self.is_admitted:
            return f"admitted by queue {self.queue}"
        place = "" if self.position is None else f", position {self.position}"
        why = f": {self.reason}" if self.reason else ""
        return f"waiting for quota of queue {self.queue}{place}{why}"


def queue_view(connection: Connection, namespace: str, uid: str) -> QueueView | None:
    """Where the object of that uid waits; None if nothing queues it, or there is no Kueue.

    Errors as `Connection.call`.
    """
    version = served_version(connection, GROUP, "workloads")
    if version is None:
        return None
    path = path_of(f"{GROUP}/{version}", "workloads", namespace=namespace)
    items, _ = connection.items("list workloads", path, {"labelSelector": f"{_OWNER}={uid}"})
    if not items:
        return None
    workload = max(items, key=lambda item: str(item["metadata"].get("creationTimestamp", "")))
    conditions = {each.type: each for each in condition_views(workload.get("status") or {})}
    queue = str((workload.get("spec") or {}).get("queueName") or "")
    admitted, reserved = conditions.get("Admitted"), conditions.get("QuotaReserved")
    if admitted is not None and admitted.is_true:
        return QueueView(queue, True, None, "")
    reason = "" if reserved is None or reserved.is_true else reserved.message
    position = _position(connection, namespace, queue, workload["metadata"]["name"])
    return QueueView(queue, False, position, " ".join(reason.split()))


def _position(connection: Connection, namespace: str, queue: str, workload: str) -> int | None:
    """As Kueue's visibility API has it, which not every installation serves."""
    try:
        version = served_version(connection, _VISIBILITY, "localqueues/pendingworkloads")
        if version is None:
            return None
        path = path_of(
            f"{_VISIBILITY}/{version}", "localqueues", namespace=namespace, name=queue,
            part="pendingworkloads",
        )  # fmt: skip
        pending: list[Json] = connection.get("ask for the queue", path).get("items") or []
    except (ClusterError, ClusterUnavailable):
        return None
    for entry in pending:
        if entry["metadata"]["name"] == workload:
            return int(entry.get("positionInLocalQueue", 0)) + 1
    return None
