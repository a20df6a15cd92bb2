"""A model and an adapter read as one: W + s·B·A row by row, when asked for.

An adapted tensor is float32 and is rounded once, at the end of the merge. Departs from mergekit,
which first writes base and adapter as one model, rounded to the base's type, and then merges that.

Rows are computed in blocks on a grid of the tensor's own, so that an element's value does not
depend on which span is read.

Shapes: R rows, C columns, K the adapter's rank, N elements of the flat tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from crucible_components.merging.sources.adapters import Adapted, Adapter
from crucible_components.merging.sources.views import ClosableReader
from crucible_components.models.weights import TensorInfo

GRID_ELEMENTS = 1 << 15
_MIN_ROWS = 8
_KEPT_FACTORS = 32
"""Tensors whose factors stay in memory: at least as many as are merged at once."""


@dataclass(frozen=True)
class _Factors:
    rows_RK: Tensor
    columns_KC: Tensor
    magnitudes_R: Tensor | None


class LoraReader:
    """The tensors of ``base`` as ``adapter`` changes them; several threads may read at once.

    Args:
        base: the model; closed with this reader.
        weights: the adapter's tensors; closed with this reader.
        adapter: what they do, checked against ``base``.
    """

    def __init__(self, base: ClosableReader, weights: ClosableReader, adapter: Adapter) -> None:
        self._base, self._weights, self._adapter = base, weights, adapter
        self._factors = lru_cache(maxsize=_KEPT_FACTORS)(self._read_factors)
        self.infos: Mapping[str, TensorInfo] = {
            name: self._info(info) for name, info in base.infos.items()
        }

    def _info(self, info: TensorInfo) -> TensorInfo:
        if info.name in self._adapter.adapted:
            return replace(info, dtype=torch.float32)
        if info.name in self._adapter.replaced:
            return replace(self._weights.infos[self._adapter.replaced[info.name]], name=info.name)
        return info

    def read_span(self, name: str, span: slice) -> Tensor:
        """The elements ``span`` of the flat tensor, copied; float32 if it is adapted."""
        if name in self._adapter.adapted:
            return self._read_adapted(name, span)
        if name in self._adapter.replaced:
            return self._weights.read_span(self._adapter.replaced[name], span)
        return self._base.read_span(name, span)

    def close(self) -> None:
        self._factors.cache_clear()
        self._weights.close()
        self._base.close()

    def _read_adapted(self, name: str, span: slice) -> Tensor:
        num_rows, num_columns = self.infos[name].shape
        grid = max(_MIN_ROWS, GRID_ELEMENTS // max(1, num_columns))
        first = span.start // num_columns // grid * grid
        last = min(num_rows, math.ceil(span.stop / num_columns / grid) * grid)
        whole = slice(first * num_columns, last * num_columns)
        values_N = self._base.read_span(name, whole).to(torch.float32, copy=True)
        if span.start < span.stop:
            factors, scale = self._factors(name), self._adapter.adapted[name].scale
            values_RC = values_N.view(-1, num_columns)
            for start in range(first, last, grid):
                stop = min(start + grid, last)
                _adapt(values_RC[start - first : stop - first], factors, scale, slice(start, stop))
        return values_N[span.start - whole.start : span.stop - whole.start]

    def _read_factors(self, name: str) -> _Factors:
        how: Adapted = self._adapter.adapted[name]
        a_KI, b_OK = self._whole(how.a), self._whole(how.b)
        magnitudes_R = None if how.magnitude is None else self._whole(how.magnitude).flatten()
        if how.is_transposed:
            return _Factors(a_KI.T.contiguous(), b_OK.T.contiguous(), magnitudes_R)
        return _Factors(b_OK, a_KI, magnitudes_R)

    def _whole(self, name: str) -> Tensor:
        info = self._weights.infos[name]
        values_N = self._weights.read_span(name, slice(0, math.prod(info.shape)))
        return values_N.float().reshape(info.shape)


def _adapt(values_RC: Tensor, factors: _Factors, scale: float, rows: slice) -> None:
    """Add the adapter to ``rows``; DoRA then gives each row its trained length."""
    values_RC.addmm_(factors.rows_RK[rows], factors.columns_KC, alpha=scale)
    if factors.magnitudes_R is not None:
        lengths_R = torch.linalg.vector_norm(values_RC, dim=1)
        values_RC.mul_((factors.magnitudes_R[rows] / lengths_R).unsqueeze(1))
