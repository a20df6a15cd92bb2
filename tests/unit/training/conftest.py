"""A tiny dataset on disk, a tiny model, and the step's surroundings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from crucible.sdk.checkpoint import FolderCheckpoints
from crucible.sdk.context import Context
from crucible.sdk.types import ArtifactType, Conversations, Dataset
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import DatasetWriter
from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    build_model,
)
from crucible_components.models.fusion.tokenizer import train_tokenizer
from crucible_components.training.dataset import TrainingSet, load_training_set, training_texts

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
TINY = {
    "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    },
    "query_lens": [1, 4],
    "num_interaction_layers": 1,
}


class RecordingSink:
    """Progress and tracking of a step, kept for assertions."""

    def __init__(self) -> None:
        self.progress: list[tuple[float, float | None]] = []
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.params: dict[str, str | int | float | bool] = {}

    def update(
        self, done: float, total: float | None = None, *, unit: str = "steps", message: str = ""
    ) -> None:
        self.progress.append((done, total))

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        self.metrics.append((step, dict(values)))

    def log_params(self, values: Mapping[str, str | int | float | bool]) -> None:
        self.params.update(values)

    def set_tags(self, values: Mapping[str, str]) -> None:
        raise AssertionError("training sets no tags")


def make_context(folder: Path, *, seed: int = 7, sink: RecordingSink | None = None) -> Context:
    scratch_dir = folder / "scratch"
    scratch_dir.mkdir(parents=True, exist_ok=True)
    sink = sink or RecordingSink()
    return Context(
        run_id="run",
        step_id="step",
        attempt=1,
        seed=seed,
        fingerprint="sha256:" + hashlib.sha256(str(folder).encode()).hexdigest(),
        scratch_dir=scratch_dir,
        cpus=1.0,
        checkpoint=FolderCheckpoints(folder / "checkpoints"),
        progress=sink,
        tracking=sink,
    )


def write_dataset(folder: Path, *, num_records: int = 48, seed: int = 0) -> Dataset[Conversations]:
    """Halves of two colours with a question about each side; every sixth record is text only."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset: Dataset[Conversations] = Dataset(
        "dataset", FolderBytes(folder), ArtifactType("Dataset", "conversations")
    )
    generator = np.random.default_rng(seed)
    with DatasetWriter(dataset) as writer:
        for number in range(num_records):
            writer.add_record(_record(writer, number, generator))
    return dataset


def _record(
    writer: DatasetWriter, number: int, generator: np.random.Generator
) -> dict[str, object]:
    if number % 6 == 5:
        turns = [("what is one plus one?", "two")]
        return {"id": f"r{number}", "category": "text-only", "conversations": _turns(turns)}
    left, right = generator.choice(sorted(COLORS), size=2)
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:, :16], pixels[:, 16:] = COLORS[left], COLORS[right]
    pixels[0, 0] = number  # no two pictures are equal
    turns = [("<image>\nleft colour?", left), ("right colour?", right)][: 1 + number % 2]
    return {
        "id": f"r{number}",
        "image": writer.add_image(pixels),
        "category": "two" if number % 2 else "one",
        "conversations": _turns(turns),
    }


def _turns(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"from": speaker, "value": str(value)}
        for pair in pairs
        for speaker, value in zip(("human", "gpt"), pair, strict=True)
    ]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset[Conversations]:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="session")
def build(
    dataset: Dataset[Conversations],
) -> Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]]:
    tokenizer = train_tokenizer(training_texts([dataset]), vocab_size=300)

    def build(seed: int = 0) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
        return build_model("pico", tokenizer, seed=seed, **TINY)

    return build


@pytest.fixture(scope="session")
def training_set(
    dataset: Dataset[Conversations],
    build: Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]],
) -> TrainingSet:
    return load_training_set(dataset, build()[1])


@pytest.fixture
def colors() -> dict[str, tuple[int, int, int]]:
    return COLORS


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
