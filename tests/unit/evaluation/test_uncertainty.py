"""Intervals and tests against closed forms, SciPy, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from crucible_components.evaluation.uncertainty import (
    Bootstrap,
    accuracy_interval,
    calibration_error,
    paired_difference,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (1, 10), (7, 10), (50, 50), (311, 500)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(successes: int, total: int, confidence: float) -> None:
    ours = wilson_interval(successes, total, confidence)
    theirs = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_copies_of_a_question_do_not_narrow_the_interval() -> None:
    correct = [True] * 30 + [False] * 20
    single = accuracy_interval(correct, range(50), Bootstrap())
    copied = accuracy_interval(
        [each for each in correct for _ in range(8)],
        [index for index in range(50) for _ in range(8)],
        Bootstrap(),
    )
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high), abs=0.021)
    naive = accuracy_interval([e for e in correct for _ in range(8)], range(400), Bootstrap())
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_order_of_questions_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    correct, clusters = rng.random(300) < 0.6, rng.integers(0, 90, 300)
    order = rng.permutation(300)
    straight = accuracy_interval(list(correct), list(clusters), Bootstrap())
    shuffled = accuracy_interval(list(correct[order]), list(clusters[order]), Bootstrap())
    assert straight == shuffled


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """400 simulated evaluations, 150 pictures with up to three correlated questions each."""
    rng, truth = np.random.default_rng(1), 0.7
    covered, naive = 0, 0
    for _ in range(400):
        difficulty = rng.beta(truth * 2, (1 - truth) * 2, 150)  # mean 0.7, strongly clustered
        sizes = rng.integers(1, 4, 150)
        clusters = np.repeat(np.arange(150), sizes)
        correct = rng.random(len(clusters)) < difficulty[clusters]
        quick = Bootstrap(num_resamples=1000)
        interval = accuracy_interval(list(correct), list(clusters), quick)
        covered += interval.low <= truth <= interval.high
        plain = accuracy_interval(list(correct), range(len(correct)), quick)
        naive += plain.low <= truth <= plain.high
    assert 0.92 <= covered / 400 <= 0.975
    assert naive / 400 < covered / 400 - 0.02


def test_nearly_perfect_scores_get_wilson() -> None:
    perfect = accuracy_interval([True] * 40, range(40), Bootstrap())
    assert perfect.method == "wilson"
    assert perfect.low == pytest.approx(0.9124, abs=1e-4)
    assert (
        accuracy_interval([True] * 35 + [False] * 5, range(40), Bootstrap()).method == "bootstrap"
    )


def test_pairing_is_sharper_than_two_separate_intervals() -> None:
    rng = np.random.default_rng(2)
    baseline = rng.random(400) < 0.6
    candidate = baseline | (rng.random(400) < 0.1)
    found = paired_difference(list(candidate), list(baseline), range(400), Bootstrap())
    assert found.mean == pytest.approx(candidate.mean() - baseline.mean())
    assert found.low > 0
    assert found.num_baseline_only == 0
    assert found.mcnemar_p == pytest.approx(2 * 0.5**found.num_candidate_only)
    separate = accuracy_interval(list(candidate), range(400), Bootstrap())
    assert found.high - found.low < separate.high - separate.low


def test_a_model_does_not_differ_from_itself() -> None:
    answers = [True, False, True] * 20
    found = paired_difference(answers, answers, range(60), Bootstrap())
    assert (found.mean, found.low, found.high, found.mcnemar_p) == (0.0, 0.0, 0.0, 1.0)


def test_calibration_error_of_a_worked_example() -> None:
    confidences = [0.95, 0.95, 0.55, 0.55, 0.15, 1.0]
    correct = [True, False, True, True, False, True]
    # bins 0.9-1: mean confidence 2.9/3, accuracy 2/3; 0.5-0.6: 0.55 and 1; 0.1-0.2: 0.15 and 0
    expected = (abs(2.9 - 2) + abs(1.1 - 2) + 0.15) / 6
    assert calibration_error(confidences, correct) == pytest.approx(expected)
