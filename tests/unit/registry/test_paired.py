"""Comparisons of two models: what counts as one, what does not matter, what is told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.registry.paired import ScoredAnswer, compare_paired


def answers(scores: list[float]) -> dict[str, ScoredAnswer]:
    return {f"q{i:05d}": ScoredAnswer(score=s, category="all") for i, s in enumerate(scores)}


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
