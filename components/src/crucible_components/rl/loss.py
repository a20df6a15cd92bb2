"""The GRPO objective: clipped token ratios, KL to a reference, three ways to average.

A loss is a sum over tokens with fixed weights, and the weights come from the totals of the whole
optimiser batch. So a batch may be cut into any pieces: their losses add up to the same gradient.

Legend: B answers, T completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crucible_components.rl.config import LossType

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped here before they are exponentiated."""


@dataclass(frozen=True)
class LossSettings:
    """What the objective depends on besides data."""

    loss_type: LossType
    epsilon_low: float
    epsilon_high: float
    beta_kl: float
    max_completion_tokens: int
    """The constant by which ``dr_grpo`` divides."""
    max_ratio: float | None = None
    """Caps the unclipped ratio too, which otherwise is free where the advantage is negative."""


@dataclass(frozen=True)
class BatchTotals:
    """Size of the optimiser batch of which a piece's loss is a part."""

    num_answers: int
    num_tokens: int


@dataclass(frozen=True)
class GrpoLoss:
    """One piece's part of the batch loss, and sums over its tokens for the metrics."""

    loss: Tensor
    """Scalar; pieces add up."""
    policy_loss: float
    """The part of ``loss`` without KL."""
    kl_sum: float
    num_clipped_low: int
    num_clipped_high: int
    num_tokens: int


def grpo_loss(
    logp_new_BT: Tensor,
    logp_old_BT: Tensor,
    mask_BT: Tensor,
    advantages_B: Tensor,
    totals: BatchTotals,
    *,
    settings: LossSettings,
    logp_ref_BT: Tensor | None = None,
) -> GrpoLoss:
    """Loss of a piece of an optimiser batch.

    Args:
        logp_new_BT: log-probabilities under the policy, with gradient.
        logp_old_BT: the same when the answers were sampled.
        mask_BT: True for completion tokens.
        advantages_B: one per answer, spread over its tokens.
        totals: size of the whole optimiser batch.
        settings: the objective.
        logp_ref_BT: log-probabilities under the frozen reference; needed if ``beta_kl`` > 0.

    Source: DeepSeekMath, arXiv:2402.03300 (``grpo``); DAPO, arXiv:2503.14476 (``dapo``, two-sided
    clip); Dr.GRPO, arXiv:2503.20783 (``dr_grpo``); ratio cap: INTELLECT-2, arXiv:2505.07291.
    """
    weights_BT = token_weights(mask_BT, totals, settings)
    log_ratio_BT = torch.where(mask_BT, logp_new_BT - logp_old_BT, 0.0)
    ratio_BT = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    low, high = 1 - settings.epsilon_low, 1 + settings.epsilon_high
    free_BT = ratio_BT if settings.max_ratio is None else ratio_BT.clamp_max(settings.max_ratio)
    advantages_B1 = advantages_B[:, None]
    surrogate_BT = torch.minimum(free_BT * advantages_B1, ratio_BT.clamp(low, high) * advantages_B1)
    policy_loss = -(weights_BT * surrogate_BT).sum()
    loss, kl_sum = policy_loss, 0.0
    if logp_ref_BT is not None:
        kl_BT = torch.where(mask_BT, k3_divergence(logp_new_BT, logp_ref_BT), 0.0)
        kl_sum = float(kl_BT.detach().sum())
        loss = policy_loss + settings.beta_kl * (weights_BT * kl_BT).sum()
    with torch.no_grad():
        clipped_low_BT = mask_BT & (ratio_BT < low) & (advantages_B1 < 0)
        clipped_high_BT = mask_BT & (ratio_BT > high) & (advantages_B1 > 0)
    return GrpoLoss(
        loss=loss,
        policy_loss=float(policy_loss.detach()),
        kl_sum=kl_sum,
        num_clipped_low=int(clipped_low_BT.sum()),
        num_clipped_high=int(clipped_high_BT.sum()),
        num_tokens=int(mask_BT.sum()),
    )


def token_weights(mask_BT: Tensor, totals: BatchTotals, settings: LossSettings) -> Tensor:
    """How much each token counts; zero where masked.

    ``grpo``: mean over answers of the mean over tokens. ``dapo``: mean over all tokens of the
    batch. ``dr_grpo``: sum over tokens, divided by answers times the longest allowed length.
    """
    mask_BT = mask_BT.float()
    if settings.loss_type == "dapo":
        return mask_BT / max(1, totals.num_tokens)
    if settings.loss_type == "dr_grpo":
        return mask_BT / (totals.num_answers * settings.max_completion_tokens)
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True).clamp_min(1)
    return mask_BT / lengths_B1 / totals.num_answers


def k3_divergence(logp_BT: Tensor, logp_ref_BT: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): not negative, 0 iff both are equal."""
    gap_BT = (logp_ref_BT - logp_BT).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(gap_BT) - gap_BT
