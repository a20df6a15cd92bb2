"""One process of `test_replicas`: trains a saved model on a dataset folder as its rank.

Usage: RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python replica.py JOB.json
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from crucible.artifacts import open_store
from crucible.errors import CrucibleError
from crucible.sdk.store_checkpoint import StoreCheckpoints
from crucible.sdk.types import ArtifactType, Conversations, Dataset
from crucible_components.data.folder import FolderBytes
from crucible_components.models.fusion import load_model
from crucible_components.training.dataset import load_training_set
from crucible_components.training.loop import LoopSettings, StepValues, train
from crucible_components.training.optimizer import LearningRates
from crucible_components.training.replicas import Replicas, joined


def main(job: dict[str, Any], replicas: Replicas) -> None:
    values: list[dict[str, Any]] = []

    def monitor(done: int, found: StepValues) -> None:
        values.append({"losses": found.losses, "norm": found.grad_norm, "n": found.num_targets})
        if [replicas.rank, done] == job.get("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if [replicas.rank, done] == job.get("terminated"):
            os.kill(os.getpid(), signal.SIGTERM)

    first: dict[str, Tensor] = {}

    def keep(optimizer: Optimizer, *_: object) -> None:
        step = len(values)
        for number, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"]):
            if step < 2 and parameter.grad is not None:
                first[f"{step}.{type(optimizer).__name__}.{number}"] = parameter.grad.clone()

    register_optimizer_step_pre_hook(keep)
    model, processor = load_model(job["model"], dtype=torch.float32)
    dataset: Dataset[Conversations] = Dataset(
        "dataset", FolderBytes(Path(job["dataset"])), ArtifactType("Dataset", "conversations")
    )
    rates = LearningRates(**job["settings"].pop("rates"))
    metrics = train(
        model,
        processor,
        load_training_set(dataset, processor),
        LoopSettings(**job["settings"], rates=rates),
        checkpoints=StoreCheckpoints(
            open_store(job["store"]).backend,
            fingerprint=job["fingerprint"],
            run_id="run",
            scratch_dir=Path(job["out"]) / f"scratch-{replicas.rank}",
        ),
        monitor=monitor,
        replicas=replicas,
    )
    stem = Path(job["out"]) / f"rank-{replicas.rank}"
    save_file(first, f"{stem}-gradients.safetensors")
    save_file({n: t.clone() for n, t in model.state_dict().items()}, f"{stem}.safetensors")
    Path(f"{stem}.json").write_text(json.dumps({"values": values, "metrics": metrics}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        with joined(rank, size, torch.device("cpu")) as found:
            main(json.loads(Path(sys.argv[1]).read_text()), found)
    except CrucibleError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
