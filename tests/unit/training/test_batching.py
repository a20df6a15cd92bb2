from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_components.training.batching import BatchPlan, draw_query_len, num_batches


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 99), min_size=1, max_size=70),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**62),
    data=st.data(),
)
def test_every_epoch_shows_every_example_once(
    lengths: list[int], batch_size: int, seed: int, data: st.DataObject
) -> None:
    text_only = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    )
    plan = BatchPlan(np.array(lengths), batch_size=batch_size, seed=seed, is_text_only=text_only)
    assert plan.batches_per_epoch == num_batches(text_only, batch_size)
    for epoch in range(2):
        first = epoch * plan.batches_per_epoch
        batches = [plan.batch(first + i) for i in range(plan.batches_per_epoch)]
        assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert all(len(set(text_only[batch])) == 1 for batch in batches)


def test_a_batch_depends_on_seed_and_step_only() -> None:
    lengths = np.arange(100)
    walked = BatchPlan(lengths, batch_size=8, seed=1)
    order = [walked.batch(step).tolist() for step in range(40)]
    jumped = BatchPlan(lengths, batch_size=8, seed=1)
    assert jumped.batch(33).tolist() == order[33]
    assert jumped.batch(2).tolist() == order[2]
    assert BatchPlan(lengths, batch_size=8, seed=2).batch(2).tolist() != order[2]
    assert order[: walked.batches_per_epoch] != order[13:26]


def test_examples_of_like_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 640)
    plan = BatchPlan(lengths, batch_size=16, seed=0)
    batches = [lengths[plan.batch(step)] for step in range(plan.batches_per_epoch)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    random = np.random.default_rng(1).permutation(lengths).reshape(-1, 16)
    assert padded / lengths.sum() < 1.1
    assert (random.max(1) * 16).sum() / lengths.sum() > 1.5


def test_latents_are_drawn_evenly_and_reproducibly() -> None:
    draws = [draw_query_len([1, 4, 16], seed=3, step=step) for step in range(3000)]
    assert draws == [draw_query_len([1, 4, 16], seed=3, step=step) for step in range(3000)]
    for query_len in (1, 4, 16):
        assert draws.count(query_len) == pytest.approx(1000, abs=130)  # five deviations
