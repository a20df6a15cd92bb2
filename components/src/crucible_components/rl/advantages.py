"""Advantages from rewards that are compared within a group of answers to one prompt.

Legend: P groups (prompts), G answers each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_STD = 1e-6
"""Rewards closer than this are equal: float noise must not become an advantage."""
STD_OFFSET = 1e-4
"""Added to the divisor, so that nearly equal rewards do not give huge advantages."""


@dataclass(frozen=True)
class GroupAdvantages:
    """Advantages and the statistics they came from."""

    values_PG: Tensor
    """Zero for a missing reward and throughout a group without signal."""
    mean_P: Tensor
    """Mean of the present rewards; 0 where none is present."""
    std_P: Tensor
    """Their sample standard deviation; 0 with fewer than two, or below `MIN_STD`."""

    @property
    def has_signal_P(self) -> Tensor:
        """True where the group's answers were rewarded differently."""
        return self.std_P > 0


def group_advantages(rewards_PG: Tensor, *, scale_by_std: bool) -> GroupAdvantages:
    """Each answer's reward against its group's mean.

    Args:
        rewards_PG: rewards; NaN where an answer could not be scored. Such an answer enters neither
            mean nor deviation.
        scale_by_std: divide by the group's standard deviation; False as in Dr.GRPO.

    Source: DeepSeekMath, arXiv:2402.03300; without division Dr.GRPO, arXiv:2503.20783. Departs:
    deviations under `MIN_STD` count as zero.
    """
    rewards_PG = rewards_PG.double()
    present_PG = ~rewards_PG.isnan()
    count_P = present_PG.sum(dim=1)
    filled_PG = torch.where(present_PG, rewards_PG, 0.0)
    mean_P = filled_PG.sum(dim=1) / count_P.clamp_min(1)
    centred_PG = torch.where(present_PG, rewards_PG - mean_P[:, None], 0.0)
    std_P = (centred_PG.square().sum(dim=1) / (count_P - 1).clamp_min(1)).sqrt()
    std_P = torch.where(std_P < MIN_STD, 0.0, std_P)
    divisor_P = std_P + STD_OFFSET if scale_by_std else torch.ones_like(std_P)
    values_PG = torch.where(std_P[:, None] > 0, centred_PG / divisor_P[:, None], 0.0)
    return GroupAdvantages(values_PG.float(), mean_P.float(), std_P.float())
