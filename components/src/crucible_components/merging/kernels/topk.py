"""The largest elements of a tensor, exactly, without sorting or holding it.

Keys are ranked by their 32 bits. One pass counts the high halves of the ranks, which tells that of
the k-th largest; the next counts the low halves below that one. A pass up to where the last of the
chosen equal keys lies follows if not all of them are chosen.

Legend: M rows of keys, N keys of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crucible_components.merging.kernels import selection_loops

Keys = Callable[[slice], NDArray[np.float32]]
Mapper = Callable[..., Iterator[Any]]
_HALF = 1 << 16


@dataclass(frozen=True)
class TopMask:
    """Tells for keys of a block whether they are among the largest of the whole tensor."""

    threshold_M: Tensor
    """The smallest chosen key, float32; infinity where none is chosen."""
    tie_end_M: Tensor
    """Position before which keys equal to the threshold are chosen."""

    def __call__(self, keys_MN: Tensor, start: int) -> Tensor:
        """[M, N] float32, 1 for the chosen, else 0; ``start`` is the first key's position."""
        mask_MN = torch.empty(keys_MN.shape)
        keys = keys_MN.float().contiguous().numpy()
        limits = zip(self.threshold_M.tolist(), self.tie_end_M.tolist(), strict=True)
        for keys_N, mask_N, (threshold, tie_end) in zip(keys, mask_MN.numpy(), limits, strict=True):
            selection_loops.mark_top(keys_N, threshold, max(0, tie_end - start), mask_N)
        return mask_MN


@dataclass
class _Row:
    """What is known of one row's threshold."""

    left: int
    """How many are to be chosen of the keys that can still be the threshold."""
    rank: int | None = None
    """Of the threshold: its high half after the first pass, whole after the second."""
    num_equal: int = 0

    def narrow(self, counts: NDArray[np.int64]) -> None:
        """Find the half of the rank below which ``left`` keys are not reached, from the top."""
        num_at_least = counts[::-1].cumsum()
        place = int(np.searchsorted(num_at_least, self.left))
        half = len(counts) - 1 - place
        self.rank = half if self.rank is None else self.rank << 16 | half
        self.num_equal = int(counts[half])
        self.left -= int(num_at_least[place]) - self.num_equal

    @property
    def threshold(self) -> float:
        assert self.rank is not None
        bits = self.rank ^ (0x80000000 if self.rank >> 31 else 0xFFFFFFFF)
        return float(np.array(bits, np.uint32).view(np.float32))


def top_mask(keys: Keys, counts: list[int], spans: list[slice], *, mapper: Mapper) -> TopMask:
    """The ``counts`` largest keys of each row; see `Tensors.top`.

    Args:
        keys: [M, N] of a span.
        counts: of each row, not more than there are keys.
        spans: all of the tensor.
        mapper: applies a function to spans, in order.
    """
    total = spans[-1].stop if spans else 0
    # All keys are greater than minus infinity, or equal; none than infinity.
    thresholds = [math.inf if count <= 0 else -math.inf for count in counts]
    tie_ends = [0 if count <= 0 else total for count in counts]
    rows = {m: _Row(count) for m, count in enumerate(counts) if 0 < count < total}
    if rows:
        for _ in range(2):
            for m, halves in _counted(keys, rows, spans, mapper).items():
                rows[m].narrow(halves)
        for m, row in rows.items():
            thresholds[m] = row.threshold
        for m, tie_end in _tie_ends(keys, rows, spans, mapper).items():
            tie_ends[m] = tie_end
    return TopMask(torch.tensor(thresholds), torch.tensor(tie_ends))


def _counted(
    keys: Keys, rows: dict[int, _Row], spans: list[slice], mapper: Mapper
) -> dict[int, NDArray[np.int64]]:
    """Counts [2^16] of each row's next half of a rank; every thread adds to counts of its own."""
    counters: list[dict[int, NDArray[np.int64]]] = []

    def count(span: slice) -> None:
        keys_MN = keys(span)
        with _lent(counters, lambda: {m: np.zeros(_HALF, np.int64) for m in rows}) as counter:
            for m, row in rows.items():
                if row.rank is None:
                    selection_loops.count_high_halves(keys_MN[m], counter[m])
                else:
                    selection_loops.count_low_halves(keys_MN[m], row.rank, counter[m])

    for _ in mapper(count, spans):
        pass
    return {m: np.sum([counter[m] for counter in counters], axis=0) for m in rows}


@contextmanager
def _lent(free: list[Any], make: Callable[[], Any]) -> Iterator[Any]:
    """One that no other thread has now; they all are in the list when no thread has one."""
    try:
        one = free.pop()
    except IndexError:
        one = make()
    yield one
    free.append(one)


def _tie_ends(
    keys: Keys, rows: dict[int, _Row], spans: list[slice], mapper: Mapper
) -> dict[int, int]:
    """Where in each row enough of the keys that equal its threshold were chosen."""
    left = {m: row.left for m, row in rows.items() if row.left < row.num_equal}
    ends: dict[int, int] = {}

    def count(span: slice) -> dict[int, int]:
        keys_MN = keys(span)
        return {m: int(np.count_nonzero(keys_MN[m] == rows[m].threshold)) for m in left}

    counted = mapper(count, spans) if left else iter(())
    for span, found in zip(spans, counted, strict=False):
        for m in [m for m in left if m not in ends]:
            if found[m] >= left[m]:
                equal = np.flatnonzero(keys(span)[m] == rows[m].threshold)
                ends[m] = span.start + int(equal[left[m] - 1]) + 1
            else:
                left[m] -= found[m]
        if len(ends) == len(left):
            break
    return ends
