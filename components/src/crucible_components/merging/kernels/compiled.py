"""Plain loops over arrays, compiled: how, and what all of them share.

Numba makes machine code of a loop when it is first called and keeps it beside the byte code of this
package, where that is writable. Threads run loops at the same time. Elementwise arithmetic is
IEEE's, unfused: the same on every processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bits = NDArray[np.uint32]
F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """Decorates functions of arrays and numbers; ``options`` are numba's."""

    def decorate(function: F) -> F:
        try:
            kept: F = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # a read-only root without a home: compiled anew in each process
            kept = numba.njit(nogil=True, **options)(function)
        return kept

    return decorate
