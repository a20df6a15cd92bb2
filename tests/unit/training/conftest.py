"""A tiny dataset on disk, and a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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
