"""Makes MLflow show what a run directory holds: one pass at a time, safe to stop anywhere.

Everything in MLflow follows from the plan and the events, so a pass compares and sends. How far
each step's event file was sent stands in ``relay.json``; step runs are found by tag. A mirror that
takes over from a killed one therefore creates nothing twice and sends no metric again but, at most,
those of the pass that was interrupted, which MLflow recognises.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crucible.artifacts.files import write_atomically
from crucible.artifacts.store import Store, open_store
from crucible.errors import ArtifactError
from crucible.plan.model import Import, Plan, PlanStep, StepOutput
from crucible.sdk.events import read_events
from crucible.settings import Settings
from crucible.tracking.client import connect, mlflow_errors, without_password
from crucible.tracking.fields import epoch_ms, flatten, mlflow_key, tag_value
from crucible.tracking.pipeline_run import (
    TAG_PLAN,
    TAG_RUN,
    TAG_STEP,
    PipelineRun,
    ensure_pipeline_run,
    write_link,
)
from crucible.tracking.run_view import RunView, StepView, read_plan
from crucible.tracking.step_run import StepRun

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

FAILURE_TAGS: Final = "crucible.failure."
OFFSETS_FILE: Final = "relay.json"
_MAX_LISTED_INPUTS: Final = 20


class Mirror:
    """One pipeline run in MLflow. `read` looks at the run's log, `write` brings MLflow up to it."""

    def __init__(self, run_dir: Path, settings: Settings, *, steps_only: bool = False) -> None:
        """Start from what earlier mirrors of ``run_dir`` have sent.

        Args:
            run_dir: of the run, or of a pod that knows its own steps and not the run's end.
            settings: where MLflow is.
            steps_only: leave the status of the pipeline's own run alone.
        """
        self.run_dir = run_dir
        self._steps_only = steps_only
        self.view = RunView()
        self._settings = settings
        self._log_offset = 0
        self._plan: Plan = read_plan(run_dir)
        self._steps = {step.id: step for step in self._plan.all_steps}
        self._step_runs: dict[str, StepRun] = {}
        self._settled: dict[str, StepView] = {}
        """Steps that ended and were sent whole, as they were then."""
        self._judged: StepView | None = None
        """The gate's metrics step, as the pipeline's run shows its numbers."""
        self._sent_offsets = self._load_offsets()
        self._stored_offsets = dict(self._sent_offsets)
        self._read_offsets = dict(self._sent_offsets)

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._settings)

    @cached_property
    def _store(self) -> Store:
        return open_store(self._settings.store_uri)

    @cached_property
    def _pipeline(self) -> PipelineRun:
        return ensure_pipeline_run(
            self._client, self._settings, self.run_dir, self._plan, self.view
        )

    @cached_property
    def _parent(self) -> StepRun:
        return StepRun(self._client, self._pipeline.run_id, tags=self._pipeline.tags)

    @property
    def mlflow_run_id(self) -> str:
        """The pipeline's MLflow run."""
        return self._pipeline.run_id

    def read(self) -> None:
        """Take in what the engine wrote since; needs no MLflow."""
        events, self._log_offset = read_events(self.run_dir / "events.jsonl", self._log_offset)
        for event in events:
            if event.get("step") in (None, *self._steps):  # a pod has steps that no plan has
                self.view.apply(event)

    def write(self, *, interrupted: bool = False) -> None:
        """Bring MLflow up to what was read.

        Args:
            interrupted: The engine is gone without a final event: show what ran as killed.

        Raises:
            TrackingUnavailable: MLflow did not answer; the next call goes on from there.
            StoreUnavailable: likewise the artifact store, for the numbers of a step's outputs.
        """
        if not self.view.run_id:
            return
        try:
            self._adopt_or_create_step_runs()
            for step_id, run in self._step_runs.items():
                if self._settled.get(step_id) != self.view.steps[step_id]:
                    self._write_step(run, self.view.steps[step_id], interrupted)
            if not self._steps_only:
                self._write_parent(interrupted)
        finally:
            self._store_offsets()

    def _adopt_or_create_step_runs(self) -> None:
        pipeline = self._pipeline
        missing = [
            step
            for step_id, step in self.view.steps.items()
            if step_id not in self._step_runs and step.deserves_run
        ]
        for step in missing:
            known = pipeline.step_runs.get(step.step_id)
            if known is not None:
                known_data = known.data
                run = StepRun(self._client, known.info.run_id, known_data.params, known_data.tags)
            else:
                run = StepRun(self._client, self._create_step_run(step))
            run.take_params(flatten(self._steps[step.step_id].config))
            self._step_runs[step.step_id] = run
        if missing:
            ids = {step_id: run.mlflow_run_id for step_id, run in self._step_runs.items()}
            write_link(self.run_dir, self._settings, pipeline.run_id, ids)

    def _create_step_run(self, step: StepView) -> str:
        planned = self._steps[step.step_id]
        tags = {
            TAG_RUN: self.view.run_id,
            TAG_PLAN: self._plan.digest,
            TAG_STEP: step.step_id,
            "mlflow.parentRunId": self._pipeline.run_id,
            "crucible.component": planned.component,
            "crucible.fingerprint": planned.fingerprint,
        }
        with mlflow_errors(f"create the MLflow run of step {step.step_id}"):
            made = self._client.create_run(
                self._pipeline.experiment_id,
                start_time=epoch_ms(step.started_at or step.ended_at),
                run_name=step.step_id,
                tags={key: tag_value(value) for key, value in tags.items()},
            )
        return str(made.info.run_id)

    def _write_step(self, run: StepRun, step: StepView, interrupted: bool) -> None:
        for attempt in step.attempts:
            name = f"steps/{step.step_id}/{attempt}/events.jsonl"
            start = self._read_offsets.get(name, 0)
            events, self._read_offsets[name] = read_events(self.run_dir / name, start)
            run.take(events, attempt)
            run.send()
            self._sent_offsets[name] = self._read_offsets[name]
        if step.failure is None:
            run.drop_tags(FAILURE_TAGS)  # those of an earlier attempt
        run.take_tags(_step_tags(self._steps[step.step_id], step, self.view))
        if step.is_final:
            values = self._numbers_of(step)
            run.take_metrics_at_end(values, step.ended_at or 0.0)
        run.send()
        lost = interrupted and not step.is_final
        run.set_status("KILLED" if lost else step.mlflow_status, step.ended_at)
        if step.is_final:
            self._settled[step.step_id] = StepView(**vars(step))

    def _write_parent(self, interrupted: bool) -> None:
        view, parent = self.view, self._parent
        parent.take_tags(_parent_tags(view, interrupted))
        gate = self._plan.release.gate if self._plan.release else None
        judged = self._settled.get(gate.metrics.step_id) if gate else None
        if gate and judged and judged is not self._judged:
            values = self._numbers(judged, gate.metrics.output)
            parent.take_metrics_at_end(values, judged.ended_at or 0.0)
            self._judged = judged
        parent.send()
        lost = interrupted and not view.is_final
        parent.set_status("KILLED" if lost else view.mlflow_status, view.ended_at)

    def _numbers_of(self, step: StepView) -> dict[str, float]:
        """The numbers of all Metrics outputs of a step, as ``output/metric``."""
        outputs = self._steps[step.step_id].outputs
        return {
            f"{name}/{metric}": value
            for name in step.outputs
            if name in outputs and outputs[name].name == "Metrics"
            for metric, value in self._numbers(step, name).items()
        }

    def _numbers(self, step: StepView, output: str) -> dict[str, float]:
        if output not in step.outputs:
            return {}
        try:
            metadata = self._store.manifest(step.outputs[output]).metadata
        except ArtifactError as error:
            logger.warning("step %s: metrics not shown in MLflow: %s", step.step_id, error)
            return {}
        return {mlflow_key(k): v for k, v in metadata.items() if not isinstance(v, str)}

    def _load_offsets(self) -> dict[str, int]:
        path = self.run_dir / OFFSETS_FILE
        try:
            stored = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        if stored["tracking_uri"] != without_password(self._settings.mlflow_tracking_uri):
            return {}  # another MLflow has seen nothing yet
        offsets: dict[str, int] = stored["offsets"]
        return offsets

    def _store_offsets(self) -> None:
        if self._sent_offsets == self._stored_offsets:
            return
        document = {
            "tracking_uri": without_password(self._settings.mlflow_tracking_uri),
            "offsets": self._sent_offsets,
        }
        text = json.dumps(document, sort_keys=True).encode()
        write_atomically(self.run_dir / OFFSETS_FILE, text, durable=False)
        self._stored_offsets = dict(self._sent_offsets)


