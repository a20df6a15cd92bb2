"""A home with a real SQLite MLflow and a real file store; models of a few kilobytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts.manifest import ArtifactRef
from crucible.artifacts.store import Store, open_store
from crucible.plan import Plan, plan_to_json
from crucible.plan.model import (
    Gate,
    Import,
    PlanStep,
    Release,
    SlotInput,
    StepOutput,
    Threshold,
)
from crucible.registry import Candidate, Decision, GatePolicy, MetricBound, Registry, Version
from crucible.sdk.types import ArtifactType
from crucible.settings import Settings
from crucible.tracking.client import connect, ensure_experiment

POLICY = GatePolicy(thresholds=(MetricBound(metric="accuracy", min=0.2),))


def pico_plan(folder: Path, accuracy: float, gate: Mapping[str, Any]) -> Plan:
    """``data`` -> ``train`` -> ``judge`` on an import -> release as ``vlm``."""
    model, dataset = ArtifactType("Model", "causal-lm"), ArtifactType("Dataset", "conversations")
    predictions = ArtifactType("Dataset", "predictions")
    fingerprints = iter("abc")

    def step(name: str, inputs: Sequence[SlotInput], **outputs: ArtifactType) -> PlanStep:
        fingerprint = "sha256:" + next(fingerprints) * 64
        return PlanStep(name, name, name, {}, tuple(inputs), outputs, fingerprint, {})

    imported = Import("file:///held-out", "sha256:" + "7" * 64)
    declared: dict[str, Any] = {
        "metrics": StepOutput("judge", "metrics"),
        "predictions": StepOutput("judge", "predictions"),
        "thresholds": (Threshold("accuracy", min=accuracy),),
    }
    return Plan(
        name="pico",
        description="",
        spec_path=str(folder / "pipeline.yaml"),
        spec_text="",
        params={},
        steps=(
            step("data", [], train=dataset),
            step(
                "train", [SlotInput("data", dataset, (StepOutput("data", "train"),))], model=model
            ),
            step(
                "judge",
                [
                    SlotInput("model", model, (StepOutput("train", "model"),)),
                    SlotInput("questions", ArtifactType("Dataset", "questions"), (imported,)),
                ],
                metrics=ArtifactType("Metrics"),
                predictions=predictions,
            ),
        ),
        release=Release(StepOutput("train", "model"), "vlm", Gate(**{**declared, **gate})),
    )


@dataclass
class Workshop:
    """Makes candidates whose answers are right to a given number."""

    settings: Settings
    store: Store
    registry: Registry
    mlflow_run_id: str
    policy: GatePolicy = POLICY
    model_digests: dict[str, str] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def store_ref(self, digest: str | None) -> ArtifactRef:
        return ArtifactRef.of(self.store.manifest(str(digest)), self.store.uri)

    def model(self, text: str, variant: str = "causal-lm") -> ArtifactRef:
        folder = self.settings.home_dir / "models" / text
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(text)
        (folder / "config.json").write_text("{}")
        return self.store.put_tree(folder, type="Model", variant=variant)

    def predictions(self, num_right: int, num: int = 100, first_id: int = 0) -> str:
        lines = [
            json.dumps(
                {
                    "id": f"q{first_id + i}",
                    "category": "counting" if i % 2 else "colour",
                    "question": f"question {i}?",
                    "answer": "yes",
                    "prediction": "yes",
                    "correct": i < num_right,
                }
            )
            for i in range(num)
        ]
        return self._put("records.jsonl", "\n".join(lines), type="Dataset", variant="predictions")

    def metrics(self, values: Mapping[str, float]) -> str:
        return self._put("metrics.json", json.dumps(values), type="Metrics", variant="any")

    def candidate(
        self, model: ArtifactRef, num_right: int, *, name: str = "vlm", **predictions: int
    ) -> Candidate:
        return Candidate(
            name=name,
            model=model,
            run_id="run-1",
            mlflow_run_id=self.mlflow_run_id,
            pipeline="quickstart",
            plan_digest="sha256:" + "0" * 64,
            evaluation_step="judge",
            metrics_digest=self.metrics({"accuracy": num_right / 100}),
            predictions_digest=self.predictions(num_right, **predictions),
            data_digests={"scenes.train": "sha256:" + "1" * 64},
            git_commit="a" * 40,
        )

    def release(self, text: str, num_right: int, *, promote: bool = True) -> Version:
        """Register a model and, if it passed, promote it: what a pipeline's end does."""
        candidate = self.candidate(self.model(text), num_right)
        holder = self.registry.holder("vlm")
        decision = self.registry.decide(
            POLICY, candidate.metrics_digest, candidate.predictions_digest, holder
        )
        self.decisions.append(decision)
        version = self.registry.register(candidate, decision, holder.version if holder else None)
        if promote and decision.passed:
            return self.registry.promote("vlm", version.version)
        return version

    def run_dir(
        self, run_id: str, model: str, num_right: int, *, thresholds: float = 0.2, **gate: Any
    ) -> Path:
        """A finished run that trained ``model`` and judged it, up to its release."""
        digest = self.model_digests.get(model) or self.model(model).digest
        self.model_digests[model] = digest
        written = {
            "train": {"model": digest},
            "judge": {
                "metrics": self.metrics({"accuracy": num_right / 100}),
                "predictions": self.predictions(num_right),
            },
            "data": {"train": "sha256:" + "5" * 64},
        }
        plan = pico_plan(self.settings.home_dir, thresholds, gate)
        folder = self.settings.runs_dir / run_id
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(json.dumps(plan_to_json(plan)))
        events: list[dict[str, Any]] = [
            {"type": "run.submitted", "run_id": run_id, "pipeline": "pico", "plan_digest": ""},
            {"type": "import.done", "uri": "file:///held-out", "digest": "sha256:" + "6" * 64},
        ]
        events += [
            {
                "type": "step.ended",
                "step": step,
                "attempt": 1,
                "status": "succeeded",
                "outputs": outputs,
            }
            for step, outputs in written.items()
        ]
        lines = [json.dumps({"time": 1.7e9 + i, **event}) for i, event in enumerate(events)]
        (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    def _put(self, name: str, text: str, *, type: str, variant: str) -> str:
        folder = self.settings.home_dir / "put"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / name).write_text(text)
        return self.store.put_tree(folder, type=type, variant=variant).digest


@pytest.fixture
def workshop(tmp_path: Path, empty_database: Path) -> Workshop:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    settings = Settings.load({"CRUCIBLE_HOME": str(home)})
    client = connect(settings)
    run = client.create_run(ensure_experiment(client, settings, "quickstart"))
    return Workshop(settings, open_store(settings.store_uri), Registry(settings), run.info.run_id)
