"""The GRPO loop: sample, compare, update, log, checkpoint.

The reference is a policy that never changes: the one that the run began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from crucible.sdk.context import CheckpointStore
from crucible_components.rl.config import GrpoConfig
from crucible_components.rl.measures import Measures, measure_rollout, measure_updates
from crucible_components.rl.prompts import PromptStream
from crucible_components.rl.rollout import Group, Policy, Rollout, collect_rollout
from crucible_components.rl.state import RunProgress, load_state, save_state
from crucible_components.rl.update import UpdateRecord, update_policy

NUM_KEPT_SAMPLES = 20


@dataclass(frozen=True)
class StepReport:
    """One finished step, for whoever watches."""

    step: int
    """Counted from 1."""
    measures: Measures
    """A function of the inputs and the seed."""
    timings: Measures
    """Seconds and speed; different on every run."""


def train_grpo(
    policy: Policy,
    stream: PromptStream,
    config: GrpoConfig,
    *,
    seed_for: Callable[[str], int],
    checkpoints: CheckpointStore,
    reference: Policy | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> RunProgress:
    """Train ``policy`` in place and return its history.

    Goes on from the newest checkpoint, to the same weights that an undisturbed run reaches.

    Args:
        policy: what samples and learns.
        stream: where questions come from.
        config: settings.
        seed_for: an independent seed for each purpose.
        checkpoints: where state is kept every ``checkpoint_every_steps``.
        reference: the frozen initial policy; needed if ``beta_kl`` > 0.
        on_step: called after each step.
    """
    if config.beta_kl > 0 and reference is None:
        raise ValueError("reference: beta_kl is above 0, so the KL needs a reference policy.")
    parameters = policy.trained_parameters()
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=config.learning_rate, weight_decay=0.0
    )
    progress = RunProgress()
    latest = checkpoints.latest()
    if latest is not None:
        progress = load_state(latest[1], parameters, optimizer)
        stream.position = progress.prompt_position
    for step in range(progress.num_steps_done + 1, config.num_steps + 1):
        clock = _Clock()
        seed_for_draw = partial(_draw_seed, seed_for, step)
        rollout = collect_rollout(policy, stream, config, seed_for_draw=seed_for_draw)
        clock.lap("generate")
        updates = _update(policy, rollout, optimizer, config, progress, reference=reference)
        clock.lap("train")
        _record(progress, step, rollout, updates, config)
        progress.prompt_position = stream.position
        num_tokens = sum(len(s.token_ids) for group in rollout.groups for s in group.samples)
        on_step(StepReport(step, progress.history[-1], clock.timings(num_tokens)))
        if step % config.checkpoint_every_steps == 0 and step < config.num_steps:
            with checkpoints.save(step) as folder:
                save_state(folder, progress, parameters, optimizer)
    return progress


def _draw_seed(seed_for: Callable[[str], int], step: int, draw: int) -> int:
    return seed_for(f"rollout/{step}/{draw}")


def _update(
    policy: Policy,
    rollout: Rollout,
    optimizer: torch.optim.Optimizer,
    config: GrpoConfig,
    progress: RunProgress,
    *,
    reference: Policy | None,
) -> list[UpdateRecord]:
    """One update per minibatch; none if no group has a signal."""
    updates = []
    for minibatch in _split(rollout.kept, config.num_minibatches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(progress.num_updates, config)
        updates.append(update_policy(policy, minibatch, optimizer, config, reference=reference))
        progress.num_updates += 1
    return updates


def learning_rate_at(num_updates: int, config: GrpoConfig) -> float:
    """Rate of the update after ``num_updates``: linear warm-up, then constant."""
    if num_updates >= config.warmup_steps:
        return config.learning_rate
    return config.learning_rate * (num_updates + 1) / (config.warmup_steps + 1)


def _split(groups: Sequence[Group], count: int) -> list[Sequence[Group]]:
    """At most ``count`` runs of groups, equal in size up to one."""
    count = min(count, len(groups))
    bounds = [len(groups) * i // count for i in range(count + 1)] if count else [0]
    return [groups[start:stop] for start, stop in pairwise(bounds)]


def _record(
    progress: RunProgress,
    step: int,
    rollout: Rollout,
    updates: Sequence[UpdateRecord],
    config: GrpoConfig,
) -> None:
    samples = [sample for group in rollout.groups for sample in group.samples]
    progress.num_tokens += sum(len(sample.token_ids) for sample in samples)
    measures = measure_rollout(rollout)
    if updates:
        measures |= measure_updates(updates, with_kl=config.beta_kl > 0)
        measures["lr"] = learning_rate_at(progress.num_updates - 1, config)
    measures["num_tokens"] = float(progress.num_tokens)
    measures["num_updates"] = float(progress.num_updates)
    progress.num_steps_done = step
    progress.history.append(measures)
    progress.samples = sample_records(rollout.groups)


def sample_records(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Up to `NUM_KEPT_SAMPLES` answers, spread over the groups, as prediction records."""
    records: list[dict[str, Any]] = []
    for row in range(max((len(group.samples) for group in groups), default=0)):
        for group in groups:
            if len(records) == NUM_KEPT_SAMPLES:
                return records
            score = group.scores[row]
            records.append(
                {
                    "id": f"{group.prompt.id}#{len(records)}",
                    "image": group.prompt.image_name,
                    "category": group.prompt.category,
                    "question": group.prompt.question,
                    "answer": group.prompt.answer,
                    "prediction": group.samples[row].text,
                    "correct": score.values.get("exact_match") == 1.0,
                    "reward": score.total,
                    "advantage": group.advantages[row],
                }
            )
    return records


class _Clock:
    """Seconds spent in the phases of one step."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._laps: Measures = {}

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self._laps[f"time/{phase}_seconds"] = now - self._last
        self._last = now

    def timings(self, num_tokens: int) -> Measures:
        seconds = self._last - self._start
        return self._laps | {
            "step_time": seconds,
            "tokens_per_second": num_tokens / max(seconds, 1e-9),
        }
