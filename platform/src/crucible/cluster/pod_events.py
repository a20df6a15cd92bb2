"""What the cluster says about a pod: its events."""

from __future__ import annotations

from dataclasses import dataclass

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.pods import PodView
from crucible.cluster.times import seconds_of
from crucible.cluster.wire import Json


@dataclass(frozen=True)
class EventView:
    """One event, perhaps seen many times. Clusters forget events after an hour."""

    reason: str
    """E.g. ``FailedScheduling``."""
    message: str
    is_warning: bool
    count: int
    first_at: float | None
    last_at: float | None
    source: str
    """Who says so, e.g. ``kubelet``."""


def events_of(connection: Connection, pod: PodView) -> list[EventView]:
    """Events of this pod and of no earlier one of its name, oldest first; errors as in `call`."""
    path = path_of("v1", "events", namespace=pod.namespace)
    query = {"fieldSelector": f"involvedObject.uid={pod.uid}"}
    items, _ = connection.items(f"list events of pod {pod.name}", path, query)
    # Most times are whole seconds; within one, names go by the nanosecond of the first report.
    by_name = sorted(items, key=lambda item: str(item["metadata"]["name"]))
    return sorted(map(_view, by_name), key=lambda event: int(event.last_at or 0))


def _view(item: Json) -> EventView:
    series = item.get("series") or {}
    first = item.get("firstTimestamp") or item.get("eventTime")
    last = series.get("lastObservedTime") or item.get("lastTimestamp") or first
    return EventView(
        reason=item.get("reason") or "",
        message=" ".join((item.get("message") or "").split()),
        is_warning=item.get("type") == "Warning",
        count=series.get("count") or item.get("count") or 1,
        first_at=seconds_of(first),
        last_at=seconds_of(last),
        source=(item.get("source") or {}).get("component") or item.get("reportingComponent") or "",
    )
