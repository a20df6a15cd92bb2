"""Exact top-k over large tensors without sorting, deterministic on ties.

Non-negative float32 values order like their bit patterns, so two histograms (upper, then lower 16
bits) give the k-th largest value exactly; among equal values the lowest index wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 16
"""Elements handled at a time: temporaries of a few sources stay in the processor's cache."""
_HALF_BITS = 16
_HALF_RANGE = 1 << _HALF_BITS


def blocks(num_elements: int) -> Iterator[slice]:
    """Slices that cover ``num_elements`` in order, each of at most `BLOCK_ELEMENTS`."""
    for start in range(0, num_elements, BLOCK_ELEMENTS):
        yield slice(start, min(start + BLOCK_ELEMENTS, num_elements))


def top_k_mask(values: Tensor, k: int) -> Tensor:
    """A bool mask of the ``k`` largest of ``values``; ties go to the lowest index.

    Args:
        values: one dimension, float32, non-negative, without NaN.
        k: between 0 and the number of elements.
    """
    if not 0 <= k <= values.numel():
        raise ValueError(f"k: {k} is not between 0 and the {values.numel()} elements.")
    if k == 0:
        return torch.zeros(values.shape, dtype=torch.bool)
    # Adding zero turns -0.0 into 0.0, whose bit pattern is the smallest.
    bits = (values + 0.0).view(torch.int32)
    upper, num_above = _bin_of_kth(bits, lambda block: block >> _HALF_BITS, k)
    lower, num_above_low = _bin_of_kth(
        bits,
        lambda block: block[block >> _HALF_BITS == upper] & (_HALF_RANGE - 1),
        k - num_above,
    )
    kth_bits = upper << _HALF_BITS | lower
    mask = bits > kth_bits
    num_ties_wanted = k - num_above - num_above_low
    for span in blocks(bits.numel()):
        ties = (bits[span] == kth_bits).nonzero().flatten()[:num_ties_wanted]
        mask[span][ties] = True
        num_ties_wanted -= ties.numel()
        if num_ties_wanted == 0:
            break
    return mask


def _bin_of_kth(bits: Tensor, key: Callable[[Tensor], Tensor], k: int) -> tuple[int, int]:
    """The histogram bin that holds the k-th largest key, and how many keys lie in higher bins."""
    counts = torch.zeros(_HALF_RANGE, dtype=torch.int64)
    for span in blocks(bits.numel()):
        counts += torch.bincount(key(bits[span]), minlength=_HALF_RANGE)
    from_top = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, k))
    num_above = int(from_top[position - 1]) if position else 0
    return _HALF_RANGE - 1 - position, num_above
