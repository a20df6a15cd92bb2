"""What a GRPO run must remember to go on as if it had never stopped; safetensors and JSON only.

Random numbers need no state: every draw is seeded by the run's seed and its step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crucible.errors import ArtifactCorrupt

TENSORS_FILE = "state.safetensors"
PROGRESS_FILE = "progress.json"


@dataclass
class RunProgress:
    """Counters and history of a run."""

    num_steps_done: int = 0
    num_updates: int = 0
    num_tokens: int = 0
    """Sampled so far."""
    prompt_position: int = 0
    """Prompts served so far."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Measures of each step, without times."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Answers of the last step, as records."""


def save_state(
    folder: Path,
    progress: RunProgress,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write trained parameters, optimiser state and progress into ``folder``."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameters/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value.contiguous()
    save_file(tensors, folder / TENSORS_FILE)
    (folder / PROGRESS_FILE).write_text(json.dumps(asdict(progress)))


def load_state(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> RunProgress:
    """Put back what `save_state` wrote and return the progress.

    Raises:
        ArtifactCorrupt: the checkpoint does not hold these parameters.
    """
    from safetensors.torch import load_file

    tensors = load_file(folder / TENSORS_FILE)
    stored = {n.removeprefix("parameters/") for n in tensors if n.startswith("parameters/")}
    if differing := sorted(stored ^ set(parameters)):
        raise ArtifactCorrupt(
            f"{folder}: the checkpoint holds other parameters: {', '.join(differing[:5])}. "
            "Delete the checkpoint to start over."
        )
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"parameters/{name}"])
        state = {
            key.split("/")[1]: value
            for key, value in tensors.items()
            if key.startswith("optimizer/") and key.split("/", 2)[2] == name
        }
        if state:
            optimizer.state[parameter] = state
    progress: dict[str, Any] = json.loads((folder / PROGRESS_FILE).read_text())
    return RunProgress(**progress)
