from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from crucible.errors import ArtifactCorrupt
from crucible_components.rl.state import RunProgress, load_state, save_state


def trained(seed: int) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        "a.weight": nn.Parameter(torch.randn(3, 2, generator=generator)),
        "idle": nn.Parameter(torch.randn(2, generator=generator)),
    }
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=0.1)
    for _ in range(3):
        parameters["a.weight"].grad = torch.randn(3, 2, generator=generator)
        optimizer.step()
    return parameters, optimizer


def step(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> torch.Tensor:
    parameters["a.weight"].grad = torch.ones(3, 2)
    optimizer.step()
    return parameters["a.weight"].detach().clone()


def test_the_next_step_after_loading_is_the_one_after_saving(tmp_path: Path) -> None:
    progress = RunProgress(7, 9, 100, 55, [{"reward": 0.1 + 0.2}], [{"id": "x", "reward": None}])
    parameters, optimizer = trained(0)
    save_state(tmp_path, progress, parameters, optimizer)
    expected = step(parameters, optimizer)
    other, other_optimizer = trained(1)
    assert load_state(tmp_path, other, other_optimizer) == progress
    assert torch.equal(step(other, other_optimizer), expected)
    assert torch.equal(other["idle"], parameters["idle"])


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    parameters, optimizer = trained(0)
    save_state(tmp_path, RunProgress(), parameters, optimizer)
    parameters["extra"] = nn.Parameter(torch.zeros(1))
    with pytest.raises(ArtifactCorrupt, match="other parameters: extra"):
        load_state(tmp_path, parameters, optimizer)
