"""What is logged each step, under the names that TRL uses, and the run's summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from crucible_components.rl.rollout import Group, Rollout
from crucible_components.rl.update import UpdateRecord

Measures = dict[str, float]
SUMMARY_STEPS = 10
"""The summary compares the means of this many first and last steps."""
_SUMMARISED = (
    "reward",
    "reward_std",
    "rewards/exact_match/mean",
    "frac_reward_zero_std",
    "entropy",
    "kl",
    "completions/mean_length",
    "completions/clipped_ratio",
)


def measure_rollout(rollout: Rollout) -> Measures:
    """Rewards, lengths and sampling effort, over every group that was sampled."""
    groups = rollout.groups
    totals = [s.total for group in groups for s in group.scores if s.total is not None]
    num_scores = sum(len(group.scores) for group in groups)
    measures = {
        "reward": fmean(totals) if totals else 0.0,
        "reward_std": fmean(group.reward_std for group in groups),
        "frac_reward_zero_std": fmean(group.reward_std == 0.0 for group in groups),
        "rewards/missing_count": float(num_scores - len(totals)),
        "dynamic_sampling/num_draws": float(rollout.num_draws),
        "dynamic_sampling/num_kept_groups": float(len(rollout.kept)),
        "dynamic_sampling/num_dropped_groups": float(len(groups) - len(rollout.kept)),
    }
    return measures | _measure_rewards(groups) | _measure_lengths(groups)


def measure_updates(updates: Sequence[UpdateRecord], *, with_kl: bool) -> Measures:
    """Loss, entropy, KL, clipping and the sampler's gap over the updates of one step."""
    num_tokens = max(1, sum(update.num_tokens for update in updates))
    pieces = [piece for update in updates for piece in update.pieces]
    low = [_share(update, "num_clipped_low") for update in updates]
    high = [_share(update, "num_clipped_high") for update in updates]
    # Later updates of a step compare changed weights; only the first shows the sampler's error.
    gap = updates[0].logp_gaps
    ratio = gap.exp()
    measures = {
        "policy_loss": fmean(sum(p.policy_loss for p in update.pieces) for update in updates),
        "entropy": sum(update.entropy_sum for update in updates) / num_tokens,
        "grad_norm": fmean(update.grad_norm for update in updates),
        "clip_ratio/low_mean": fmean(low),
        "clip_ratio/low_min": min(low),
        "clip_ratio/high_mean": fmean(high),
        "clip_ratio/high_max": max(high),
        "clip_ratio/region_mean": fmean(a + b for a, b in zip(low, high, strict=True)),
        "sampling/sampling_logp_difference/mean": float(gap.abs().mean()),
        "sampling/sampling_logp_difference/max": float(gap.abs().max()),
        "sampling/importance_sampling_ratio/min": float(ratio.min()),
        "sampling/importance_sampling_ratio/mean": float(ratio.mean()),
        "sampling/importance_sampling_ratio/max": float(ratio.max()),
    }
    if with_kl:
        measures["kl"] = sum(piece.kl_sum for piece in pieces) / num_tokens
    return measures


def summarise(history: Sequence[Mapping[str, float]]) -> Measures:
    """The run in a few numbers: means over the first and over the last steps, and totals."""
    summary: Measures = {
        "num_steps": float(len(history)),
        "num_tokens": history[-1]["num_tokens"],
        "num_updates": history[-1]["num_updates"],
        "num_dropped_groups": sum(row["dynamic_sampling/num_dropped_groups"] for row in history),
    }
    for label, rows in (("first", history[:SUMMARY_STEPS]), ("last", history[-SUMMARY_STEPS:])):
        for name in _SUMMARISED:
            values = [row[name] for row in rows if name in row]
            if values:
                summary[f"{label}/{name}"] = fmean(values)
    return summary


def _measure_rewards(groups: Sequence[Group]) -> Measures:
    measures: Measures = {}
    for name in groups[0].scores[0].values:
        rows = [[score.values[name] for score in group.scores] for group in groups]
        values = [value for row in rows for value in row if value is not None]
        if values:
            measures[f"rewards/{name}/mean"] = fmean(values)
            measures[f"rewards/{name}/std"] = pstdev(values)
        if name == "exact_match":
            measures["groups/all_correct_fraction"] = fmean(min(map(_or_0, r)) > 0 for r in rows)
            measures["groups/none_correct_fraction"] = fmean(max(map(_or_0, r)) == 0 for r in rows)
    return measures


def _measure_lengths(groups: Sequence[Group]) -> Measures:
    samples = [sample for group in groups for sample in group.samples]
    measures = _spread("length", [len(sample.token_ids) for sample in samples])
    measures |= _spread(
        "terminated_length", [len(sample.token_ids) for sample in samples if sample.ended]
    )
    measures["completions/clipped_ratio"] = fmean(not sample.ended for sample in samples)
    return measures


def _spread(name: str, lengths: Sequence[int]) -> Measures:
    """0 where no answer has ended, as TRL reports it."""
    return {
        f"completions/mean_{name}": fmean(lengths) if lengths else 0.0,
        f"completions/min_{name}": float(min(lengths, default=0)),
        f"completions/max_{name}": float(max(lengths, default=0)),
    }


def _share(update: UpdateRecord, count: str) -> float:
    return sum(int(getattr(piece, count)) for piece in update.pieces) / max(1, update.num_tokens)


def _or_0(value: float | None) -> float:
    return 0.0 if value is None else value
