"""Records of runs in the engine's own form, and predictions that belong to them."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible.engines.local.record import SCHEMA
from crucible.engines.state import Failure, FailureCause, RunState, RunStatus, StepState, StepStatus
from crucible.plan.model import Plan, PlanStep, SlotInput, StepOutput
from crucible.plan.serialise import plan_to_json
from crucible.sdk.types import ArtifactType, Dataset, RunRecord
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import DatasetWriter, read_records
from crucible_components.reporting.component import ReportRun
from crucible_components.reporting.report import render_run

START = 1_763_800_000.0
ANY = ArtifactType("Artifact")


def digest(text: str) -> str:
    return f"sha256:{zlib.crc32(text.encode()):064x}"


@dataclass
class RecordBuilder:
    """Collects steps one after another, then writes ``run.json`` and wraps it."""

    folder: Path
    pipeline: str = "quickstart"
    steps: list[PlanStep] = field(default_factory=list)
    states: dict[str, StepState] = field(default_factory=dict)
    series: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    release: dict[str, Any] | None = None

    def step(
        self,
        step_id: str,
        component: str,
        parents: Sequence[str] = (),
        *,
        status: StepStatus = StepStatus.SUCCEEDED,
        when: tuple[float, float] | None = (0.0, 1.0),
        outputs: Sequence[str] = ("model",),
        failure: Failure | None = None,
        name: str | None = None,
    ) -> None:
        inputs = tuple(
            SlotInput(f"input{i}", ANY, (StepOutput(parent, "model"),))
            for i, parent in enumerate(parents)
        )
        self.steps.append(
            PlanStep(
                id=step_id,
                name=name or step_id,
                component=component,
                config={"num_steps": 30, "note": "<b>bold</b>"},
                inputs=inputs,
                outputs=dict.fromkeys(outputs, ANY),
                fingerprint=digest(f"fingerprint {step_id}"),
                fingerprint_parts={},
                after=tuple(parents),
            )
        )
        done = status.has_outputs
        self.states[step_id] = StepState(
            step_id,
            component,
            status,
            attempt=1 if when else 0,
            started_at=START + when[0] if when else None,
            ended_at=START + when[1] if when else None,
            outputs={name: digest(f"{step_id}.{name}") for name in outputs} if done else {},
            failure=failure,
            peak_memory_gib=0.7 if when else None,
        )

    def log(self, step_id: str, metric: str, values: Sequence[float]) -> None:
        points = [[index, value, START + index] for index, value in enumerate(values)]
        self.series.setdefault(step_id, {})[metric] = points

    def write(self) -> RunRecord:
        plan = Plan(
            name=self.pipeline,
            description="Scenes to a promoted model.",
            spec_path="pipeline.yaml",
            spec_text="kind: Pipeline\nmetadata: {name: quickstart}\n",
            params={"seed": 7, "num_scenes": 6000, "text_guidance": True},
            steps=tuple(self.steps),
        )
        state = RunState(
            "20251122-a1b2c3",
            self.pipeline,
            plan.digest,
            RunStatus.RUNNING,
            started_at=START,
            steps=self.states,
            release=self.release,
        )
        record = {
            "schema": SCHEMA,
            "plan": plan_to_json(plan),
            "state": dataclasses.asdict(state),
            "metrics": self.series,
            "params": {},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps(record))
        return RunRecord("run", FolderBytes(self.folder), ArtifactType("RunRecord"))


@pytest.fixture
def new_record(tmp_path: Path) -> Callable[..., RecordBuilder]:
    numbers = iter(range(100))
    return lambda **fields: RecordBuilder(tmp_path / f"run-{next(numbers)}", **fields)


@pytest.fixture
def quickstart(new_record: Callable[..., RecordBuilder]) -> RecordBuilder:
    """A run shaped like the quickstart's, with curves and a release."""
    run = new_record()
    cached, data = StepStatus.CACHED, ("alignment", "fusion", "instruction", "evaluation")
    run.step("scenes", "synthesize-scenes", status=cached, when=(0, 0.4), outputs=data)
    run.step("align", "train-vlm", ["scenes"], when=(1, 61))
    run.step("fuse", "train-vlm", ["align", "scenes"], when=(61, 171))
    run.step("attribute", "train-vlm", ["fuse", "scenes"], when=(171, 260))
    run.step("relation", "train-vlm", ["fuse", "scenes"], when=(172, 271))
    run.step("merge", "merge-models", ["fuse", "attribute", "relation"], when=(271, 277))
    run.step("reinforce", "train-grpo", ["merge", "scenes"], when=(277, 377))
    evaluated = ("predictions", "metrics", "report")
    for name, parent, start in (
        ("evaluate-fused", "fuse", 171),
        ("evaluate-merged", "merge", 277),
        ("evaluate", "reinforce", 377),
    ):
        parents = [parent, "scenes"]
        run.step(name, "evaluate-model", parents, when=(start, start + 14), outputs=evaluated)
    rng = random.Random(0)
    for name, floor in (("align", 0.6), ("fuse", 0.5), ("attribute", 0.3), ("relation", 0.35)):
        loss = [floor + 3.5 * math.exp(-i / 60) + rng.gauss(0, 0.06) for i in range(400)]
        run.log(name, "loss/total", loss)
        run.log(name, "loss/vision_to_text", [0.2 * value for value in loss])
        run.log(name, "time/tokens_per_second", [9000 + rng.gauss(0, 300) for _ in range(400)])
    run.log("reinforce", "reward/mean", [0.6 + 0.004 * i + rng.gauss(0, 0.02) for i in range(30)])
    run.log("reinforce", "kl", [0.0004 * i**1.5 for i in range(30)])
    run.log("reinforce", "entropy", [0.5 * math.exp(-i / 25) for i in range(30)])
    run.release = release_record()
    return run


