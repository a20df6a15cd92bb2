"""Training state on disk: safetensors and JSON, complete enough to continue bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crucible.errors import ArtifactCorrupt
from crucible_components.training.optimizer import Optimizers
from crucible_components.training.precision import MasterWeights

_MODEL_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "state.json"


def save_state(
    folder: Path,
    masters: MasterWeights,
    optimizers: Optimizers,
    sums: Mapping[str, float],
) -> None:
    """Write parameters, optimiser moments and running sums into ``folder``.

    Data order, latents and rates follow from seed and step, so they are not part of the state.
    """
    save_file(masters.values(), folder / _MODEL_FILE)
    tensors = {
        f"{member}.{index}.{name}": value.detach().contiguous()
        for member, optimizer in enumerate(optimizers.members)
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    save_file(tensors, folder / _OPTIMIZER_FILE)
    (folder / _STATE_FILE).write_text(json.dumps(dict(sums)))


def load_state(folder: Path, masters: MasterWeights, optimizers: Optimizers) -> dict[str, float]:
    """Restore what `save_state` wrote and return the running sums.

    Raises:
        ArtifactCorrupt: the checkpoint is of another model.
    """
    saved = load_file(folder / _MODEL_FILE)
    parameters = masters.values()
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in parameters.items()}:
        raise ArtifactCorrupt(f"{folder}: checkpoint of another model. Remove it to start anew.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    masters.publish()
    states: dict[int, dict[int, dict[str, Tensor]]] = {}
    for key, tensor in load_file(folder / _OPTIMIZER_FILE).items():
        place, index, name = key.split(".", 2)
        states.setdefault(int(place), {}).setdefault(int(index), {})[name] = tensor
    for member, optimizer in enumerate(optimizers.members):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states.get(member, {})})
    sums: dict[str, float] = json.loads((folder / _STATE_FILE).read_text())
    return sums
