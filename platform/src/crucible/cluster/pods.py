"""Pods as we look at them: where they are, why they do not start, how they ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.times import seconds_of
from crucible.cluster.watch import Watch, WatchPace
from crucible.cluster.wire import Json

ContainerState = Literal["waiting", "running", "terminated"]
_STATES: tuple[ContainerState, ...] = ("terminated", "running", "waiting")

_STARTING = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons to wait that pass by themselves."""
_TAKEN_AWAY = "DisruptionTarget"
"""Condition of a pod that the cluster ends: preempted, evicted, its node drained or lost."""


@dataclass(frozen=True)
class ContainerView:
    """One container of a pod."""

    name: str
    is_init: bool
    state: ContainerState
    reason: str = ""
    """Why it waits (``ImagePullBackOff``) or how it ended (``OOMKilled``, ``Error``)."""
    message: str = ""
    exit_code: int | None = None
    restart_count: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    last_reason: str = ""
    """How the run before a restart ended."""
    last_exit_code: int | None = None

    @property
    def has_failed(self) -> bool:
        return self.state == "terminated" and self.exit_code != 0

    @property
    def cannot_start(self) -> bool:
        """It waits for something that will not come by itself."""
        return self.state == "waiting" and self.reason not in _STARTING


@dataclass(frozen=True)
class ConditionView:
    """One condition of an object's status."""

    type: str
    is_true: bool
    reason: str = ""
    message: str = ""
    changed_at: float | None = None


@dataclass(frozen=True)
class PodView:
    """A pod at one moment."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    node: str
    """Empty as long as it has none."""
    phase: str
    """``Pending``, ``Running``, ``Succeeded``, ``Failed`` or ``Unknown``."""
    reason: str
    """Of the pod as a whole, e.g. ``Evicted`` or ``DeadlineExceeded``."""
    message: str
    restart_policy: str
    created_at: float
    started_at: float | None
    deleted_at: float | None
    """When it was asked to go; it may still run."""
    conditions: tuple[ConditionView, ...]
    containers: tuple[ContainerView, ...]
    """Init containers first."""

    def container(self, name: str) -> ContainerView | None:
        return next((each for each in self.containers if each.name == name), None)

    def condition(self, type_: str) -> ConditionView | None:
        return next((each for each in self.conditions if each.type == type_), None)

    @property
    def is_finished(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_ready(self) -> bool:
        """It runs, answers, and was not asked to go."""
        ready = self.condition("Ready")
        return ready is not None and ready.is_true and self.deleted_at is None

    @property
    def disruption(self) -> str:
        """Why the cluster took it away, e.g. ``PreemptionByScheduler: …``; empty if it did not."""
        condition = self.condition(_TAKEN_AWAY)
        if condition is not None and condition.is_true:
            return _reason(condition.reason, condition.message)
        if self.reason in ("Evicted", "Preempting", "NodeLost", "Shutdown", "Terminated"):
            return _reason(self.reason, self.message)
        return ""

    @property
    def obstacle(self) -> str:
        """Why it does not start, in the cluster's words; empty if nothing stands in its way."""
        scheduled = self.condition("PodScheduled")
        if self.phase == "Pending" and scheduled is not None and not scheduled.is_true:
            return _reason(scheduled.reason, scheduled.message)
        for each in self.containers:
            if each.cannot_start:
                return f"{each.name}: {_reason(each.reason, each.message)}"
        return ""

    @property
    def failure(self) -> str:
        """How it ended if it failed, e.g. ``main: OOMKilled (exit code 137)``; else empty."""
        if self.disruption and self.phase != "Succeeded":
            return self.disruption
        if self.reason and self.phase == "Failed":
            return _reason(self.reason, self.message)
        for each in self.containers:
            if each.has_failed:
                text = f"{each.name}: {each.reason or 'Error'} (exit code {each.exit_code})"
                return _reason(text, each.message)
        return "failed without a reason" if self.phase == "Failed" else ""


def list_pods(
    connection: Connection, namespace: str, label_selector: str | None = None
) -> list[PodView]:
    """The pods that match; errors as `Connection.call`."""
    action, path = f"list pods in {namespace}", path_of("v1", "pods", namespace=namespace)
    items, _ = connection.items(action, path, {"labelSelector": label_selector})
    return [pod_view(item) for item in items]


def get_pod(connection: Connection, namespace: str, name: str) -> PodView | None:
    """The pod, or None if there is none; errors as `Connection.call`."""
    path = path_of("v1", "pods", namespace=namespace, name=name)
    found = connection.find(f"look at pod {name}", path)
    return None if found is None else pod_view(found)


def watch_pods(
    connection: Connection,
    namespace: str,
    label_selector: str | None = None,
    *,
    name: str | None = None,
    pace: WatchPace | None = None,
) -> Watch[PodView]:
    """A watch, to be used as a context manager.

    Args:
        connection: the cluster.
        namespace: of the pods.
        label_selector: all pods of the namespace if None.
        name: only the pod of this name.
        pace: of its requests.
    """
    query = {
        "labelSelector": label_selector,
        "fieldSelector": f"metadata.name={name}" if name else None,
    }
    path = path_of("v1", "pods", namespace=namespace)
    action = f"watch pods in {namespace}"
    return Watch(connection, action, path, query, view=pod_view, pace=pace)


def pod_view(item: Json) -> PodView:
    """The view of a pod as the API gives it."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    return PodView(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        node=spec.get("nodeName", ""),
        phase=status.get("phase", "Unknown"),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        restart_policy=spec.get("restartPolicy", "Always"),
        created_at=seconds_of(metadata.get("creationTimestamp")) or 0.0,
        started_at=seconds_of(status.get("startTime")),
        deleted_at=seconds_of(metadata.get("deletionTimestamp")),
        conditions=condition_views(status),
        containers=tuple(_containers(spec, status)),
    )


def condition_views(status: Json) -> tuple[ConditionView, ...]:
    """The conditions of any object's status."""
    return tuple(
        ConditionView(
            type=entry.get("type", ""),
            is_true=entry.get("status") == "True",
            reason=entry.get("reason") or "",
            message=entry.get("message") or "",
            changed_at=seconds_of(entry.get("lastTransitionTime")),
        )
        for entry in status.get("conditions") or []
    )


def _containers(spec: Json, status: Json) -> Iterator[ContainerView]:
    for key, is_init in (("initContainers", True), ("containers", False)):
        statuses = status.get("initContainerStatuses" if is_init else "containerStatuses") or []
        by_name = {entry["name"]: entry for entry in statuses}
        for container in spec.get(key) or []:
            name = container["name"]
            yield _container(name, by_name.get(name, {}), is_init=is_init)


def _container(name: str, status: Json, *, is_init: bool) -> ContainerView:
    found = status.get("state") or {}
    state = next((each for each in _STATES if each in found), _STATES[-1])
    entry = found.get(state) or {}
    last = (status.get("lastState") or {}).get("terminated") or {}
    return ContainerView(
        name=name,
        is_init=is_init,
        state=state,
        reason=entry.get("reason") or "",
        message=entry.get("message") or "",
        exit_code=entry.get("exitCode"),
        restart_count=status.get("restartCount", 0),
        started_at=seconds_of(entry.get("startedAt")),
        finished_at=seconds_of(entry.get("finishedAt")),
        last_reason=last.get("reason") or "",
        last_exit_code=last.get("exitCode"),
    )


def _reason(reason: str, message: str) -> str:
    return ": ".join(part for part in (reason, " ".join(message.split())) if part)
