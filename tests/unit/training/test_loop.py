"""Training learns, and a run that was broken off ends with the bits of one that was not."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crucible.errors import Cancelled
from crucible.sdk.checkpoint import FolderCheckpoints
from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
)
from crucible_components.training.dataset import TrainingSet
from crucible_components.training.loop import LoopSettings, StepValues, train
from crucible_components.training.optimizer import LearningRates

Build = Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]]
SETTINGS = LoopSettings(
    num_steps=12,
    batch_size=8,
    rates=LearningRates(3e-3, 3e-3, 3e-3),
    query_lens=(1, 4),
    seed=5,
    precision="float32",
)


class Killed(Exception):
    """Stands for the end of the process: nothing after it runs."""


def _weights(model: FusionForConditionalGeneration) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _run(
    build: Build,
    data: TrainingSet,
    settings: LoopSettings,
    folder: Path,
    monitor: Callable[[int, StepValues], None] = lambda done, values: None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    model, processor = build()
    checkpoints = FolderCheckpoints(folder)
    try:
        metrics = train(model, processor, data, settings, checkpoints=checkpoints, monitor=monitor)
    finally:
        checkpoints.close()
    return _weights(model), metrics


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("killed_after", [1, 7, 11])
def test_a_killed_run_resumes_bit_for_bit(
    build: Build, training_set: TrainingSet, tmp_path: Path, precision: str, killed_after: int
) -> None:
    settings = dataclasses.replace(SETTINGS, precision=precision, checkpoint_seconds=0.0)
    undisturbed = _run(build, training_set, settings, tmp_path / "a")

    def kill(done: int, _: StepValues) -> None:
        if done == killed_after + 1:
            raise Killed

    with pytest.raises(Killed):
        _run(build, training_set, settings, tmp_path / "b", kill)
    seen: list[int] = []
    resumed = _run(build, training_set, settings, tmp_path / "b", lambda done, _: seen.append(done))
    assert seen == list(range(killed_after + 1, 13))
    assert _same(resumed[0], undisturbed[0])
    assert resumed[1] == undisturbed[1]


def test_how_often_it_saves_changes_nothing(
    build: Build, training_set: TrainingSet, tmp_path: Path
) -> None:
    often = _run(
        build, training_set, dataclasses.replace(SETTINGS, checkpoint_seconds=0.0), tmp_path / "a"
    )
    never = _run(build, training_set, SETTINGS, tmp_path / "b")
    assert _same(often[0], never[0])
    assert often[1] == never[1]


def test_sigterm_saves_and_stops(build: Build, training_set: TrainingSet, tmp_path: Path) -> None:
    def terminate(done: int, _: StepValues) -> None:
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Cancelled, match="after step 4 of 12"):
        _run(build, training_set, SETTINGS, tmp_path, terminate)
    assert signal.getsignal(signal.SIGTERM) is before
    checkpoints = FolderCheckpoints(tmp_path)
    found = checkpoints.latest()
    checkpoints.close()
    assert found is not None
    assert found[0] == 4
    assert {path.suffix for path in found[1].iterdir()} == {".json", ".safetensors"}
    finished = _run(build, training_set, SETTINGS, tmp_path)
    assert _same(finished[0], _run(build, training_set, SETTINGS, tmp_path / "new")[0])


def test_the_seed_decides_the_result(
    build: Build, training_set: TrainingSet, tmp_path: Path
) -> None:
    first = _run(build, training_set, SETTINGS, tmp_path / "a")
    other = dataclasses.replace(SETTINGS, seed=6)
    assert not _same(first[0], _run(build, training_set, other, tmp_path / "b")[0])


def test_the_callers_determinism_switch_is_left_as_it_was(
    build: Build, training_set: TrainingSet, tmp_path: Path
) -> None:
    inside: list[bool] = []
    _run(
        build,
        training_set,
        dataclasses.replace(SETTINGS, num_steps=1),
        tmp_path,
        lambda *_: inside.append(torch.are_deterministic_algorithms_enabled()),
    )
    assert inside == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_values_of_a_step_are_true(build: Build, training_set: TrainingSet, tmp_path: Path) -> None:
    values: list[StepValues] = []
    settings = dataclasses.replace(SETTINGS, num_steps=6)  # 40 with picture, 8 without
    _, metrics = _run(
        build, training_set, settings, tmp_path, lambda _, value: values.append(value)
    )
    one_epoch = sum(int(one.supervised.sum()) for (one,) in training_set.examples)
    assert metrics["num_supervised_tokens"] == sum(value.num_targets for value in values)
    assert metrics["num_supervised_tokens"] == one_epoch
    for value in values:
        mapping = value.losses.get("vision_to_text", 0) + value.losses.get("text_to_vision", 0)
        expected = value.losses["answer"] + 0.1 * mapping
        assert value.losses["total"] == pytest.approx(expected, rel=1e-5)
