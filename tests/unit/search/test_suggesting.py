"""Suggestions: even where nothing is known, better where something is, the same every time."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from crucible.errors import UserError
from crucible_components.search.component import SuggestConfig
from crucible_components.search.suggesting import Trial, suggest

SPACE: dict[str, Any] = {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}}


def config(number: int = 0, **changes: Any) -> SuggestConfig:
    return SuggestConfig.model_validate({"space": SPACE, "number": number, **changes})


def score(parameters: dict[str, float]) -> float:
    return -((parameters["x"] - 0.8) ** 2) - (parameters["y"] - 0.3) ** 2


def tried(parameters: dict[str, float]) -> Trial:
    return Trial(parameters, {"accuracy": score(parameters)})


def test_the_first_round_is_spread_evenly() -> None:
    many = [suggest(config(number), [], seed=3) for number in range(32)]
    for name in SPACE:
        quarters = [int(4 * each[name]) for each in many]
        assert all(7 <= quarters.count(quarter) <= 9 for quarter in range(4))
    found = many[:8]
    assert found == [suggest(config(number), [], seed=3) for number in range(8)]
    assert found != [suggest(config(number), [], seed=4) for number in range(8)]


def test_later_rounds_go_where_trials_did_well() -> None:
    trials: list[Trial] = []
    for _ in range(6):
        trials += [tried(suggest(config(n), trials, seed=1)) for n in range(4)]
    first = max(each.metrics["accuracy"] for each in trials[:4])
    last = [each.metrics["accuracy"] for each in trials[-8:]]
    assert sum(last) / len(last) > sum(t.metrics["accuracy"] for t in trials[:8]) / 8
    assert max(each.metrics["accuracy"] for each in trials) > first
    again = suggest(config(2), trials[:20], seed=1)
    assert again == trials[22].parameters, "the same trials, the same suggestion"
    assert len({tuple(t.parameters.values()) for t in trials[-4:]}) == 4, "neighbours differ"


def test_what_is_small_may_be_good() -> None:
    trials = [Trial({"x": n / 8, "y": 0.5}, {"loss": n / 8}) for n in range(8)]
    given = config(objective="loss", direction="minimize")
    found = [suggest(given, trials, seed=seed)["x"] for seed in range(12)]
    assert sum(found) / len(found) < 0.4


def test_steps_and_orders_of_magnitude() -> None:
    space = {
        "x": {"low": 0.0, "high": 1.0, "step": 0.25},
        "y": {"low": 1e-4, "high": 1, "log": True},
    }
    found = [suggest(config(n, space=space), [], seed=0) for n in range(16)]
    assert {each["x"] for each in found} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert 4 <= sum(each["y"] < 1e-2 for each in found) <= 12


@pytest.mark.parametrize(
    "given", [{"low": 1.0, "high": 1.0}, {"low": 0.0, "high": 1.0, "log": True}]
)
def test_a_range_must_be_one(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(space={"x": given})


def test_trials_that_lack_something_are_named() -> None:
    trials = [Trial({"x": 1.0, "y": 1.0}, {"acuracy": 1.0}), Trial({"x": 1.0}, {"accuracy": 1.0})]
    with pytest.raises(UserError) as caught:
        suggest(config(), trials, seed=0)
    assert [each.path for each in caught.value.problems] == ["results[0].accuracy", "tried[1].y"]
