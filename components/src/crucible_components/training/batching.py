"""Which examples each step sees, as a function of the seed and the step alone.

Examples of like length share a batch, so little of it is padding; the published sampler does the
same over mega-batches. Nothing is remembered between steps: a resumed run needs the step only.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MEGA_BATCHES = 16
"""Batches whose examples are sorted together; more means less padding and less mixing."""

IndexArray = NDArray[np.int64]


class BatchPlan:
    """Endless epochs of batches, each epoch with every example once."""

    def __init__(
        self,
        lengths: IndexArray,
        *,
        batch_size: int,
        seed: int,
        is_text_only: NDArray[np.bool_] | None = None,
    ) -> None:
        """Plan batches of ``batch_size`` (the last of an epoch may be smaller).

        Examples with and without picture never share a batch.
        """
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        text_only = np.zeros(len(lengths), dtype=bool) if is_text_only is None else is_text_only
        self._pools = [np.flatnonzero(~text_only), np.flatnonzero(text_only)]
        self.batches_per_epoch = num_batches(text_only, batch_size)
        self._epoch = functools.lru_cache(maxsize=2)(self._plan_epoch)

    def batch(self, step: int) -> IndexArray:
        """Indices of the examples of ``step``, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.batches_per_epoch)
        return self._epoch(epoch)[place]

    def _plan_epoch(self, epoch: int) -> list[IndexArray]:
        generator = np.random.default_rng([self._seed, epoch])
        batches: list[IndexArray] = []
        for pool in self._pools:
            shuffled = generator.permutation(pool)
            for start in range(0, len(shuffled), MEGA_BATCHES * self._batch_size):
                mega = shuffled[start : start + MEGA_BATCHES * self._batch_size]
                mega = mega[np.argsort(self._lengths[mega], kind="stable")]
                batches += [
                    mega[at : at + self._batch_size] for at in range(0, len(mega), self._batch_size)
                ]
        return [batches[index] for index in generator.permutation(len(batches))]


def num_batches(is_text_only: NDArray[np.bool_], batch_size: int) -> int:
    """Batches an epoch when examples with and without picture are kept apart."""
    num_text_only = int(is_text_only.sum())
    with_picture = len(is_text_only) - num_text_only
    return -(-with_picture // batch_size) + -(-num_text_only // batch_size)


def draw_query_len(query_lens: Sequence[int], *, seed: int, step: int) -> int:
    """Latents a turn in this step, drawn uniformly from ``query_lens``."""
    return random.Random(f"{seed}/{step}").choice(list(query_lens))
