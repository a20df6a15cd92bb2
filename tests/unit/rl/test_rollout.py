from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crucible.errors import StepFailed
from crucible_components.rl.config import GrpoConfig
from crucible_components.rl.prompts import PromptStream
from crucible_components.rl.rollout import Rollout, collect_rollout

MakePolicy = Callable[..., Any]
MakeStream = Callable[..., PromptStream]


def collect(policy: Any, stream: PromptStream, **settings: Any) -> Rollout:
    fields = {"prompts_per_step": 4, "group_size": 6, "max_new_tokens": 4, **settings}
    config = GrpoConfig.model_validate(fields)
    return collect_rollout(policy, stream, config, seed_for_draw=lambda draw: 100 + draw)


def test_groups_hold_prompts_samples_rewards_and_advantages(
    make_policy: MakePolicy, make_stream: MakeStream
) -> None:
    rollout = collect(make_policy(4), make_stream(["one"] * 4), max_draws_per_step=1)
    assert len(rollout.groups) == 4
    assert rollout.kept == rollout.groups
    for group in rollout.groups:
        assert len(group.samples) == len(group.scores) == len(group.advantages) == 6
        for sample, score, advantage in zip(
            group.samples, group.scores, group.advantages, strict=True
        ):
            assert score.values["exact_match"] == (sample.text == "one")
            best = max(s.total or 0 for s in group.scores)
            if score.total == best and group.reward_std > 0:
                assert advantage > 0
        assert sum(group.advantages) == pytest.approx(0, abs=1e-5)


def test_groups_without_signal_are_replaced_up_to_the_limit(
    make_policy: MakePolicy, make_stream: MakeStream
) -> None:
    policy, stream = make_policy(8), make_stream(["one"] * 8)
    policy.table.data[::2, :, 1] = 50.0  # always "one one one one": never right, never rewarded
    rollout = collect(policy, stream, max_draws_per_step=3)
    without_signal = [group for group in rollout.groups if group.reward_std == 0]
    assert {int(group.prompt.id) % 2 for group in without_signal} == {0}
    assert len(rollout.kept) == 4
    assert all(group.reward_std > 0 for group in rollout.kept)
    assert len(rollout.groups) == 4 + len(without_signal) == stream.position
    assert policy.seeds == [100 + draw for draw in range(rollout.num_draws)]


def test_the_limit_holds_when_nothing_has_a_signal(
    make_policy: MakePolicy, make_stream: MakeStream
) -> None:
    policy = make_policy(2)
    policy.table.data[:, :, 0] = 50.0
    rollout = collect(policy, make_stream(["one"] * 2), max_draws_per_step=3)
    assert rollout.kept == ()
    assert rollout.num_draws == 3
    assert len(rollout.groups) == 12


def test_unscorable_answers_get_no_advantage(
    make_policy: MakePolicy, make_stream: MakeStream
) -> None:
    rollout = collect(make_policy(2), make_stream([None, "one"]), max_draws_per_step=1)
    blank = [group for group in rollout.groups if group.prompt.answer is None]
    assert blank
    assert {value for group in blank for value in group.advantages} == {0.0}


def test_too_many_unscorable_answers_end_the_run(
    make_policy: MakePolicy, make_stream: MakeStream
) -> None:
    with pytest.raises(StepFailed, match=r"24 of 24 answers could not be scored.*max_missing"):
        collect(make_policy(2), make_stream([None, None]), max_draws_per_step=1)
