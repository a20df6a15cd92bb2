"""Where rows come from, against the rules said row by row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_components.merging.vocabulary.rows import (
    AVERAGE,
    MEAN,
    ZEROS,
    RowPlans,
    Rule,
    Run,
    plan_rows,
)
from crucible_components.merging.vocabulary.tokens import Vocabulary


def vocabulary(**ids: int) -> Vocabulary:
    return Vocabulary(ids, {}, {}, {})


def rows_of(plans: RowPlans, model: str) -> list[tuple[int, int]]:
    plan = plans.plans[plans.index(model)]
    return [(int(d), int(r)) for d, r in zip(plan.donors_V, plan.rows_V, strict=True)]


A, B, C = range(3)
KNOWN = {
    "a": vocabulary(x=0, y=1, late=4),
    "b": vocabulary(y=0, z=1, w=2),
    "c": vocabulary(z=1, w=0),
}
RESULT = vocabulary(x=0, y=1, z=2, w=3, late=4)
ROWS = {"a": 3, "b": 3, "c": 2}  # a has no row for `late`


def test_own_then_the_bases_then_the_only_owners_then_all_owners() -> None:
    plans = plan_rows(RESULT, KNOWN, ROWS, base="b")
    assert rows_of(plans, "a") == [(A, 0), (A, 1), (B, 1), (B, 2), (ZEROS, 0)]
    assert rows_of(plans, "b") == [(A, 0), (B, 0), (B, 1), (B, 2), (ZEROS, 0)]
    assert rows_of(plans, "c") == [(A, 0), (B, 0), (C, 1), (C, 0), (ZEROS, 0)]
    plans = plan_rows(RESULT, KNOWN, ROWS)
    assert rows_of(plans, "a") == [(A, 0), (A, 1), (AVERAGE, 0), (AVERAGE, 0), (ZEROS, 0)]
    assert rows_of(plans, "c") == [(A, 0), (AVERAGE, 0), (C, 1), (C, 0), (ZEROS, 0)]


def test_rules_fill_gaps_and_overrule_with_force() -> None:
    rules = [Rule("x", ZEROS, 0, False), Rule("y", B, 2, True), Rule("late", C, 1, False)]
    plans = plan_rows(RESULT, KNOWN, ROWS, base="b", rules=rules)
    assert rows_of(plans, "a") == [(A, 0), (B, 2), (B, 1), (B, 2), (C, 1)]
    assert rows_of(plans, "b") == [(ZEROS, 0), (B, 2), (B, 1), (B, 2), (C, 1)]


def test_padding_rows_that_all_have_are_kept() -> None:
    tokens = vocabulary(x=0, y=1)
    same = {"a": tokens, "b": tokens}
    plans = plan_rows(tokens, same, {"a": 8, "b": 6})
    assert plans.num_rows == 6
    assert rows_of(plans, "a") == [(A, row) for row in range(6)]
    assert rows_of(plans, "b") == [(B, row) for row in range(6)]
    assert plans.plans[B].is_own(B, 6)
    assert not plans.plans[A].is_own(A, 8)
    assert not plans.plans[A].is_own(B, 6)


def test_new_tokens_take_padding_rows() -> None:
    known = {"a": vocabulary(x=0), "b": vocabulary(x=0, z=1)}
    plans = plan_rows(vocabulary(x=0, z=1), known, {"a": 4, "b": 4}, base="a")
    assert rows_of(plans, "a") == [(A, 0), (B, 1), (A, 2), (A, 3)]


@pytest.mark.parametrize(("multiple", "size"), [(1, 3), (3, 3), (2, 4), (16, 16)])
def test_a_multiple_decides_the_size(multiple: int, size: int) -> None:
    known = {"a": vocabulary(x=0, z=2), "b": vocabulary(x=1)}
    plans = plan_rows(
        vocabulary(x=0, z=2), known, {"a": 8, "b": 8}, pad_to_multiple_of=multiple
    )  # fmt: skip
    assert plans.num_rows == size
    head = [(B, 1), (B, 1), (A, 2)]
    assert rows_of(plans, "b") == head + [(MEAN, 0)] * (size - 3)


def test_ids_without_a_token_keep_their_row_or_take_the_first_there_is() -> None:
    known = {"a": vocabulary(x=5), "b": vocabulary(x=0)}
    plans = plan_rows(vocabulary(x=5), known, {"a": 6, "b": 2})
    assert rows_of(plans, "b") == [(B, 0), (B, 1), (A, 2), (A, 3), (A, 4), (B, 0)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Vocabulary, dict[str, Vocabulary], dict[str, int], str | None]:
    tokens = [f"t{number}" for number in range(draw(st.integers(1, 12)))]
    known, rows = {}, {}
    for model in "abc"[: draw(st.integers(1, 3))]:
        own = draw(st.lists(st.sampled_from(tokens), unique=True))
        known[model] = vocabulary(**{t: i for i, t in enumerate(draw(st.permutations(own)))})
        rows[model] = draw(st.integers(1, 15))
    chosen = draw(st.lists(st.sampled_from(tokens), unique=True, min_size=1))
    step = draw(st.integers(1, 2))
    result = vocabulary(**{token: step * index for index, token in enumerate(chosen)})
    return result, known, rows, draw(st.sampled_from([None, *known]))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(cases())
def test_every_row_and_every_run(
    case: tuple[Vocabulary, dict[str, Vocabulary], dict[str, int], str | None],
) -> None:
    result, known, num_rows, base = case
    plans = plan_rows(result, known, num_rows, base=base)
    models = list(known)
    assert plans.num_rows == max(result.num_ids, min(num_rows.values()))
    tokens = {number: token for token, number in result.ids.items()}
    for index, model in enumerate(models):
        for row, found in enumerate(rows_of(plans, model)):
            if row not in tokens:
                havers = [index, *range(len(models))]
                havers = [each for each in havers if row < num_rows[models[each]]]
                assert found == ((havers[0], row) if havers else (ZEROS, 0))
                continue
            ids = [known[each].ids.get(tokens[row], -1) for each in models]
            owned = {i: r for i, r in enumerate(ids) if 0 <= r < num_rows[models[i]]}
            if index in owned:
                assert found == (index, owned[index])
            elif base is not None and models.index(base) in owned:
                assert found == (models.index(base), owned[models.index(base)])
            elif len(owned) == 1:
                assert found == next(iter(owned.items()))
            else:
                assert found == ((AVERAGE if owned else ZEROS), 0)
        check_runs(plans, index)


def check_runs(plans: RowPlans, model: int) -> None:
    """Runs join up, hold what the plan says, and cannot be longer."""
    plan, size = plans.plans[model], plans.num_rows
    for first in range(size + 1):
        for last in range(first, size + 1):
            runs = list(plan.runs(first, last))
            assert [row for run in runs for row in range(run.start, run.stop)] == list(
                range(first, last)
            )
    for run in runs_of_all(plans, model):
        for row in range(run.start, run.stop):
            assert plan.donors_V[row] == run.donor
            if run.donor >= 0:
                assert plan.rows_V[row] == run.row + row - run.start
            if run.donor == AVERAGE:
                now_M, then_M = plans.owned_MV[:, row], plans.owned_MV[:, run.start]
                moved_M = np.where(then_M >= 0, then_M + row - run.start, -1)
                assert np.array_equal(now_M, moved_M)


def runs_of_all(plans: RowPlans, model: int) -> list[Run]:
    runs = list(plans.plans[model].runs(0, plans.num_rows))
    for one, two in pairwise(runs):
        joined = one.donor == two.donor >= 0 and two.row == one.row + one.stop - one.start
        assert not joined
        if one.donor == two.donor == AVERAGE:
            now_M, then_M = plans.owned_MV[:, two.start], plans.owned_MV[:, one.stop - 1]
            assert not np.array_equal(now_M, np.where(then_M >= 0, then_M + 1, -1))
        assert not one.donor == two.donor == ZEROS
    return runs


def test_averages_of_neighbours_are_one_run() -> None:
    known = {"a": vocabulary(), "b": vocabulary(x=0, y=1, z=3), "c": vocabulary(x=2, y=3, z=1)}
    plans = plan_rows(vocabulary(x=0, y=1, z=2), known, {"a": 1, "b": 4, "c": 4})
    runs = [(run.start, run.stop, run.donor) for run in plans.plans[A].runs(0, 3)]
    assert runs == [(0, 2, AVERAGE), (2, 3, AVERAGE)]


def test_large_vocabularies_are_planned_quickly() -> None:
    import time

    count = 150_000
    first = vocabulary(**{f"t{i}": i for i in range(count)})
    second = vocabulary(**{f"t{i}": count - 1 - i for i in range(count)})
    start = time.process_time()
    plans = plan_rows(first, {"a": first, "b": second}, {"a": count, "b": count}, base="a")
    assert time.process_time() - start < 5
    assert len(list(plans.plans[A].runs(0, count))) == 1
    assert len(list(plans.plans[B].runs(0, count))) == count
