"""The largest elements of a tensor, exactly, without sorting or holding it.

A sample gives an interval in which the k-th largest key lies almost surely. One pass counts the
keys above it and collects those within, block by block, as distinct values with their numbers, so
that many equal keys (bfloat16 has few distinct changes) take no memory. If the interval was wrong
it is widened and the pass repeated.

Legend: M rows of keys, N keys of a block, S of the sample, D distinct ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAMPLE_KEYS = 1 << 16
"""Sorted to find the interval."""
_SAMPLE_BLOCKS = 16
_DEVIATIONS = 6.0
"""Standard deviations of the sample's rank on either side: once in 10^8 it is not enough."""

Keys = Callable[[slice], Tensor]
Mapper = Callable[..., Iterator[Any]]


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
        limits = zip(self.threshold_M.tolist(), self.tie_end_M.tolist(), strict=True)
        for keys_N, mask_N, (threshold, tie_end) in zip(keys_MN, mask_MN, limits, strict=True):
            num_ties = max(0, tie_end - start)
            torch.ge(keys_N[:num_ties], threshold, out=mask_N[:num_ties])
            torch.gt(keys_N[num_ties:], threshold, out=mask_N[num_ties:])
        return mask_MN


@dataclass(frozen=True)
class _Interval:
    """Where the threshold of a row is looked for; both ends belong to it."""

    low: float
    high: float


@dataclass(frozen=True)
class _Found:
    """What one row of keys has in a block."""

    num_above: int
    values_D: Tensor
    """Distinct keys within the interval, ascending."""
    counts_D: Tensor


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
    intervals = {}
    if open_rows := [row for row, count in enumerate(counts) if 0 < count < total]:
        sample_MS = _sample(keys, spans, mapper)
        intervals = {row: _bounds(sample_MS[row], counts[row], total) for row in open_rows}
    while intervals:
        found = list(mapper(lambda span: _look(keys(span), intervals), spans))
        for row, interval in list(intervals.items()):
            blocks = [block[row] for block in found]
            wider = _wider(interval, blocks, counts[row])
            if wider is None:
                del intervals[row]
                thresholds[row], tie_ends[row] = _threshold(keys, row, counts[row], blocks, spans)
            else:
                intervals[row] = wider
    return TopMask(torch.tensor(thresholds), torch.tensor(tie_ends))


def _sample(keys: Keys, spans: list[slice], mapper: Mapper) -> Tensor:
    """Sorted keys [M, S] of evenly spread blocks."""
    chosen = spans[:: max(1, len(spans) // _SAMPLE_BLOCKS)]
    stride = max(1, sum(span.stop - span.start for span in chosen) // SAMPLE_KEYS)
    parts = [part.numpy() for part in mapper(lambda span: keys(span)[:, ::stride], chosen)]
    return torch.from_numpy(np.sort(np.concatenate(parts, axis=1), axis=1))


def _bounds(sample_S: Tensor, count: int, total: int) -> _Interval:
    """Keys between which the ``count``-th largest of all lies almost surely."""
    num_sampled = sample_S.numel()
    share = count / total
    spread = (
        _DEVIATIONS * math.sqrt(share * (1 - share) / num_sampled) if num_sampled < total else 0
    )
    low = math.floor((1 - share - spread) * num_sampled) - 1
    high = math.ceil((1 - share + spread) * num_sampled) + 1
    return _Interval(
        float(sample_S[low]) if low >= 0 else -math.inf,
        float(sample_S[high]) if high < num_sampled else math.inf,
    )


def _look(keys_MN: Tensor, intervals: dict[int, _Interval]) -> dict[int, _Found]:
    """In NumPy, which compares, picks and sorts several times as fast as torch."""
    found = {}
    for row, interval in intervals.items():
        keys_N = keys_MN[row].numpy()
        is_above_N = np.greater(keys_N, np.float32(interval.high))
        is_inside_N = np.greater_equal(keys_N, np.float32(interval.low))
        is_inside_N &= ~is_above_N
        values_D, counts_D = np.unique(keys_N[is_inside_N], return_counts=True)
        num_above = int(np.count_nonzero(is_above_N))
        found[row] = _Found(num_above, torch.from_numpy(values_D), torch.from_numpy(counts_D))
    return found


def _wider(interval: _Interval, blocks: list[_Found], count: int) -> _Interval | None:
    """None if the interval holds the ``count``-th largest key."""
    num_to_high = sum(block.num_above for block in blocks)
    num_to_low = num_to_high + sum(int(block.counts_D.sum()) for block in blocks)
    if num_to_high >= count:
        return _Interval(interval.high, math.inf)
    if num_to_low < count:
        return _Interval(-math.inf, interval.low)
    return None


def _threshold(
    keys: Keys, row: int, count: int, blocks: list[_Found], spans: list[slice]
) -> tuple[float, int]:
    """The ``count``-th largest key, and the position before which those equal to it are chosen."""
    values_D, inverse = torch.unique(
        torch.cat([block.values_D for block in blocks]), return_inverse=True
    )
    counts_D = torch.zeros(values_D.numel(), dtype=torch.int64)
    counts_D.index_add_(0, inverse, torch.cat([block.counts_D for block in blocks]))
    num_above = sum(block.num_above for block in blocks)
    num_at_least_D = counts_D.flip(0).cumsum(0).flip(0) + num_above
    place = int((num_at_least_D >= count).sum()) - 1
    threshold = float(values_D[place])
    left = count - int(num_at_least_D[place] - counts_D[place])
    if left == int(counts_D[place]):
        return threshold, spans[-1].stop
    for block, span in zip(blocks, spans, strict=True):
        num_equal = int(block.counts_D[block.values_D == threshold].sum())
        if num_equal >= left:
            equal = (keys(span)[row] == threshold).nonzero()[:, 0]
            return threshold, span.start + int(equal[left - 1]) + 1
        left -= num_equal
    raise AssertionError("fewer keys than were counted")
