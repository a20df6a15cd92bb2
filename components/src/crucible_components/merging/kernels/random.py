"""Random numbers that depend on a seed and a position alone: not on threads, blocks or order.

The finaliser of MurmurHash3 (public domain, A. Appleby) over the position, then over that and the
seed. Good enough for masks; no cryptography.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crucible_components.merging.kernels import selection_loops

_WORD = 1 << 32


def seed_of(seed: int, *names: str) -> int:
    """A seed of 64 bits for one purpose."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def uniform(span: slice, seeds: Sequence[int]) -> Tensor:
    """Numbers in [0, 1), [len(seeds), N] float32, for the N positions ``span``."""
    halves = [(seed % _WORD, (seed >> 32) % _WORD) for seed in seeds]
    numbers = np.empty((len(seeds), span.stop - span.start), np.float32)
    selection_loops.uniform(span.start, np.array(halves, np.uint32), numbers)
    return torch.from_numpy(numbers)
