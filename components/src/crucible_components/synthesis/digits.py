"""Real handwritten digits: scikit-learn's copy of the UCI optical recognition test set.

1,797 pictures of 8 x 8 pixels with 17 grey levels, from 13 writers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

_LEVELS = 16
_HELD_OUT_EVERY = 4
"""Every fourth picture of each digit is seen in held-out scenes only."""


@cache
def digit_images() -> npt.NDArray[np.uint8]:
    """All pictures as ink from 0 to 255, in the data set's order, 1797 x 8 x 8."""
    from sklearn.datasets import load_digits

    ink = load_digits().images / _LEVELS * 255
    return np.asarray(ink.round(), dtype=np.uint8)


@cache
def digit_pool(*, held_out: bool) -> tuple[tuple[int, int], ...]:
    """(value, sample) of the digits for held-out scenes, or of all others; the two are disjoint."""
    from sklearn.datasets import load_digits

    values = [int(value) for value in load_digits().target]
    seen = dict.fromkeys(range(10), 0)
    pool = []
    for sample, value in enumerate(values):
        if (seen[value] % _HELD_OUT_EVERY == 0) == held_out:
            pool.append((value, sample))
        seen[value] += 1
    return tuple(pool)
