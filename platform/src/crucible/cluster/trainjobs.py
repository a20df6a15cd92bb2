"""Kubeflow Trainer's TrainJobs: made once, watched, seen through one view of all its versions.

Source: kubeflow/trainer, API ``trainer.kubeflow.org/v1alpha1``. Pods are adapted in a field that
changed its name twice: ``podSpecOverrides`` (2.0), ``podTemplateOverrides`` (2.1),
``runtimePatches`` (2.2); the cluster's own schema tells which one it knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.pods import ConditionView, condition_views
from crucible.cluster.resources import field, schema_of
from crucible.cluster.times import seconds_of
from crucible.cluster.watch import Watch, WatchPace
from crucible.cluster.wire import Json
from crucible.errors import ObjectConflict

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
API_VERSION = f"{GROUP}/{VERSION}"

PatchField = Literal["runtimePatches", "podTemplateOverrides", "podSpecOverrides"]
TrainJobState = Literal["suspended", "starting", "running", "complete", "failed"]
_PATCH_FIELDS: tuple[PatchField, ...] = (
    "runtimePatches",
    "podTemplateOverrides",
    "podSpecOverrides",
)


@dataclass(frozen=True)
class TrainerFeatures:
    """What the cluster's version of TrainJob knows."""

    patch_field: PatchField | None
    """Where pods are adapted; None if nowhere."""
    has_progress: bool
    """Its status tells how far a training is."""
    has_deadline: bool
    """``activeDeadlineSeconds``."""


@dataclass(frozen=True)
class JobView:
    """The jobs of one role of a TrainJob, e.g. ``node``: how many are in which state."""

    name: str
    ready: int = 0
    """With all their pods ready."""
    active: int = 0
    """With a pod that runs or waits."""
    succeeded: int = 0
    failed: int = 0
    suspended: int = 0


@dataclass(frozen=True)
class TrainJobView:
    """A TrainJob at one moment."""

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    created_at: float
    deleted_at: float | None
    wants_suspension: bool
    """``spec.suspend``: Kueue sets it until there is quota."""
    conditions: tuple[ConditionView, ...]
    jobs: tuple[JobView, ...]
    progress_percentage: float | None
    remaining_seconds: float | None
    metrics: Mapping[str, float]

    def condition(self, type_: str) -> ConditionView | None:
        """The condition of that type, if it is true."""
        return next((each for each in self.conditions if each.type == type_ and each.is_true), None)

    @property
    def state(self) -> TrainJobState:
        if self.condition("Failed"):
            return "failed"
        if self.condition("Complete"):
            return "complete"
        if self.condition("Suspended") or self.wants_suspension:
            return "suspended"
        return "running" if any(job.ready for job in self.jobs) else "starting"

    @property
    def is_finished(self) -> bool:
        return self.state in ("complete", "failed")

    @property
    def failure(self) -> str:
        """Why it failed, in Trainer's words; empty if it did not."""
        failed = self.condition("Failed")
        return "" if failed is None else f"{failed.reason}: {failed.message}".strip(": ")


def trainer_features(connection: Connection) -> TrainerFeatures | None:
    """What the cluster's TrainJob can do; None if it has none. Errors as `Connection.call`."""
    schema = schema_of(connection, GROUP, PLURAL, VERSION)
    if schema is None:
        return None
    return TrainerFeatures(
        patch_field=next(
            (name for name in _PATCH_FIELDS if field(schema, "spec", name) is not None), None
        ),
        has_progress=field(schema, "status", "trainerStatus", "progressPercentage") is not None,
        has_deadline=field(schema, "spec", "activeDeadlineSeconds") is not None,
    )


def create_trainjob(connection: Connection, namespace: str, manifest: Json) -> TrainJobView:
    """Make sure that the TrainJob is there; one of this name that is there already will do.

    Raises:
        ObjectConflict: the one of this name is being deleted. Try again when it has gone.
        ObjectNotFound: the cluster does not know TrainJobs.
        ObjectRejected: Trainer, a quota or an admission policy refuses it.
        CrucibleError: else as `Connection.call`.
    """
    name = str(manifest["metadata"]["name"])
    action = f"create TrainJob {name}"
    try:
        made = connection.create(
            action, path_of(API_VERSION, PLURAL, namespace=namespace), manifest
        )
        return trainjob_view(made)
    except ObjectConflict:
        found = get_trainjob(connection, namespace, name)
        if found is None or found.deleted_at is not None:
            raise
        return found


def get_trainjob(connection: Connection, namespace: str, name: str) -> TrainJobView | None:
    """The TrainJob, or None if there is none; errors as `Connection.call`."""
    path = path_of(API_VERSION, PLURAL, namespace=namespace, name=name)
    found = connection.find(f"look at TrainJob {name}", path)
    return None if found is None else trainjob_view(found)


def watch_trainjobs(
    connection: Connection,
    namespace: str,
    label_selector: str | None = None,
    *,
    name: str | None = None,
    pace: WatchPace | None = None,
) -> Watch[TrainJobView]:
    """A watch, to be used as a context manager; of one TrainJob if ``name`` is given."""
    query = {
        "labelSelector": label_selector,
        "fieldSelector": f"metadata.name={name}" if name else None,
    }
    path = path_of(API_VERSION, PLURAL, namespace=namespace)
    action = f"watch TrainJobs in {namespace}"
    return Watch(connection, action, path, query, view=trainjob_view, pace=pace)


def delete_trainjob(
    connection: Connection, namespace: str, name: str, *, uid: str | None = None
) -> bool:
    """Delete a TrainJob with its pods, of this ``uid`` only if given; False if it was not there."""
    path = path_of(API_VERSION, PLURAL, namespace=namespace, name=name)
    return connection.delete(f"delete TrainJob {name}", path, uid=uid)


def trainjob_view(item: Json) -> TrainJobView:
    """The view of a TrainJob as the API gives it."""
    metadata, status = item["metadata"], item.get("status") or {}
    trainer = status.get("trainerStatus") or {}
    remaining = trainer.get("estimatedRemainingSeconds")
    percentage = trainer.get("progressPercentage")
    return TrainJobView(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        labels=metadata.get("labels") or {},
        created_at=seconds_of(metadata.get("creationTimestamp")) or 0.0,
        deleted_at=seconds_of(metadata.get("deletionTimestamp")),
        wants_suspension=bool((item.get("spec") or {}).get("suspend")),
        conditions=condition_views(status),
        jobs=tuple(map(_job, status.get("jobsStatus") or [])),
        progress_percentage=None if percentage is None else float(percentage),
        remaining_seconds=None if remaining is None else float(remaining),
        metrics=dict(_metrics(trainer.get("metrics") or [])),
    )


def _job(entry: Json) -> JobView:
    counts = ("ready", "active", "succeeded", "failed", "suspended")
    return JobView(entry["name"], **{name: int(entry.get(name) or 0) for name in counts})


def _metrics(entries: list[Json]) -> Iterator[tuple[str, float]]:
    for entry in entries:
        try:
            yield str(entry["name"]), float(entry["value"])
        except (KeyError, ValueError):  # a trainer may write what it likes there
            continue
