"""Paired comparison against enumeration, scipy and the bootstrap done question by question."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.registry.paired import (
    ScoredAnswer,
    bootstrap_interval,
    compare_paired,
    mcnemar_p_value,
)


def answers(scores: list[float]) -> dict[str, ScoredAnswer]:
    return {f"q{i:05d}": ScoredAnswer(score=s, category="all") for i, s in enumerate(scores)}


@pytest.mark.parametrize("wins", range(7))
@pytest.mark.parametrize("losses", range(7))
def test_mcnemar_equals_enumeration_of_all_coin_tosses(wins: int, losses: int) -> None:
    n = wins + losses
    distance = abs(wins - losses)
    as_extreme = sum(
        abs(sum(tosses) - (n - sum(tosses))) >= distance
        for tosses in itertools.product((0, 1), repeat=n)
    )
    assert mcnemar_p_value(wins, losses) == float(Fraction(as_extreme, 2**n))


@given(wins=st.integers(0, 3000), losses=st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_mcnemar_equals_scipy(wins: int, losses: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    n = wins + losses
    expected = stats.binomtest(wins, n, 0.5).pvalue if n else 1.0
    assert mcnemar_p_value(wins, losses) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_bootstrap_equals_resampling_the_questions_themselves() -> None:
    rng = random.Random(3)
    values = [rng.choice([-1.0, 0.0, 0.0, 1.0, 1.0]) for _ in range(400)]
    singles = [(value, 1) for value in values]
    low, high = bootstrap_interval(singles, confidence=0.9, num_resamples=40_000, seed=1)

    index = np.random.default_rng(9).integers(0, 400, size=(40_000, 400))
    means = np.asarray(values)[index].mean(axis=1)
    expected_low, expected_high = np.quantile(means, [0.05, 0.95])
    step = 1 / 400  # means are multiples of it; two Monte Carlo quantiles may differ by one
    assert low == pytest.approx(expected_low, abs=step + 1e-12)
    assert high == pytest.approx(expected_high, abs=step + 1e-12)


def test_bootstrap_agrees_with_the_normal_interval_for_many_questions() -> None:
    values = [1.0] * 700 + [0.0] * 8000 + [-1.0] * 300
    singles = [(value, 1) for value in values]
    low, high = bootstrap_interval(singles, confidence=0.95, num_resamples=50_000, seed=0)
    mean = 400 / 9000
    error = math.sqrt((1000 / 9000 - mean**2) / 9000)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.03 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.03 * error)


def test_coverage_of_the_interval() -> None:
    rng = np.random.default_rng(5)
    p_loss, p_win, n = 0.10, 0.14, 300
    covered = 0
    for trial in range(300):
        d = rng.choice([-1.0, 0.0, 1.0], p=[p_loss, 1 - p_loss - p_win, p_win], size=n)
        singles = [(float(value), 1) for value in d]
        low, high = bootstrap_interval(singles, confidence=0.9, num_resamples=1000, seed=trial)
        covered += low <= p_win - p_loss <= high
    assert 0.85 <= covered / 300 <= 0.95  # 0.90 +- 3 standard errors of 300 trials


def test_bootstrap_equals_resampling_the_clusters_themselves() -> None:
    rng = random.Random(4)
    sizes = [rng.choice([1, 2, 5]) for _ in range(150)]
    groups = [[rng.choice([-1.0, 0.0, 1.0])] * size for size in sizes]
    clusters = [(sum(group), len(group)) for group in groups]
    low, high = bootstrap_interval(clusters, confidence=0.9, num_resamples=40_000, seed=1)

    index = np.random.default_rng(9).integers(0, 150, size=(40_000, 150))
    table = np.asarray(clusters)
    sums, numbers = table[:, 0][index].sum(axis=1), table[:, 1][index].sum(axis=1)
    expected_low, expected_high = np.quantile(sums / numbers, [0.05, 0.95])
    assert low == pytest.approx(expected_low, abs=0.004)
    assert high == pytest.approx(expected_high, abs=0.004)


def test_questions_about_one_picture_count_as_one() -> None:
    """Five copies of each question teach nothing: the interval stays, the naive one shrinks."""
    rng = random.Random(2)
    once = [(float(rng.random() < 0.6), float(rng.random() < 0.5)) for _ in range(100)]
    single = compare_paired(
        answers([a for a, _ in once]), answers([b for _, b in once]), num_resamples=4000
    )

    def copied(side: int, *, clustered: bool) -> dict[str, ScoredAnswer]:
        return {
            f"q{i}-{copy}": ScoredAnswer(pair[side], cluster=f"picture {i}" if clustered else "")
            for i, pair in enumerate(once)
            for copy in range(5)
        }

    grouped = compare_paired(
        copied(0, clustered=True), copied(1, clustered=True), num_resamples=4000
    )
    naive = compare_paired(copied(0, clustered=False), copied(1, clustered=False))
    assert (grouped.num_pairs, grouped.num_clusters) == (500, 100)
    assert grouped.difference_low == pytest.approx(single.difference_low)
    assert grouped.difference_high == pytest.approx(single.difference_high)
    assert grouped.standard_error == pytest.approx(single.standard_error)
    width = grouped.difference_high - grouped.difference_low
    assert naive.difference_high - naive.difference_low < 0.6 * width


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.randoms())
@settings(max_examples=60, deadline=None)
def test_order_of_records_does_not_matter(
    pairs: list[tuple[bool, bool]], shuffler: random.Random
) -> None:
    candidate = answers([float(a) for a, _ in pairs])
    champion = answers([float(b) for _, b in pairs])
    ids = list(candidate)
    shuffler.shuffle(ids)
    shuffled = compare_paired({i: candidate[i] for i in ids}, champion, num_resamples=200)
    assert shuffled == compare_paired(candidate, champion, num_resamples=200)


def test_swapping_the_models_mirrors_every_number() -> None:
    rng = random.Random(8)
    left = answers([float(rng.random() < 0.6) for _ in range(200)])
    right = answers([float(rng.random() < 0.5) for _ in range(200)])
    there = compare_paired(left, right)
    back = compare_paired(right, left)
    assert there.difference_mean == -back.difference_mean
    assert there.standard_error == back.standard_error
    assert there.mcnemar_p_value == back.mcnemar_p_value
    assert (there.num_candidate_only, there.num_champion_only) == (
        back.num_champion_only,
        back.num_candidate_only,
    )


def test_fractional_scores_have_an_interval_but_no_mcnemar() -> None:
    comparison = compare_paired(answers([0.5, 1.0, 0.25]), answers([0.5, 0.5, 0.25]))
    assert comparison.difference_mean == pytest.approx(0.5 / 3)
    assert comparison.mcnemar_p_value is None
    assert comparison.num_candidate_only is None
    assert comparison.difference_high == pytest.approx(0.5)


def test_categories_hold_their_own_means() -> None:
    candidate = {
        "a": ScoredAnswer(1.0, "count"),
        "b": ScoredAnswer(0.0, "count"),
        "c": ScoredAnswer(1.0, "colour"),
    }
    champion = {
        "a": ScoredAnswer(1.0, "count"),
        "b": ScoredAnswer(1.0, "count"),
        "c": ScoredAnswer(0.0, "colour"),
    }
    table = {c.category: c for c in compare_paired(candidate, champion).categories}
    assert (table["count"].num_pairs, table["count"].candidate_mean) == (2, 0.5)
    assert table["count"].champion_mean == 1.0
    assert (table["colour"].candidate_mean, table["colour"].champion_mean) == (1.0, 0.0)


def test_refuses_different_ids() -> None:
    with pytest.raises(ValueError, match="same ids"):
        compare_paired(answers([1.0]), {})
