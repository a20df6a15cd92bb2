"""AdamW over the published parameter groups, with linear warm-up and a cosine to zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class LearningRates:
    """Peak rates by part of the model."""

    base: float
    tower: float
    projector: float
    """Of the vision-to-text projector alone; the way back belongs to the base, as published."""


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], rates: LearningRates, *, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with six groups: base, tower, projector, each with and without decay.

    Biases and norms do not decay. Each group keeps its peak rate as ``peak_lr``.
    """
    peaks = {"base": rates.base, "tower": rates.tower, "projector": rates.projector}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (part, decays): [] for part in peaks for decays in (True, False)
    }
    for part, decays, parameter in _grouped(parameters):
        groups[part, decays].append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "lr": peaks[part],
                "peak_lr": peaks[part],
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (part, decays), members in groups.items()
        ],
        fused=True,
    )


def set_learning_rates(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Each group's rate becomes ``fraction`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * fraction


def schedule_fraction(step: int, total: int, warmup_ratio: float) -> float:
    """Fraction of the peak rate at ``step``: linear warm-up, then a cosine that ends at zero."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _grouped(
    parameters: Mapping[str, nn.Parameter],
) -> Iterator[tuple[str, bool, nn.Parameter]]:
    """Each parameter with its part of the model and whether it decays."""
    parts = {"vision_tower": "tower", "vision_to_text": "projector"}
    for name, parameter in parameters.items():
        # Biases and the scales of norms are vectors; every other parameter is a matrix or more.
        yield parts.get(name.split(".", 1)[0], "base"), parameter.dim() > 1, parameter
