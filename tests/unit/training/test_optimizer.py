from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.training.optimizer import (
    LearningRates,
    build_optimizers,
    schedule_fraction,
)

Build = Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]]


def test_groups_are_the_published_six(build: Build) -> None:
    model, _ = build()
    named = dict(model.named_parameters())
    optimizers = build_optimizers("adamw", named, LearningRates(1e-3, 1e-4, 5e-4), weight_decay=0.1)
    assert len(optimizers.param_groups) == 6
    where = {id(p): group for group in optimizers.param_groups for p in group["params"]}
    assert len(where) == len(named)
    for name, parameter in named.items():
        rates = {"vision_tower": 1e-4, "vision_to_text": 5e-4}
        group = where[id(parameter)]
        assert group["lr"] == rates.get(name.split(".")[0], 1e-3), name
        decays = "norm" not in name and not name.endswith("bias")
        assert group["weight_decay"] == (0.1 if decays else 0.0), name


def test_schedule_warms_up_and_ends_at_zero() -> None:
    fractions = [schedule_fraction(step, 100, 0.03) for step in range(100)]
    assert fractions[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert fractions[3:] == sorted(fractions[3:], reverse=True)
    assert fractions[51] == pytest.approx(0.5, abs=0.01)
    assert fractions[99] < 0.001
    assert schedule_fraction(0, 1, 0.0) == 1.0


def test_schedule_equals_that_of_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    reference = get_cosine_schedule_with_warmup(optimizer, 3, 100)
    for step in range(3, 100):
        while reference.last_epoch < step:
            optimizer.step()
            reference.step()
        assert reference.get_last_lr()[0] == pytest.approx(schedule_fraction(step, 100, 0.03))


def test_rates_follow_the_schedule_group_by_group(build: Build) -> None:
    named = dict(build()[0].named_parameters())
    optimizers = build_optimizers("muon", named, LearningRates(1e-3, 1e-4, 5e-4), weight_decay=0.0)
    optimizers.set_learning_rates(0.5)
    assert {group["lr"] for group in optimizers.param_groups} == {5e-4, 5e-5, 2.5e-4}


def test_muon_takes_the_weights_of_linear_layers_and_nothing_else(build: Build) -> None:
    model, _ = build()
    named = dict(model.named_parameters())
    optimizers = build_optimizers("muon", named, LearningRates(1e-3, 1e-4, 5e-4), weight_decay=0.0)
    found = {
        type(member): {id(p) for group in member.param_groups for p in group["params"]}
        for member in optimizers.members
    }
    adamw, muon = found[torch.optim.AdamW], found[torch.optim.Muon]
    assert adamw | muon == {id(parameter) for parameter in named.values()}
    head = model.lm_head.weight
    linear = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.weight is not head
    }
    assert muon == linear
    assert not adamw & muon


def test_muon_moves_along_every_singular_direction_alike() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(32, 20))
    optimizers = build_optimizers(
        "muon", {"layer.weight": weight}, LearningRates(1e-2, 1e-2, 1e-2), weight_decay=0.0
    )
    weight.grad = torch.randn(32, 20) @ torch.diag(torch.logspace(0, -2, 20))
    left, _, right = torch.linalg.svd(weight.grad, full_matrices=False)
    optimizers.step()
    assert weight.grad is None
    gains = (left.T @ -weight.detach() @ right.T).diagonal() / (1e-2 * 0.2 * 32**0.5)
    assert gains.min() > 0.6
    assert gains.max() < 1.3
