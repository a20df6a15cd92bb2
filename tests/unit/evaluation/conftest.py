"""A small question set, and a fake model that knows exactly what it will say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible.sdk.types import Artifact, ArtifactType, Dataset, Metrics, Model, Report
from crucible.testing.contexts import RecordingSink, step_context
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import DatasetWriter
from crucible_components.evaluation.answering import Response
from crucible_components.evaluation.component import EvaluateModel
from crucible_components.evaluation.evaluation import evaluate

COLORS = ("red", "green", "blue")


@dataclass
class FakeResponder:
    """Reads the answer out of the picture's first pixel; is wrong where it is told to be."""

    wrong: Callable[[str], bool] = lambda question: False
    calls: list[list[str]] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)

    def answer(
        self, images: Sequence[Any], questions: Sequence[str], *, max_new_tokens: int
    ) -> list[Response]:
        self.calls.append(list(questions))
        self.pictures.append(len({id(image) for image in images}))
        return [
            Response(self._say(image, question), 0.9, False, 2)
            for image, question in zip(images, questions, strict=True)
        ]

    def option_logprobs(
        self, images: Sequence[Any], questions: Sequence[str], options: Sequence[str]
    ) -> np.ndarray:
        said = [self._say(image, text) for image, text in zip(images, questions, strict=True)]
        return np.log([[0.8 if text == option else 0.1 for option in options] for text in said])

    def _say(self, image: Any, question: str) -> str:
        color = COLORS[int(image[0, 0].argmax())]
        wrong = self.wrong(question)
        if question.startswith("is it"):
            return "yes" if (color in question) != wrong else "no"
        if question.startswith("which"):
            return "C" if wrong else "ABC"[COLORS.index(color)]
        return "pink" if wrong else color.title()


@pytest.fixture
def questions(tmp_path: Path) -> Dataset:
    """Thirty pictures of one colour each, four questions about every one."""
    artifact = Dataset(
        "dataset", FolderBytes(tmp_path / "questions"), ArtifactType("Dataset", "questions")
    )
    with DatasetWriter(artifact) as writer:
        for number in range(30):
            color = COLORS[number % 3]
            pixels = np.zeros((4, 4, 3), np.uint8)
            pixels[..., number % 3] = 100 + number
            image = writer.add_image(pixels)
            other = COLORS[(number + 1) % 3]
            letter = "ABC"[number % 3]
            for index, (category, question, answer, choices) in enumerate(
                [
                    ("color", f"what color has picture {number}?", color, None),
                    ("existence", f"is it {color}?", "yes", None),
                    ("existence", f"is it {other}?", "no", None),
                    ("choice", f"which one is {number}?", letter, list(COLORS)),
                ]
            ):
                record = {"id": f"q{number}-{index}", "image": image, "category": category}
                record |= {"question": question, "answer": answer}
                writer.add_record(record | ({"choices": choices} if choices else {}))
    return artifact


@dataclass
class Evaluated:
    outputs: EvaluateModel.Outputs
    metrics: dict[str, float]
    sink: RecordingSink


@pytest.fixture
def run_evaluation(tmp_path: Path, questions: Dataset) -> Callable[..., Evaluated]:
    """Evaluate a responder on the question set; each call writes a folder of its own."""
    numbers = iter(range(100))

    def run(
        responder: Any,
        *,
        baseline: Artifact | None = None,
        dataset: Dataset = questions,
        model: Model | None = None,
        **config: Any,
    ) -> Evaluated:
        folder = tmp_path / f"evaluation-{next(numbers)}"
        predictions = Dataset(
            "predictions", FolderBytes(folder / "p"), ArtifactType("Dataset", "predictions")
        )
        outputs = EvaluateModel.Outputs(
            predictions=predictions,
            metrics=Metrics("metrics", FolderBytes(folder / "m")),
            report=Report("report", FolderBytes(folder / "r")),
        )
        model = model or Model("model", FolderBytes(tmp_path))
        inputs = EvaluateModel.Inputs(model=model, dataset=dataset, baseline=baseline)
        sink = RecordingSink()
        load = {} if responder is None else {"load": lambda folder: responder}
        with step_context(folder, seed=3, sink=sink) as context:
            evaluate(inputs, EvaluateModel.Config(**config), outputs, context, **load)
        return Evaluated(outputs, outputs.metrics.read(), sink)

    return run


@pytest.fixture
def fake_responder() -> type[FakeResponder]:
    return FakeResponder
