from __future__ import annotations

from dataclasses import replace

import pytest

from crucible_components.rl.config import RewardWeights
from crucible_components.rl.rewards import (
    REWARDS,
    Attempt,
    Reward,
    exact_match,
    score_attempt,
    soft_overlong,
)

PLAIN = Attempt("two", 2, True, "two", max_tokens=16, overlong_cache_tokens=4)


@pytest.mark.parametrize("name", REWARDS)
def test_examples_hold(name: str) -> None:
    REWARDS[name].check()


def test_a_wrong_example_is_found() -> None:
    with pytest.raises(AssertionError, match="the example says 0"):
        Reward(exact_match, ((PLAIN, 0.0),)).check()


def test_every_reward_has_a_weight_and_the_other_way_round() -> None:
    assert set(RewardWeights.model_fields) == set(REWARDS)


@pytest.mark.parametrize("text", ["two, three", "all: one two three", "two!", "not two", "2"])
def test_an_answer_that_only_contains_the_key_is_wrong(text: str) -> None:
    assert exact_match(replace(PLAIN, text=text)) == 0.0


def test_overlong_falls_linearly_and_never_rewards() -> None:
    values = [soft_overlong(replace(PLAIN, num_tokens=n)) for n in range(1, 19)]
    assert values == [0.0] * 12 + [-0.25, -0.5, -0.75, -1.0, -1.0, -1.0]


def test_weighted_sum() -> None:
    scored = score_attempt(
        replace(PLAIN, num_tokens=14), {"exact_match": 1.0, "format": 0.1, "overlong": 0.5}
    )
    assert scored.values == {"exact_match": 1.0, "format": 1.0, "overlong": -0.5}
    assert scored.total == pytest.approx(1.0 + 0.1 - 0.25)


def test_a_reward_without_weight_is_not_asked() -> None:
    unknown = replace(PLAIN, expected=None)
    assert score_attempt(unknown, {"exact_match": 0.0, "format": 1.0}).total == 1.0


def test_one_missing_reward_makes_the_sum_missing() -> None:
    scored = score_attempt(replace(PLAIN, expected=None), {"exact_match": 1.0, "format": 1.0})
    assert scored.values["exact_match"] is None
    assert scored.total is None
