from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.training.optimizer import (
    LearningRates,
    build_optimizer,
    schedule_fraction,
    set_learning_rates,
)

Build = Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]]


def test_groups_are_the_published_six(build: Build) -> None:
    model, _ = build()
    named = dict(model.named_parameters())
    optimizer = build_optimizer(named, LearningRates(1e-3, 1e-4, 5e-4), weight_decay=0.1)
    where = {id(p): group for group in optimizer.param_groups for p in group["params"]}
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
    optimizer = build_optimizer(named, LearningRates(1e-3, 1e-4, 5e-4), weight_decay=0.0)
    set_learning_rates(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {5e-4, 5e-5, 2.5e-4}
