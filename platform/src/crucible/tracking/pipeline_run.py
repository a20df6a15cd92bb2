"""The MLflow run of a pipeline run: found if it is there, else made, by whoever needs it first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crucible import __version__
from crucible.artifacts.files import write_atomically
from crucible.plan.model import Plan
from crucible.settings import Settings
from crucible.tracking.client import (
    ensure_experiment,
    exclusive_lock,
    mlflow_errors,
    without_password,
)
from crucible.tracking.fields import epoch_ms, flatten, tag_value
from crucible.tracking.provenance import source_state, user_name
from crucible.tracking.run_view import RunView

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

TAG_RUN: Final = "crucible.run_id"
TAG_STEP: Final = "crucible.step_id"
TAG_PLAN: Final = "crucible.plan_digest"
TAG_GIT_DIRTY: Final = "crucible.git.dirty"
TAG_COMMIT: Final = "mlflow.source.git.commit"

LINK_FILE: Final = "mlflow.json"
_MAX_BATCH: Final = 100


@dataclass
class PipelineRun:
    """A pipeline's MLflow run and what is known of its step runs."""

    run_id: str
    experiment_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    step_runs: dict[str, Run] = field(default_factory=dict)
    """By step id; those that existed when this was read."""


def ensure_pipeline_run(
    client: MlflowClient, settings: Settings, run_dir: Path, plan: Plan, view: RunView
) -> PipelineRun:
    """The MLflow run of the pipeline run in ``run_dir``, created if there is none yet.

    It is found by its tags, so that processes that were killed, or that ask at the same time on
    this machine or on others, end up with the same one.
    """
    with exclusive_lock(run_dir / "mlflow.lock"):
        experiment_id = ensure_experiment(client, settings, plan.name)
        found = _find(client, experiment_id, plan, view.run_id)
        if found is None:
            found = _elect(client, _create(client, experiment_id, plan, view), plan, view.run_id)
        steps = {step_id: run.info.run_id for step_id, run in found.step_runs.items()}
        write_link(run_dir, settings, found.run_id, steps)
        return found


def write_link(
    run_dir: Path, settings: Settings, mlflow_run_id: str, steps: Mapping[str, str]
) -> None:
    """Write ``mlflow.json``: where the run is found in MLflow."""
    document = {
        "run_id": mlflow_run_id,
        "tracking_uri": without_password(settings.mlflow_tracking_uri),
        "steps": dict(steps),
    }
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    write_atomically(run_dir / LINK_FILE, text.encode(), durable=False)


def log_params(client: MlflowClient, mlflow_run_id: str, params: Mapping[str, str]) -> None:
    """Log any number of params, in MLflow's batches."""
    from mlflow.entities import Param

    for batch in _batches([Param(key, value) for key, value in params.items()]):
        client.log_batch(mlflow_run_id, params=batch)


def set_tags(client: MlflowClient, mlflow_run_id: str, tags: Mapping[str, Any]) -> None:
    """Set any number of tags, in MLflow's batches."""
    from mlflow.entities import RunTag

    for batch in _batches([RunTag(key, tag_value(value)) for key, value in tags.items()]):
        client.log_batch(mlflow_run_id, tags=batch)


def _batches(entities: list[Any]) -> Iterable[list[Any]]:
    return (entities[i : i + _MAX_BATCH] for i in range(0, len(entities), _MAX_BATCH))


def _find(client: MlflowClient, experiment_id: str, plan: Plan, run_id: str) -> PipelineRun | None:
    wanted = f"tags.`{TAG_RUN}` = '{run_id}' and tags.`{TAG_PLAN}` = '{plan.digest}'"
    runs: list[Run] = []
    token: str | None = None
    with mlflow_errors(f"find the MLflow run of {run_id}"):
        while True:
            page = client.search_runs([experiment_id], wanted, page_token=token)
            runs += page
            token = page.token
            if not token:
                break
    step_runs = {run.data.tags[TAG_STEP]: run for run in runs if TAG_STEP in run.data.tags}
    parents = [run for run in runs if TAG_STEP not in run.data.tags]
    if not parents:
        return None
    first = min(parents, key=lambda run: (run.info.start_time, run.info.run_id))
    return PipelineRun(first.info.run_id, experiment_id, first.data.tags, step_runs)


def _elect(client: MlflowClient, made: PipelineRun, plan: Plan, run_id: str) -> PipelineRun:
    """The run that counts if pods of one pipeline made one each at the same time: the first."""
    first = _find(client, made.experiment_id, plan, run_id) or made
    if first.run_id != made.run_id:
        with mlflow_errors(f"remove a second MLflow run of {run_id}"):
            client.delete_run(made.run_id)
    return first


def _create(client: MlflowClient, experiment_id: str, plan: Plan, view: RunView) -> PipelineRun:
    tags = {
        TAG_RUN: view.run_id,
        TAG_PLAN: plan.digest,
        "crucible.pipeline": plan.name,
        "crucible.spec_path": plan.spec_path,
        "crucible.version": __version__,
        "mlflow.source.name": plan.spec_path,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user_name(),
        "mlflow.note.content": plan.description,
    }
    folder = Path(plan.spec_path).parent
    source = source_state(folder if folder.is_dir() else Path.cwd())
    if source is not None:
        tags |= {TAG_COMMIT: source.commit, TAG_GIT_DIRTY: str(source.dirty).lower()}
    with mlflow_errors(f"create the MLflow run of {view.run_id}"):
        run = client.create_run(
            experiment_id,
            start_time=epoch_ms(view.submitted_at),
            run_name=view.run_id,
            tags={key: tag_value(value) for key, value in tags.items() if value},
        )
        log_params(client, run.info.run_id, flatten(plan.params))
    return PipelineRun(run.info.run_id, experiment_id, run.data.tags)
