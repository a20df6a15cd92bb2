"""The gate: every branch of the rule, its reasons, and that a decision is the same bytes again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.registry.gate import Decision, GatePolicy, MetricBound, decide
from crucible.registry.paired import ScoredAnswer


def answers(scores: list[float], *, task: str = "t") -> dict[str, ScoredAnswer]:
    return {f"q{i}": ScoredAnswer(score=s, task=f"{task}{i}") for i, s in enumerate(scores)}


BETTER = answers([1.0] * 80 + [0.0] * 20)
WORSE = answers([1.0] * 50 + [0.0] * 50)
NOISY = answers([1.0] * 79 + [0.0] * 20 + [1.0])  # two questions differ, equal in the mean


def test_first_model_is_held_to_thresholds_alone() -> None:
    policy = GatePolicy(thresholds=(MetricBound(metric="accuracy", min=0.5),))
    decision = decide(policy, {"accuracy": 0.5}, BETTER, None)
    assert decision.passed
    assert decision.comparison is None
    assert "no champion" in decision.notes[0]


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"accuracy": 0.4}, "accuracy: 0.4 is below the minimum 0.5."),
        ({"accuracy": 0.9, "loss": 3.0}, "loss: 3 is above the maximum 2."),
        ({}, "accuracy: the candidate has no such finite metric."),
        ({"accuracy": math.nan}, "accuracy: the candidate has no such finite metric."),
    ],
)
def test_threshold_refusals_name_metric_value_and_bound(
    metrics: dict[str, float], reason: str
) -> None:
    policy = GatePolicy(
        thresholds=(MetricBound(metric="accuracy", min=0.5), MetricBound(metric="loss", max=2.0))
    )
    decision = decide(policy, metrics, None, None)
    assert decision.status == "fail"
    assert reason in decision.reasons


def test_worse_model_is_refused_with_numbers() -> None:
    decision = decide(GatePolicy(), {}, WORSE, BETTER)
    assert decision.status == "fail"
    assert decision.comparison is not None
    assert decision.comparison.difference_mean == pytest.approx(-0.3)
    assert decision.comparison.difference_high < 0
    assert decision.comparison.num_champion_only == 30
    assert "-0.3000" in decision.reasons[0]
    assert "100 questions" in decision.reasons[0]


def test_better_model_passes_under_both_readings() -> None:
    assert decide(GatePolicy(), {}, BETTER, WORSE).passed
    assert decide(GatePolicy(rule="non-inferior"), {}, BETTER, WORSE).passed


def test_equal_within_noise_passes_not_worse_and_fails_non_inferior() -> None:
    assert decide(GatePolicy(), {}, NOISY, BETTER).passed
    refused = decide(GatePolicy(rule="non-inferior"), {}, NOISY, BETTER)
    assert not refused.passed
    assert "Not shown to be as good" in refused.reasons[0]
    assert decide(GatePolicy(rule="non-inferior", max_regression=0.05), {}, NOISY, BETTER).passed


def test_same_predictions_pass_under_both_readings() -> None:
    assert decide(GatePolicy(), {}, BETTER, BETTER).passed
    assert decide(GatePolicy(rule="non-inferior"), {}, BETTER, BETTER).passed


@pytest.mark.parametrize(
    ("candidate", "champion", "reason"),
    [
        (BETTER, {}, "the champion left no predictions"),
        (None, BETTER, "the candidate left no predictions"),
        ({"other": ScoredAnswer(1.0)}, BETTER, "none of the candidate's 1 record ids"),
        (answers([1.0] * 60), BETTER, "60 common records, 0 only of the candidate, 40 only"),
        (answers([1.0] * 100, task="new"), BETTER, "100 of 100 records have another question"),
    ],
)
def test_not_comparable_is_refused(
    candidate: dict[str, ScoredAnswer] | None, champion: dict[str, ScoredAnswer], reason: str
) -> None:
    decision = decide(GatePolicy(), {}, candidate, champion)
    assert decision.status == "fail"
    assert reason in decision.reasons[0]


def test_policy_without_predictions_says_so() -> None:
    decision = decide(GatePolicy(compare=False), {}, None, BETTER)
    assert decision.passed
    assert "not compared" in decision.notes[0]


def test_all_reasons_are_given_at_once() -> None:
    policy = GatePolicy(thresholds=(MetricBound(metric="a", min=1), MetricBound(metric="b", max=0)))
    assert len(decide(policy, {"b": 1}, WORSE, BETTER).reasons) == 3


def test_policy_digest_changes_with_every_field() -> None:
    policies = [
        GatePolicy(),
        GatePolicy(rule="non-inferior"),
        GatePolicy(max_regression=0.01),
        GatePolicy(confidence=0.9),
        GatePolicy(compare=False),
        GatePolicy(seed=1),
        GatePolicy(num_resamples=1000),
        GatePolicy(thresholds=(MetricBound(metric="a", min=1),)),
    ]
    assert len({policy.sha256 for policy in policies}) == len(policies)
    assert GatePolicy().sha256 == GatePolicy().sha256


@pytest.mark.parametrize(
    "bad", [{"metric": "a"}, {"metric": "a", "min": 2, "max": 1}, {"metric": "a", "min": math.inf}]
)
def test_bounds_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"min|finite"):
        MetricBound.model_validate(bad)


scores = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=50)


@given(scores, scores, st.sampled_from(["not-worse", "non-inferior"]), st.floats(0, 0.3))
@settings(max_examples=80, deadline=None)
def test_decisions_round_trip_and_repeat_byte_for_byte(
    left: list[float], right: list[float], rule: str, margin: float
) -> None:
    policy = GatePolicy.model_validate(
        {"rule": rule, "max_regression": margin, "num_resamples": 200}
    )
    first = decide(policy, {}, answers(left), answers(right))
    again = decide(policy, {}, answers(left), answers(right))
    assert first.to_json() == again.to_json()
    assert Decision.from_json(first.to_json()) == first
    assert Decision.from_json(first.to_json()).to_json() == first.to_json()


@given(scores)
@settings(max_examples=60, deadline=None)
def test_non_inferior_is_never_laxer_than_not_worse(left: list[float]) -> None:
    champion = answers([1.0] * len(left))
    strict = decide(GatePolicy(rule="non-inferior", num_resamples=200), {}, answers(left), champion)
    lax = decide(GatePolicy(num_resamples=200), {}, answers(left), champion)
    assert lax.passed or not strict.passed
