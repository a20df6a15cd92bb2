"""Two processes that share every batch make the updates that one makes of the whole batch.

Gradients of one batch are added in another order. That is a rounding error, 1e-7 in float32, until
an optimiser that divides by the size of a gradient makes a step of a gradient that is nothing but
rounding; so whole runs agree less well, here to 4e-4 of the way that the weights have come.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from crucible.artifacts import open_store
from crucible.errors import EXIT_TEMPORARY, UserError
from crucible.sdk.checkpoint import FolderCheckpoints
from crucible.sdk.context import CheckpointStore
from crucible.sdk.store_checkpoint import StoreCheckpoints
from crucible.sdk.types import Conversations, Dataset
from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.models.fusion.folder import save_model
from crucible_components.training.dataset import TrainingSet
from crucible_components.training.loop import LoopSettings, StepValues, train
from crucible_components.training.optimizer import LearningRates
from crucible_components.training.replicas import Replicas

Build = Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]]
NUM_STEPS = 9
GRADIENT_TOLERANCE, LOSS_TOLERANCE, WEIGHT_TOLERANCE = 2e-6, 5e-4, 5e-3
FINGERPRINT = "sha256:" + "0" * 64
SETTINGS = LoopSettings(
    num_steps=NUM_STEPS,
    batch_size=7,  # parts of 4 and 3; the last batch of an epoch is smaller still
    rates=LearningRates(3e-3, 3e-3, 3e-3),
    query_lens=(1, 4),
    seed=5,
    precision="float32",
)


@dataclass(frozen=True)
class Job:
    """A training run in processes of its own."""

    model_dir: Path
    dataset_dir: Path
    folder: Path

    def run(self, settings: LoopSettings, *, size: int = 2, **events: object) -> list[Ended]:
        """Train in ``size`` processes that share the folder's checkpoints."""
        self.folder.mkdir(exist_ok=True)
        job = self.folder / "job.json"
        fields = {
            "model": str(self.model_dir),
            "dataset": str(self.dataset_dir),
            "out": str(self.folder),
            "store": self.store_uri,
            "fingerprint": FINGERPRINT,
            "settings": dataclasses.asdict(settings),
        }
        job.write_text(json.dumps(fields | events))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        processes = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("replica.py")), str(job)],
                env={**os.environ, **meeting, "RANK": str(rank), "WORLD_SIZE": str(size)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        return [Ended(each.communicate()[1], each.returncode) for each in processes]

    @property
    def store_uri(self) -> str:
        return (self.folder / "store").as_uri()

    def gradients(self) -> dict[str, Tensor]:
        """Of the first two updates."""
        return load_file(self.folder / "rank-0-gradients.safetensors")

    def checkpoints(self) -> StoreCheckpoints:
        return StoreCheckpoints(
            open_store(self.store_uri).backend,
            fingerprint=FINGERPRINT,
            run_id="run",
            scratch_dir=self.folder / "scratch-here",
        )

    def weights(self, rank: int = 0) -> dict[str, Tensor]:
        return load_file(self.folder / f"rank-{rank}.safetensors")

    def told(self, rank: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"rank-{rank}.json").read_text())
        return found


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    stderr: str
    exit_code: int


@dataclass(frozen=True)
class Alone:
    """What one process makes of the same data and settings."""

    weights: dict[str, Tensor]
    values: list[StepValues]
    metrics: dict[str, float]
    gradients: dict[str, Tensor]
    """Of the first two updates, by update and place."""


