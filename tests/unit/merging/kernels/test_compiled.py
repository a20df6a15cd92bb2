"""Loops work wherever they run."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from crucible_components.merging.kernels.compiled import compiled


def doubled(values_N: Any) -> Any:
    return values_N * 2


def test_where_nothing_is_writable_a_loop_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only root and no home: numba finds no place for its machine code, and says so."""
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(doubled)
    assert compiled()(doubled)(np.ones(3)).tolist() == [2, 2, 2]
