"""The loop teaches a model to see: its answers change with the picture, not with the question."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crucible.sdk.checkpoint import FolderCheckpoints
from crucible.sdk.types import Conversations, Dataset
from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.models.fusion.generation import generate_answers
from crucible_components.training.dataset import load_training_set
from crucible_components.training.loop import LoopSettings, train
from crucible_components.training.optimizer import LearningRates


@pytest.mark.slow
def test_it_learns_to_see(
    build: Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]],
    dataset: Dataset[Conversations],
    colors: dict[str, tuple[int, int, int]],
    tmp_path: Path,
) -> None:
    model, processor = build(seed=1)
    settings = LoopSettings(
        num_steps=300,
        batch_size=8,
        rates=LearningRates(2e-3, 2e-3, 2e-3),
        query_lens=(1, 4),
        seed=1,
        optimizer="muon",
        warmup_ratio=0.1,
    )
    train(
        model,
        processor,
        load_training_set(dataset, processor, turns_per_sample=1),
        settings,
        checkpoints=FolderCheckpoints(tmp_path),
        monitor=lambda done, values: None,
    )
    pictures, questions, answers = [], [], []
    for left, right in itertools.product(colors, repeat=2):
        pixels = np.zeros((32, 32, 3), dtype=np.uint8)
        pixels[:, :16], pixels[:, 16:] = colors[left], colors[right]
        for side, answer in (("left", left), ("right", right)):
            pictures.append(pixels)
            questions.append(f"{side} colour?")
            answers.append(answer)
    found = generate_answers(model, processor, pictures, questions, max_new_tokens=3)
    hits = sum(one.text == answer for one, answer in zip(found, answers, strict=True))
    assert hits >= 0.8 * len(answers)  # a guess is right in a third