def _step_tags(planned: PlanStep, step: StepView, view: RunView) -> dict[str, str]:
    tags = {
        "crucible.status": step.status,
        "crucible.attempt": str(step.attempt),
        "crucible.cache_hit": str(step.status == "cached").lower(),
    }
    if step.reason:
        tags["crucible.reason"] = step.reason
    if step.peak_memory_gib is not None:
        tags["crucible.peak_memory_gib"] = f"{step.peak_memory_gib:.3f}"
    for slot in planned.inputs:
        identities = [_identity(source, view) for source in slot.sources]
        tags[f"crucible.input.{slot.slot}"] = _listed(identities)
    for name, digest in step.outputs.items():
        tags[f"crucible.output.{name}"] = digest
    for name in ("cause", "message") if step.failure else ():
        tags[f"{FAILURE_TAGS}{name}"] = str((step.failure or {})[name])
    return {mlflow_key(key): value for key, value in tags.items()}


def _identity(source: StepOutput | Import, view: RunView) -> str:
    if isinstance(source, Import):
        return view.imports.get(source.uri, source.identity)
    step = view.steps.get(source.step_id)
    outputs: Mapping[str, str] = step.outputs if step else {}
    return outputs.get(source.output, f"{source.step_id}.{source.output}")


def _listed(identities: list[str]) -> str:
    shown = " ".join(identities[:_MAX_LISTED_INPUTS])
    more = len(identities) - _MAX_LISTED_INPUTS
    return f"{shown} and {more} more" if more > 0 else shown


def _parent_tags(view: RunView, interrupted: bool) -> dict[str, str]:
    status = "interrupted" if interrupted and not view.is_final else view.status
    tags = {"crucible.status": status, "crucible.message": view.message}
    release: Mapping[str, Any] = view.release or {}
    for key in ("name", "version", "alias_moved"):
        if key in release:
            tags[f"crucible.release.{key}"] = str(release[key])
    return tags
