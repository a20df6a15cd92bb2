"""Rollouts: groups of sampled answers with rewards and advantages, ready for updates.

Dynamic sampling (DAPO, arXiv:2503.14476): a group whose answers are all rewarded alike has no
gradient, so it is replaced by a new question, up to a limit. What was dropped still counts in the
reward statistics; those over kept groups alone would flatter the policy.

Legend: P prompts, G answers each, B = P * G answers, T completion tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from crucible.errors import StepFailed
from crucible_components.rl.advantages import group_advantages
from crucible_components.rl.config import GrpoConfig
from crucible_components.rl.prompts import Prompt, PromptStream
from crucible_components.rl.rewards import Attempt, ScoredAttempt, score_attempt


@dataclass(frozen=True)
class Sample:
    """One answer drawn from the policy."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each token under the distribution it was drawn from."""
    ended: bool
    """False if cut at the limit."""


@dataclass(frozen=True)
class TokenScores:
    """What a policy says about given answers, one row each, prompt-major."""

    logprobs_BT: Tensor
    """0 where masked."""
    entropy_BT: Tensor
    """Entropy of the distribution each token was drawn from; without gradient."""
    mask_BT: Tensor
    """True for completion tokens."""


class Policy(Protocol):
    """What samples answers and learns."""

    def sample(
        self, prompts: Sequence[Prompt], *, num_samples: int, seed: int
    ) -> list[list[Sample]]:
        """``num_samples`` answers to each prompt."""
        ...

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]]) -> TokenScores:
        """Scores of given answers, equally many to each prompt; differentiable."""
        ...

    def trained_parameters(self) -> Mapping[str, nn.Parameter]:
        """What learns, by name."""
        ...


@dataclass(frozen=True)
class Group:
    """All answers to one prompt."""

    prompt: Prompt
    samples: tuple[Sample, ...]
    scores: tuple[ScoredAttempt, ...]
    advantages: tuple[float, ...]
    reward_std: float
    """0 for a group without signal."""


@dataclass(frozen=True)
class Rollout:
    """What one round of sampling brought."""

    groups: tuple[Group, ...]
    """All that were sampled."""
    kept: tuple[Group, ...]
    """Those to learn from."""
    num_draws: int


def collect_rollout(
    policy: Policy,
    stream: PromptStream,
    config: GrpoConfig,
    *,
    seed_for_draw: Callable[[int], int],
) -> Rollout:
    """Sample, reward and compare answers until enough groups have a signal or the limit is hit.

    With ``max_draws_per_step`` 1 every group is kept, signal or not.

    Raises:
        StepFailed: more answers than ``max_missing_fraction`` could not be scored.
    """
    groups: list[Group] = []
    kept: list[Group] = []
    num_draws = 0
    while len(kept) < config.prompts_per_step and num_draws < config.max_draws_per_step:
        prompts = stream.take(config.prompts_per_step - len(kept))
        sampled = policy.sample(
            prompts, num_samples=config.group_size, seed=seed_for_draw(num_draws)
        )
        drawn = _score_groups(prompts, sampled, config)
        groups += drawn
        kept += [g for g in drawn if g.reward_std > 0 or config.max_draws_per_step == 1]
        num_draws += 1
    _check_missing(groups, config.max_missing_fraction)
    return Rollout(tuple(groups), tuple(kept), num_draws)


def _score_groups(
    prompts: Sequence[Prompt], sampled: Sequence[Sequence[Sample]], config: GrpoConfig
) -> list[Group]:
    weights = config.rewards.model_dump()
    scores = [
        tuple(score_attempt(_attempt(prompt, sample, config), weights) for sample in samples)
        for prompt, samples in zip(prompts, sampled, strict=True)
    ]
    rewards_PG = torch.tensor(
        [[math.nan if s.total is None else s.total for s in row] for row in scores],
        dtype=torch.float64,
    )
    advantages = group_advantages(rewards_PG, scale_by_std=config.scales_by_std)
    return [
        Group(prompt, tuple(samples), row, tuple(values.tolist()), float(std))
        for prompt, samples, row, values, std in zip(
            prompts, sampled, scores, advantages.values_PG, advantages.std_P, strict=True
        )
    ]


def _attempt(prompt: Prompt, sample: Sample, config: GrpoConfig) -> Attempt:
    return Attempt(
        text=sample.text,
        num_tokens=len(sample.token_ids),
        ended=sample.ended,
        expected=prompt.answer,
        max_tokens=config.max_new_tokens,
        overlong_cache_tokens=config.max_length_cache,
    )


def _check_missing(groups: Sequence[Group], max_missing_fraction: float) -> None:
    totals = [score.total for group in groups for score in group.scores]
    num_missing = sum(total is None for total in totals)
    if num_missing > max_missing_fraction * len(totals):
        raise StepFailed(
            f"rewards: {num_missing} of {len(totals)} answers could not be scored, more than "
            f"max_missing_fraction {max_missing_fraction}. Check the answers of the prompts."
        )
