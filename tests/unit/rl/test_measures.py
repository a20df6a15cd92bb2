from __future__ import annotations

import math

import pytest
import torch

from crucible_components.rl.loss import GrpoLoss
from crucible_components.rl.measures import (
    SUMMARY_STEPS,
    measure_rollout,
    measure_updates,
    summarise,
)
from crucible_components.rl.prompts import Prompt
from crucible_components.rl.rewards import ScoredAttempt
from crucible_components.rl.rollout import Group, Rollout, Sample
from crucible_components.rl.update import UpdateRecord


def group(rewards: list[float | None], lengths: list[int], std: float) -> Group:
    """A group whose answers of four tokens were cut."""
    samples = [Sample("a", (1,) * n, (-1.0,) * n, ended=n < 4) for n in lengths]
    scores = [ScoredAttempt({"exact_match": r}, r) for r in rewards]
    return Group(Prompt("0", "c", "q", "a"), tuple(samples), tuple(scores), (0.0,) * 3, std)


def test_rollout_figures_in_closed_form() -> None:
    groups = (
        group([1.0, 0.0, 0.0], [1, 2, 4], std=0.5),
        group([1.0, 1.0, 1.0], [2, 2, 2], std=0.0),
        group([0.0, None, 0.0], [4, 4, 3], std=0.0),
    )
    found = measure_rollout(Rollout(groups, kept=groups[:1], num_draws=2))
    expected = {
        "reward": 4 / 8,
        "reward_std": 0.5 / 3,
        "frac_reward_zero_std": 2 / 3,
        "rewards/missing_count": 1,
        "rewards/exact_match/mean": 4 / 8,
        "rewards/exact_match/std": 0.5,
        "groups/all_correct_fraction": 1 / 3,
        "groups/none_correct_fraction": 1 / 3,
        "completions/mean_length": 24 / 9,
        "completions/min_length": 1,
        "completions/max_length": 4,
        "completions/mean_terminated_length": 12 / 6,
        "completions/min_terminated_length": 1,
        "completions/max_terminated_length": 3,
        "completions/clipped_ratio": 3 / 9,
        "dynamic_sampling/num_draws": 2,
        "dynamic_sampling/num_kept_groups": 1,
        "dynamic_sampling/num_dropped_groups": 2,
    }
    assert found == pytest.approx(expected)


def update(low: int, high: int, num_tokens: int, gaps: list[float]) -> UpdateRecord:
    loss = GrpoLoss(torch.tensor(0.0), -0.5, 2.0, low, high, num_tokens)
    return UpdateRecord((loss,), 3.0, 1.5, torch.tensor(gaps))


def test_update_figures_in_closed_form() -> None:
    updates = [update(1, 0, 10, [0.0, -0.5, 0.25]), update(3, 2, 20, [9.0])]
    found = measure_updates(updates, with_kl=True)
    assert found == pytest.approx(
        {
            "policy_loss": -0.5,
            "entropy": 6 / 30,
            "kl": 4 / 30,
            "grad_norm": 1.5,
            "clip_ratio/low_mean": (0.1 + 0.15) / 2,
            "clip_ratio/low_min": 0.1,
            "clip_ratio/high_mean": 0.05,
            "clip_ratio/high_max": 0.1,
            "clip_ratio/region_mean": (0.1 + 0.25) / 2,
            "sampling/sampling_logp_difference/mean": 0.25,
            "sampling/sampling_logp_difference/max": 0.5,
            "sampling/importance_sampling_ratio/min": math.exp(-0.5),
            "sampling/importance_sampling_ratio/mean": (1 + math.exp(-0.5) + math.exp(0.25)) / 3,
            "sampling/importance_sampling_ratio/max": math.exp(0.25),
        }
    )


def test_the_summary_compares_first_and_last_steps() -> None:
    history = [
        {
            "reward": float(step),
            "num_tokens": 10.0 * (step + 1),
            "num_updates": step + 1.0,
            "dynamic_sampling/num_dropped_groups": 2.0,
        }
        for step in range(3 * SUMMARY_STEPS)
    ]
    assert summarise(history) == {
        "num_steps": 30,
        "num_tokens": 300,
        "num_updates": 30,
        "num_dropped_groups": 60,
        "first/reward": 4.5,
        "last/reward": 24.5,
    }