def release_record() -> dict[str, Any]:
    return {
        "name": "quickstart-vlm",
        "version": 4,
        "alias": "champion",
        "outcome": "promoted",
        "summary": "version 4 is champion, it replaces version 3.",
        "decision": {
            "status": "pass",
            "reasons": [],
            "notes": ["12 ids of the champion were not asked"],
            "thresholds": [
                {"bound": {"metric": "accuracy", "min": 0.6}, "value": 0.71, "passed": True},
                {"bound": {"metric": "truncated", "max": 0.05}, "value": 0.01, "passed": True},
            ],
            "comparison": {
                "num_pairs": 400,
                "candidate_mean": 0.71,
                "champion_mean": 0.68,
                "difference_mean": 0.03,
                "difference_low": 0.004,
                "difference_high": 0.056,
                "confidence": 0.95,
                "mcnemar_p_value": 0.031,
            },
        },
    }


CATEGORIES = ("color", "count", "existence", "position", "shape", "text")


@pytest.fixture
def questions(tmp_path: Path) -> Dataset:
    """Four hundred questions about a hundred pictures."""
    artifact = Dataset(
        "questions", FolderBytes(tmp_path / "questions"), ArtifactType("Dataset", "questions")
    )
    rng = np.random.default_rng(0)
    with DatasetWriter(artifact) as writer:
        for number in range(100):
            pixels = np.full((16, 16, 3), 235, np.uint8)
            top, left = rng.integers(0, 9, 2)
            pixels[top : top + 7, left : left + 7] = rng.integers(0, 200, 3)
            image = writer.add_image(pixels)
            for index in range(4):
                category = CATEGORIES[(number + index) % len(CATEGORIES)]
                question = f"what is the {category} of picture {number}?"
                record = {"id": f"q{number}-{index}", "image": image, "category": category}
                writer.add_record(record | {"question": question, "answer": f"answer{index}"})
    return artifact


def predict(folder: Path, questions: Dataset, accuracy: float, *, producer: str) -> Dataset:
    """Predictions of which about ``accuracy`` are right; better models know all that worse do."""
    records = read_records(questions)
    artifact = Dataset(
        "predictions",
        FolderBytes(folder / producer),
        ArtifactType("Dataset", "predictions"),
        digest=digest(f"{producer}.predictions"),
    )
    with DatasetWriter(artifact) as writer:
        for record in records:
            right = zlib.crc32(record["id"].encode()) / 2**32 < accuracy
            said = record["answer"] if right else "something else"
            fields = {key: record[key] for key in ("id", "category", "question", "answer")}
            writer.add_record({**fields, "prediction": said, "correct": right})
    return artifact


@pytest.fixture
def predictions(tmp_path: Path, questions: Dataset) -> list[Dataset]:
    """Of the three evaluation steps of `quickstart`, each better than the one before."""
    return [
        predict(tmp_path, questions, accuracy, producer=producer)
        for producer, accuracy in (
            ("evaluate-fused", 0.55),
            ("evaluate-merged", 0.66),
            ("evaluate", 0.72),
        )
    ]


@pytest.fixture
def render() -> Callable[..., str]:
    """The page of a record, as the component renders it."""

    def page(
        run: RecordBuilder,
        predictions: list[Dataset] | None = None,
        questions: Dataset | None = None,
        **config: Any,
    ) -> str:
        inputs = ReportRun.Inputs(run=run.write(), predictions=predictions, questions=questions)
        return render_run(inputs, ReportRun.Config(**{"num_bootstrap": 500, **config}), seed=0)

    return page


@pytest.fixture
def failure() -> Failure:
    return Failure(
        FailureCause.OUT_OF_MEMORY,
        "train-vlm was killed: 3.1 GiB of 3 GiB used.",
        "Lower batch_size or raise resources.memory_gib.",
        137,
        ("step 40 loss 1.23", "Killed"),
    )
