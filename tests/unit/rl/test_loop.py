"""The loop on a table of logits: it learns, it resumes to the bit, it counts what it does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crucible.errors import StepFailed
from crucible.sdk.checkpoint import FolderCheckpoints
from crucible_components.rl.config import GrpoConfig
from crucible_components.rl.loop import StepReport, learning_rate_at, train_grpo
from crucible_components.rl.prompts import PromptStream
from crucible_components.rl.state import RunProgress

MakePolicy = Callable[..., Any]
MakeStream = Callable[..., PromptStream]
SeedFor = Callable[[str], int]
ANSWERS = ["one", "two", "three", "four", "one", "two"]

LOGGED = {
    "reward",
    "reward_std",
    "rewards/exact_match/mean",
    "rewards/exact_match/std",
    "rewards/format/mean",
    "rewards/format/std",
    "rewards/overlong/mean",
    "rewards/overlong/std",
    "rewards/missing_count",
    "frac_reward_zero_std",
    "groups/all_correct_fraction",
    "groups/none_correct_fraction",
    "kl",
    "entropy",
    "policy_loss",
    "grad_norm",
    "lr",
    "clip_ratio/low_mean",
    "clip_ratio/low_min",
    "clip_ratio/high_mean",
    "clip_ratio/high_max",
    "clip_ratio/region_mean",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/mean_terminated_length",
    "completions/min_terminated_length",
    "completions/max_terminated_length",
    "completions/clipped_ratio",
    "sampling/sampling_logp_difference/mean",
    "sampling/sampling_logp_difference/max",
    "sampling/importance_sampling_ratio/min",
    "sampling/importance_sampling_ratio/mean",
    "sampling/importance_sampling_ratio/max",
    "num_tokens",
    "num_updates",
    "dynamic_sampling/num_draws",
    "dynamic_sampling/num_kept_groups",
    "dynamic_sampling/num_dropped_groups",
}


def settings(**changes: Any) -> GrpoConfig:
    fields = {
        "num_steps": 40,
        "prompts_per_step": 6,
        "group_size": 8,
        "max_new_tokens": 4,
        "max_length_cache": 2,
        "learning_rate": 0.1,
        "max_grad_norm": 10.0,
        "rewards": {"overlong": 0.1},
        **changes,
    }
    return GrpoConfig.model_validate(fields)


@pytest.fixture
def run(
    make_policy: MakePolicy, make_stream: MakeStream, seeds: SeedFor, tmp_path: Path
) -> Callable[..., tuple[Any, RunProgress]]:
    def start(
        config: GrpoConfig,
        *,
        folder: str = "checkpoints",
        answers: list[str] = ANSWERS,
        with_reference: bool = False,
        **options: Any,
    ) -> tuple[Any, RunProgress]:
        policy = make_policy(len(answers))
        reference = make_policy(len(answers)) if with_reference else None
        checkpoints = FolderCheckpoints(tmp_path / folder)
        with contextlib.closing(checkpoints):
            progress = train_grpo(
                policy,
                make_stream(answers),
                config,
                seed_for=seeds,
                checkpoints=checkpoints,
                reference=reference,
                **options,
            )
        return policy, progress

    return start


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("num_minibatches", [1, 3])
def test_the_reward_rises_to_the_right_answers(
    run: Any, loss_type: str, num_minibatches: int
) -> None:
    config = settings(loss_type=loss_type, num_minibatches=num_minibatches, num_steps=50)
    policy, progress = run(config)
    first, last = progress.history[0], progress.history[-1]
    assert first["rewards/exact_match/mean"] < 0.2
    assert last["rewards/exact_match/mean"] > 0.8
    assert last["reward"] > first["reward"] + 0.8
    entropies = [row["entropy"] for row in progress.history if "entropy" in row]
    assert entropies[-1] < entropies[0] / 2
    best = policy.table.argmax(2)
    assert best[:, 0].tolist() == [1, 2, 3, 4, 1, 2]
    assert best[:, 1].tolist() == [0] * 6


def test_the_reward_does_not_rise_without_updates(run: Any) -> None:
    _, progress = run(settings(learning_rate=1e-12))
    means = [row["rewards/exact_match/mean"] for row in progress.history]
    assert abs(sum(means[:20]) - sum(means[20:])) / 20 < 0.05


@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_a_killed_run_resumes_to_the_bit(run: Any, num_minibatches: int) -> None:
    config = settings(
        num_steps=17, checkpoint_every_steps=5, beta_kl=0.01, num_minibatches=num_minibatches
    )
    whole, expected = run(config, folder="whole", with_reference=True)

    class Killed(Exception):
        pass

    def kill_at(step: int) -> Callable[[StepReport], None]:
        def on_step(report: StepReport) -> None:
            if report.step == step:
                raise Killed

        return on_step

    for step in (3, 9, 10, 16):
        with pytest.raises(Killed):
            run(config, folder="killed", with_reference=True, on_step=kill_at(step))
    seen: list[int] = []
    policy, progress = run(
        config, folder="killed", with_reference=True, on_step=lambda r: seen.append(r.step)
    )
    assert seen == [16, 17]
    assert torch.equal(policy.table, whole.table)
    assert dataclasses.asdict(progress) == dataclasses.asdict(expected)


def test_pieces_of_a_batch_do_not_change_the_run(run: Any) -> None:
    whole, _ = run(settings(num_steps=5), folder="whole")
    pieces, _ = run(settings(num_steps=5, prompts_per_forward=2), folder="pieces")
    torch.testing.assert_close(pieces.table, whole.table, atol=1e-5, rtol=1e-4)


def test_every_measure_of_the_method_page_is_logged(run: Any) -> None:
    _, progress = run(settings(num_steps=2, beta_kl=0.1), with_reference=True)
    assert set(progress.history[0]) == LOGGED
    _, without_kl = run(settings(num_steps=2), folder="other")
    assert set(without_kl.history[0]) == LOGGED - {"kl"}


def test_timings_are_reported_but_not_kept(run: Any) -> None:
    reports: list[StepReport] = []
    _, progress = run(settings(num_steps=3), on_step=reports.append)
    assert [report.step for report in reports] == [1, 2, 3]
    assert reports[0].timings.keys() == {
        "time/generate_seconds",
        "time/train_seconds",
        "step_time",
        "tokens_per_second",
    }
    assert not any("time" in name for row in progress.history for name in row)


def test_on_policy_nothing_is_clipped_and_the_sampler_agrees(run: Any) -> None:
    _, progress = run(settings(num_steps=10))
    for row in progress.history:
        assert row["clip_ratio/region_mean"] == 0
        assert row["sampling/sampling_logp_difference/max"] < 1e-5
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-5)


def test_later_minibatches_are_off_policy_and_get_clipped(run: Any) -> None:
    _, progress = run(settings(num_steps=3, num_minibatches=6, learning_rate=0.5))
    clipped = [row["clip_ratio/region_mean"] for row in progress.history[:3]]
    assert max(clipped) > 0
    assert progress.history[0]["num_updates"] == 6


def test_kl_holds_the_policy_near_the_reference(run: Any) -> None:
    free, _ = run(settings(), folder="free")
    held, progress = run(settings(beta_kl=5.0), folder="held", with_reference=True)
    assert held.table.abs().max() < free.table.abs().max() / 3
    assert progress.history[0]["kl"] == 0
    assert progress.history[-1]["kl"] > 0


def test_kl_needs_a_reference(run: Any) -> None:
    with pytest.raises(ValueError, match="needs a reference policy"):
        run(settings(beta_kl=0.1))


def test_a_step_without_signal_updates_nothing(run: Any) -> None:
    config = settings(num_steps=3, rewards={"exact_match": 1.0, "format": 0.0, "overlong": 0.0})
    policy, progress = run(config, answers=["five"] * 6)
    assert torch.equal(policy.table, torch.zeros_like(policy.table))
    assert progress.num_updates == 0
    assert progress.history[-1]["frac_reward_zero_std"] == 1
    assert progress.history[-1]["dynamic_sampling/num_dropped_groups"] == 18
    assert "policy_loss" not in progress.history[-1]


def test_a_gradient_that_is_not_finite_ends_the_run(
    make_policy: MakePolicy, make_stream: MakeStream, seeds: SeedFor, tmp_path: Path
) -> None:
    policy = make_policy(6)
    policy.table.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(StepFailed, match="gradient norm is nan"):
        train_grpo(
            policy,
            make_stream(ANSWERS),
            settings(),
            seed_for=seeds,
            checkpoints=FolderCheckpoints(tmp_path),
        )
    assert torch.equal(policy.table, torch.zeros_like(policy.table))


def test_the_learning_rate_warms_up_and_stays() -> None:
    config = settings(warmup_steps=3, learning_rate=0.4)
    rates = [learning_rate_at(n, config) for n in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_samples_of_the_last_step_are_kept_as_records(run: Any) -> None:
    _, progress = run(settings(num_steps=2))
    assert len(progress.samples) == 20
    assert len({record["id"] for record in progress.samples}) == 20
    assert {record["question"] for record in progress.samples} == {
        f"question {n}" for n in range(6)
    }
    for record in progress.samples:
        assert record["correct"] == (record["prediction"] == record["answer"])
