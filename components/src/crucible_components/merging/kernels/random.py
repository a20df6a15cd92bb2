"""Random numbers that depend on a seed and a position alone: not on threads, blocks or order.

The finaliser of MurmurHash3 (public domain, A. Appleby) over the position, then over that and the
seed. Good enough for masks; no cryptography.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WORD = 1 << 32
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_UNIFORM_BITS = 24


def seed_of(seed: int, *names: str) -> int:
    """A seed of 64 bits for one purpose."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def uniform(index_N: Tensor, seeds: Sequence[int]) -> Tensor:
    """Numbers in [0, 1), [len(seeds), N] float32, for the positions ``index_N`` (int64).

    In NumPy, which has unsigned numbers.
    """
    index = index_N.numpy().view(np.uint64)
    mixed = _mix(index.astype(np.uint32))
    mixed += (index >> np.uint64(32)).astype(np.uint32)
    numbers = np.empty((len(seeds), index.size), np.float32)
    for row, seed in zip(numbers, seeds, strict=True):
        word = mixed ^ np.uint32(seed % _WORD)
        word += np.uint32((seed >> 32) % _WORD)
        row[:] = _mix(word) >> np.uint32(32 - _UNIFORM_BITS)
    numbers *= np.float32(2.0**-_UNIFORM_BITS)
    return torch.from_numpy(numbers)


def _mix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Of its own array."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(_MULTIPLIERS[0])
    values ^= values >> np.uint32(13)
    values *= np.uint32(_MULTIPLIERS[1])
    values ^= values >> np.uint32(16)
    return values
