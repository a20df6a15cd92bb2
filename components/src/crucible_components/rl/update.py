"""One optimiser update from groups of answers.

Legend: B answers, T completion tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from crucible.errors import StepFailed
from crucible_components.rl.config import GrpoConfig
from crucible_components.rl.loss import BatchTotals, GrpoLoss, LossSettings, grpo_loss
from crucible_components.rl.rollout import Group, Policy, TokenScores


@dataclass(frozen=True)
class UpdateRecord:
    """Figures of one update."""

    pieces: tuple[GrpoLoss, ...]
    entropy_sum: float
    grad_norm: float
    """Before clipping."""
    logp_gaps: Tensor
    """Trainer minus sampler log-probability, one a token: their numerical difference as long as
    the weights are those that sampled."""

    @property
    def num_tokens(self) -> int:
        return sum(piece.num_tokens for piece in self.pieces)


def loss_settings(config: GrpoConfig) -> LossSettings:
    """The objective that ``config`` asks for."""
    return LossSettings(
        loss_type=config.loss_type,
        epsilon_low=config.epsilon_low,
        epsilon_high=config.epsilon_high,
        beta_kl=config.beta_kl,
        max_completion_tokens=config.max_new_tokens,
        max_ratio=config.max_ratio,
    )


def update_policy(
    policy: Policy,
    groups: Sequence[Group],
    optimizer: torch.optim.Optimizer,
    config: GrpoConfig,
    *,
    reference: Policy | None,
) -> UpdateRecord:
    """Change the policy by one step on the loss of ``groups``, scored piece by piece.

    Raises:
        StepFailed: the gradient is not finite; the policy is left as it was.
    """
    totals = BatchTotals(
        num_answers=sum(len(group.samples) for group in groups),
        num_tokens=sum(len(sample.token_ids) for group in groups for sample in group.samples),
    )
    size = config.prompts_per_forward or len(groups)
    optimizer.zero_grad(set_to_none=True)
    losses, gaps, entropy_sum = [], [], 0.0
    for start in range(0, len(groups), size):
        piece = groups[start : start + size]
        scores = policy.score([g.prompt for g in piece], [g.samples for g in piece])
        loss, gap = _piece_loss(piece, scores, totals, loss_settings(config), reference)
        torch.autograd.backward(loss.loss)
        losses.append(replace(loss, loss=loss.loss.detach()))
        gaps.append(gap)
        entropy_sum += float(scores.entropy_BT[scores.mask_BT].sum())
    parameters = policy.trained_parameters().values()
    grad_norm = float(clip_grad_norm_(parameters, config.max_grad_norm))
    if not math.isfinite(grad_norm):
        raise StepFailed(
            f"the gradient norm is {grad_norm}. Lower learning_rate, or set beta_kl or max_ratio."
        )
    optimizer.step()
    return UpdateRecord(tuple(losses), entropy_sum, grad_norm, torch.cat(gaps))


def _piece_loss(
    piece: Sequence[Group],
    scores: TokenScores,
    totals: BatchTotals,
    settings: LossSettings,
    reference: Policy | None,
) -> tuple[GrpoLoss, Tensor]:
    """The piece's part of the loss, and trainer minus sampler log-probabilities."""
    samples = [sample for group in piece for sample in group.samples]
    logp_old_BT = torch.zeros_like(scores.logprobs_BT, requires_grad=False)
    flat = torch.tensor([logprob for sample in samples for logprob in sample.logprobs])
    logp_old_BT = logp_old_BT.masked_scatter(scores.mask_BT, flat.to(logp_old_BT.dtype))
    logp_ref_BT = None
    if reference is not None:
        with torch.no_grad():
            logp_ref_BT = reference.score(
                [g.prompt for g in piece], [g.samples for g in piece]
            ).logprobs_BT
    loss = grpo_loss(
        scores.logprobs_BT,
        logp_old_BT,
        scores.mask_BT,
        torch.tensor([value for group in piece for value in group.advantages]),
        totals,
        settings=settings,
        logp_ref_BT=logp_ref_BT,
    )
    return loss, (scores.logprobs_BT.detach() - logp_old_BT)[scores.mask_BT]
