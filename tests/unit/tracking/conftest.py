"""Run directories as the engine writes them, and a real SQLite MLflow to read them back from."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crucible.artifacts.store import open_store
from crucible.plan.model import (
    Gate,
    Import,
    Plan,
    PlanStep,
    Release,
    SlotInput,
    StepOutput,
)
from crucible.plan.serialise import plan_to_json
from crucible.sdk.types import ArtifactType
from crucible.settings import Settings
from crucible.tracking.client import connect

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

T0 = 1_700_000_000.0


def pico_plan(folder: Path) -> Plan:
    """``train`` on an import, ``judge`` on its model, released."""
    model, metrics = ArtifactType("Model", "causal-lm"), ArtifactType("Metrics")
    train = PlanStep(
        id="train",
        name="train",
        component="train-pico",
        config={"optimizer": {"name": "adamw", "lr": 0.001}, "stages": [1, 2], "seed": 7},
        inputs=(
            SlotInput(
                "data", ArtifactType("Dataset"), (Import("file:///data", "sha256:" + "d" * 64),)
            ),
        ),
        outputs={"model": model},
        fingerprint="sha256:" + "a" * 64,
        fingerprint_parts={},
    )
    judge = PlanStep(
        id="judge",
        name="judge",
        component="evaluate-model",
        config={},
        inputs=(SlotInput("model", model, (StepOutput("train", "model"),)),),
        outputs={"metrics": metrics},
        fingerprint="sha256:" + "b" * 64,
        fingerprint_parts={},
        after=("train",),
    )
    return Plan(
        name="pico",
        description="A pico pipeline.",
        spec_path=str(folder / "pipeline.yaml"),
        spec_text="",
        params={"samples": 20, "seed": 7},
        steps=(train, judge),
        release=Release(StepOutput("train", "model"), "pico", Gate(StepOutput("judge", "metrics"))),
    )


@dataclass
class RunWriter:
    """Writes a run directory event by event, as engine and steps do."""

    run_dir: Path
    settings: Settings
    plan: Plan
    now: float = T0
    sent: list[str] = field(default_factory=list)

    def log(self, type_: str, **fields: Any) -> None:
        self.now += 1
        self._append(self.run_dir / "events.jsonl", {"time": self.now, "type": type_, **fields})

    def submit(self) -> None:
        self.log("run.submitted", run_id=self.run_dir.name, pipeline="pico", plan_digest="")
        self.log("run.started", pid=1)

    def step_log(self, step_id: str, attempt: int, type_: str, /, **fields: Any) -> None:
        self.now += 0.25
        path = self.run_dir / "steps" / step_id / str(attempt) / "events.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._append(path, {"time": self.now, "type": type_, **fields})

    def metrics_artifact(self, **values: float) -> str:
        folder = self.run_dir / "put"
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(values))
        store = open_store(self.settings.store_uri)
        return store.put_tree(folder, type="Metrics", metadata=values).digest

    def whole_run(self) -> None:
        """A run from submission to success, with 5 points of loss."""
        self.submit()
        self.log("import.done", uri="file:///data", digest="sha256:" + "e" * 64)
        self.log("step.started", step="train", attempt=1)
        for step in range(5):
            values = {"loss": 1.0 / (step + 1), "lr": 0.1}
            self.step_log("train", 1, "metrics", step=step, values=values)
        self.step_log("train", 1, "params", values={"num_parameters": 1234})
        self.step_log("train", 1, "tags", values={"device": "cpu"})
        self.step_log("train", 1, "progress", done=5, total=10, unit="steps", message="half way")
        self.log(
            "step.ended",
            step="train",
            attempt=1,
            status="succeeded",
            outputs={"model": "sha256:" + "c" * 64},
            peak_memory_gib=0.5,
        )
        self.log("step.started", step="judge", attempt=1)
        self.log(
            "step.ended",
            step="judge",
            attempt=1,
            status="cached",
            reason="run r0",
            outputs={"metrics": self.metrics_artifact(accuracy=0.75)},
        )
        release = {"name": "pico", "version": 1, "alias_moved": True}
        self.log("release.decided", release=release)
        self.log("run.ended", status="succeeded", message="")

    def _append(self, path: Path, event: dict[str, Any]) -> None:
        with path.open("a") as stream:
            stream.write(json.dumps(event) + "\n")


@dataclass
class Reader:
    """What MLflow shows, asked through its own client."""

    client: MlflowClient

    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("pico")
        return list(self.client.search_runs([experiment.experiment_id])) if experiment else []

    def parent(self) -> Run:
        (run,) = [r for r in self.runs() if "mlflow.parentRunId" not in r.data.tags]
        return run

    def step(self, step_id: str) -> Run:
        (run,) = [r for r in self.runs() if r.data.tags.get("crucible.step_id") == step_id]
        return run

    def history(self, run: Run, metric: str) -> list[tuple[int, float, int]]:
        points = self.client.get_metric_history(run.info.run_id, metric)
        return sorted((p.step, p.value, p.timestamp) for p in points)


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    return Settings.load({"CRUCIBLE_HOME": str(home)})


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> RunWriter:
    run_dir = settings.runs_dir / "r1"
    run_dir.mkdir(parents=True)
    plan = pico_plan(tmp_path)
    (run_dir / "plan.json").write_text(json.dumps(plan_to_json(plan)))
    return RunWriter(run_dir, settings, plan)


@pytest.fixture
def mlflow(settings: Settings) -> Reader:
    return Reader(connect(settings))
