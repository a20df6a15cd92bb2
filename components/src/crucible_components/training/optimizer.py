"""AdamW or Muon over the published parameter groups, with linear warm-up and a cosine to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from crucible_components.training.config import OptimizerName

_TOKEN_TABLES = ("embed_tokens.weight", "lm_head.weight", "position_embedding.weight")
"""Matrices whose rows are looked up, not multiplied: Muon does not take them."""


@dataclass(frozen=True)
class LearningRates:
    """Peak rates by part of the model."""

    base: float
    tower: float
    projector: float
    """Of the vision-to-text projector alone; the way back belongs to the base, as published."""


class Optimizers:
    """Several optimisers over disjoint parameters, stepped as one."""

    def __init__(self, members: list[torch.optim.Optimizer]) -> None:
        self.members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all members. Each keeps its peak rate as ``peak_lr``."""
        return [group for member in self.members for group in member.param_groups]

    def set_learning_rates(self, fraction: float) -> None:
        """Each group's rate becomes ``fraction`` of its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak_lr"] * fraction

    def step(self) -> None:
        """Update every parameter from its gradient, then drop the gradients."""
        for member in self.members:
            member.step()
            member.zero_grad(set_to_none=True)


def build_optimizers(
    name: OptimizerName,
    parameters: Mapping[str, nn.Parameter],
    rates: LearningRates,
    *,
    weight_decay: float,
) -> Optimizers:
    """AdamW with six groups: base, tower, projector, each with and without decay.

    Biases and norms do not decay. With ``muon`` the weights of linear layers are updated along the
    orthogonal factor of their momentum instead, at AdamW's rate and size of update.

    Source: Liu et al. 2025, arXiv:2502.16982, section 2.2, in PyTorch's implementation. FUSION was
    published with AdamW.
    """
    peaks = {"base": rates.base, "tower": rates.tower, "projector": rates.projector}
    groups: dict[tuple[OptimizerName, str, bool], dict[str, Any]] = {}
    for part, parameter_name, parameter in _by_part(parameters):
        # Biases and the scales of norms are vectors; every other parameter is a matrix or more.
        decays = parameter.dim() > 1
        multiplies = parameter.dim() == 2 and not parameter_name.endswith(_TOKEN_TABLES)
        kind: OptimizerName = "muon" if name == "muon" and multiplies else "adamw"
        group = groups.setdefault(
            (kind, part, decays),
            {
                "params": [],
                "lr": peaks[part],
                "peak_lr": peaks[part],
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    by_kind: dict[OptimizerName, list[dict[str, Any]]] = {}
    for (kind, _, _), group in groups.items():
        by_kind.setdefault(kind, []).append(group)
    return Optimizers([_MAKERS[kind](found) for kind, found in by_kind.items()])


_MAKERS: Mapping[OptimizerName, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, fused=True),
    "muon": lambda groups: torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw"),
}


def schedule_fraction(step: int, total: int, warmup_ratio: float) -> float:
    """Fraction of the peak rate at ``step``: linear warm-up, then a cosine that ends at zero."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _by_part(parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Each parameter with its part of the model and its name."""
    parts = {"vision_tower": "tower", "vision_to_text": "projector"}
    for name, parameter in parameters.items():
        yield parts.get(name.split(".", 1)[0], "base"), name, parameter
