"""Resampling against drawing every cluster; McNemar against enumeration and SciPy."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.sdk.resampling import (
    bootstrap_interval,
    clusters_of,
    mcnemar_p_value,
    resampled_means,
)


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


def test_bootstrap_has_the_moments_of_the_binomial() -> None:
    clusters = [(1.0, 1)] * 60 + [(0.0, 1)] * 40
    means = resampled_means(clusters, num_resamples=200_000, seed=0)
    assert means.mean() == pytest.approx(0.6, abs=1e-3)
    assert means.std() == pytest.approx(np.sqrt(0.6 * 0.4 / 100), rel=0.01)


def test_multinomial_draw_equals_drawing_every_cluster() -> None:
    """Exhaustively: all 27 resamples of three clusters of unequal size, equally likely."""
    scores, keys = [1.0, 0.0, 1.0, 1.0, 0.0], ["a", "a", "b", "b", "c"]
    parts = [[1.0, 0.0], [1.0, 1.0], [0.0]]
    exact = np.array([np.concatenate(each).mean() for each in itertools.product(parts, repeat=3)])
    drawn = resampled_means(clusters_of(scores, keys), num_resamples=100_000, seed=3)
    assert set(np.round(np.unique(drawn), 9)) == set(np.round(np.unique(exact), 9))
    for value in np.unique(exact):
        share = np.mean(np.isclose(drawn, value))
        assert share == pytest.approx(np.mean(np.isclose(exact, value)), abs=0.01)


def test_clusters_do_not_depend_on_the_order_of_scores() -> None:
    scores, keys = [0.1, 0.2, 0.3, 1e16, -1e16, 0.5], ["a", "a", "a", "b", "b", "b"]
    pairs = list(zip(scores, keys, strict=True))
    expected = [(0.5, 3), (math.fsum([0.1, 0.2, 0.3]), 3)]
    for order in itertools.permutations(pairs):
        assert clusters_of(*zip(*order, strict=True)) == expected


def test_draws_in_parts_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = [(0.01 * i, 1 + i % 3) for i in range(50)]
    whole = resampled_means(clusters, num_resamples=500, seed=7)
    monkeypatch.setattr("crucible.sdk.resampling._MAX_DRAWN", 1000)
    assert (resampled_means(clusters, num_resamples=500, seed=7) == whole).all()
