"""Loops over keys and positions: counts for the k-th largest, masks, ranks, random numbers.

Legend: K models, R rows, C columns, N elements of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crucible_components.merging.kernels.compiled import Bits, Floats, compiled

_PIECE = 1024
"""Elements that stay in the first cache."""


@compiled()
def uniform(start: int, seeds_K2: Bits, numbers_KN: Floats) -> None:
    """Numbers in [0, 1) for the positions from ``start`` on; see `random.uniform`."""
    num_elements = numbers_KN.shape[1]
    word = np.empty(_PIECE, np.uint32)
    for begin in range(0, num_elements, _PIECE):
        piece = slice(begin, min(begin + _PIECE, num_elements))
        length = piece.stop - piece.start
        for i in range(length):
            position = np.uint64(start + begin + i)
            word[i] = _mixed(np.uint32(position)) + np.uint32(position >> np.uint64(32))
        for k in range(len(seeds_K2)):
            low, high, numbers = seeds_K2[k, 0], seeds_K2[k, 1], numbers_KN[k, piece]
            for i in range(length):
                mixed = _mixed(np.uint32((word[i] ^ low) + high))
                numbers[i] = np.float32(mixed >> np.uint32(8)) * np.float32(2.0**-24)


@compiled(inline="always")
def _mixed(word: Any) -> Any:
    """The finaliser of MurmurHash3, of uint32."""
    word = word ^ (word >> np.uint32(16))
    word = np.uint32(word * np.uint32(0x85EBCA6B))
    word = word ^ (word >> np.uint32(13))
    word = np.uint32(word * np.uint32(0xC2B2AE35))
    return word ^ (word >> np.uint32(16))


@compiled()
def count_high_halves(keys_N: Floats, counts: NDArray[np.int64]) -> None:
    """Add to ``counts`` [2^16] how many keys have which high half of their rank."""
    bits_N = keys_N.view(np.uint32)
    for i in range(bits_N.size):
        counts[_rank(bits_N[i]) >> np.uint32(16)] += 1


@compiled()
def count_low_halves(keys_N: Floats, high: int, counts: NDArray[np.int64]) -> None:
    """Add to ``counts`` [2^16] the low halves of those ranks whose high half is ``high``."""
    bits_N, wanted = keys_N.view(np.uint32), np.uint32(high)
    for i in range(bits_N.size):
        rank = _rank(bits_N[i])
        if rank >> np.uint32(16) == wanted:
            counts[rank & np.uint32(0xFFFF)] += 1


@compiled(inline="always")
def _rank(bits: Any) -> Any:
    """A number that orders as the float32 of these bits does; -0.0 is 0.0, NaN has no place."""
    if bits == np.uint32(0x80000000):
        bits = np.uint32(0)
    flipped = np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000)
    return bits ^ flipped


@compiled()
def row_ranks(keys_RC: Floats, ranks_RC: NDArray[np.int32]) -> None:
    """The place of each key in its row in ascending order, equal ones in the order they have.

    A radix sort of positions by 11 bits at a time.
    """
    num_rows, num_columns = keys_RC.shape
    order, other = np.empty(num_columns, np.int32), np.empty(num_columns, np.int32)
    next_place, digit_mask = np.empty(1 << 11, np.int32), np.uint32((1 << 11) - 1)
    ranks = np.empty(num_columns, np.uint32)
    for r in range(num_rows):
        bits = keys_RC[r].view(np.uint32)
        for c in range(num_columns):
            ranks[c], order[c] = _rank(bits[c]), c
        for shift in (np.uint32(0), np.uint32(11), np.uint32(22)):
            next_place[:] = 0
            for c in range(num_columns):
                next_place[ranks[c] >> shift & digit_mask] += 1
            total = 0
            for digit in range(next_place.size):
                count = next_place[digit]
                next_place[digit] = total
                total += count
            for c in range(num_columns):
                digit = ranks[order[c]] >> shift & digit_mask
                other[next_place[digit]] = order[c]
                next_place[digit] += 1
            order, other = other, order
        for place in range(num_columns):
            ranks_RC[r, order[place]] = place


@compiled()
def mark_top(keys_N: Floats, threshold: float, num_ties: int, mask_N: Floats) -> None:
    """1 where a key is above the threshold, or the same among the first ``num_ties``; else 0."""
    limit, one, zero = np.float32(threshold), np.float32(1), np.float32(0)
    num_ties = min(num_ties, keys_N.size)
    for i in range(num_ties):
        mask_N[i] = one if keys_N[i] >= limit else zero
    for i in range(num_ties, keys_N.size):
        mask_N[i] = one if keys_N[i] > limit else zero