@pytest.fixture(scope="module")
def places(
    build: Build, dataset: Dataset[Conversations], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Folders of a new model and of the dataset."""
    folder = tmp_path_factory.mktemp("model")
    save_model(*build(), folder)
    return folder, dataset.local_dir()


@pytest.fixture
def job(places: tuple[Path, Path], tmp_path: Path) -> Job:
    return Job(*places, tmp_path / "job")


def _alone(
    build: Build, data: TrainingSet, settings: LoopSettings, checkpoints: CheckpointStore
) -> Alone:
    model, processor = build()
    values: list[StepValues] = []
    first: dict[str, Tensor] = {}

    def keep(optimizer: Optimizer, *_: object) -> None:
        step = len(values)
        for number, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"]):
            if step < 2 and parameter.grad is not None:
                first[f"{step}.{type(optimizer).__name__}.{number}"] = parameter.grad.clone()

    hook = register_optimizer_step_pre_hook(keep)
    try:
        metrics = train(
            model,
            processor,
            data,
            settings,
            checkpoints=checkpoints,
            monitor=lambda _, value: values.append(value),
        )
    finally:
        hook.remove()
    return Alone(model.state_dict(), values, metrics, first)


def _departure(
    found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]
) -> float:
    """Distance of two runs' weights, as a part of how far the run has come."""
    assert found.keys() == expected.keys()
    apart = torch.stack([(found[name] - expected[name]).norm() for name in expected]).norm()
    moved = torch.stack([(expected[name] - start[name]).norm() for name in expected]).norm()
    return (apart / moved).item()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_two_ranks_train_what_one_trains(
    build: Build, training_set: TrainingSet, job: Job, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, optimizer="muon")
    alone = _alone(build, training_set, settings, FolderCheckpoints(tmp_path / "alone"))
    ended = job.run(settings)
    assert [each.exit_code for each in ended] == [0, 0], ended
    gradients = job.gradients()
    assert gradients.keys() == alone.gradients.keys()
    scale = max(gradient.norm().item() for gradient in alone.gradients.values())
    for name, expected in alone.gradients.items():  # some are zero but for rounding
        assert (gradients[name] - expected).norm() < GRADIENT_TOLERANCE * scale, name
    told = job.told()
    assert len(told["values"]) == NUM_STEPS
    for one, two in zip(alone.values, told["values"], strict=True):
        assert two["n"] == one.num_targets
        assert two["losses"] == pytest.approx(one.losses, rel=LOSS_TOLERANCE)
    assert {len(one.losses) for one in alone.values} == {2, 4}  # without pictures and with
    assert told["metrics"] == pytest.approx(alone.metrics, rel=LOSS_TOLERANCE)
    start = build()[0].state_dict()
    assert _departure(job.weights(), alone.weights, start) < WEIGHT_TOLERANCE
    assert all(torch.equal(job.weights(1)[name], found) for name, found in job.weights().items())


def test_what_two_ranks_began_one_ends(
    build: Build, training_set: TrainingSet, job: Job, tmp_path: Path
) -> None:
    alone = _alone(build, training_set, SETTINGS, FolderCheckpoints(tmp_path / "alone"))
    often = dataclasses.replace(SETTINGS, checkpoint_seconds=0.0)
    ended = job.run(often, killed=[0, 6])
    assert ended[0].exit_code == -signal.SIGKILL
    assert ended[1].exit_code == EXIT_TEMPORARY
    assert "PeerLost: rank 1 lost the other ranks" in ended[1].stderr
    resumed = _alone(build, training_set, SETTINGS, job.checkpoints())
    assert len(resumed.values) == NUM_STEPS - 5
    start = build()[0].state_dict()
    assert _departure(resumed.weights, alone.weights, start) < WEIGHT_TOLERANCE
    assert resumed.metrics == pytest.approx(alone.metrics, rel=LOSS_TOLERANCE)


def test_sigterm_to_one_rank_stops_all_at_one_step(job: Job) -> None:
    stopped = job.run(SETTINGS, terminated=[1, 4])
    assert [ended.exit_code for ended in stopped] == [1, 1]
    for ended in stopped:
        assert "Cancelled: stopped by SIGTERM after step 4 of 9" in ended.stderr
    found = job.checkpoints().latest()
    assert found is not None
    assert found[0] == 4
    assert [ended.exit_code for ended in job.run(SETTINGS)] == [0, 0]
    assert len(job.told(1)["values"]) == NUM_STEPS - 4


def test_more_ranks_than_conversations_are_refused(
    build: Build, training_set: TrainingSet, tmp_path: Path
) -> None:
    model, processor = build()
    with pytest.raises(UserError, match="batch_size: got 7 for 8 ranks"):
        train(
            model,
            processor,
            training_set,
            SETTINGS,
            checkpoints=FolderCheckpoints(tmp_path),
            monitor=lambda *_: None,
            replicas=Replicas(rank=0, size=8),
        )


def test_parts_cover_a_batch_once() -> None:
    chosen = np.arange(10, 17)
    parts = [Replicas(rank, 3).share(chosen).tolist() for rank in range(3)]
    assert sorted(index for part in parts for index in part) == chosen.tolist()
    assert [len(part) for part in parts] == [3, 2, 2]
