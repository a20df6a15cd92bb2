"""A home with a real SQLite MLflow and a real file store; models of a few kilobytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crucible.artifacts.manifest import ArtifactRef
from crucible.artifacts.store import Store, open_store
from crucible.registry import Candidate, Decision, GatePolicy, MetricBound, Registry, Version
from crucible.settings import Settings
from crucible.tracking.client import connect, ensure_experiment

POLICY = GatePolicy(thresholds=(MetricBound(metric="accuracy", min=0.2),))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised MLflow database: making one takes two seconds, copying it none."""
    home = tmp_path_factory.mktemp("mlflow")
    connect(Settings.load({"CRUCIBLE_HOME": str(home)}))
    return home / "mlflow.db"


@dataclass
class Workshop:
    """Makes candidates whose answers are right to a given number."""

    settings: Settings
    store: Store
    registry: Registry
    mlflow_run_id: str
    policy: GatePolicy = POLICY
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
