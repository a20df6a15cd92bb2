"""The stored elements of one tensor in all models, and how threads share its blocks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from crucible.errors import CrucibleError
from crucible_components.merging.kernels import Rows
from crucible_components.merging.kernels.tensors import Mapper
from crucible_components.merging.recipe.headers import Input, TensorPlan
from crucible_components.models.weights import Reader

T = TypeVar("T")
READ_ELEMENTS = 1 << 20
_OF_THREAD = threading.local()


class ValuesNotFinite(CrucibleError, ValueError):
    """A source holds NaN or infinity."""


class StoredValues:
    """Implements `Values`; reads a tensor once if its copies are to be kept.

    A thread keeps those of one tensor at a time.
    """

    def __init__(self, readers: Mapping[str, Reader], plan: TensorPlan, *, kept: bool) -> None:
        self._readers, self._plan = readers, plan
        stored = {readers[each.model].infos[each.tensor].dtype for each in plan.all}
        self._dtype = torch.bfloat16 if stored == {torch.bfloat16} else torch.float32
        self._kept_MT = self._keep() if kept else None

    @property
    def has_base(self) -> bool:
        return self._plan.base is not None

    def rows(self, span: slice) -> Rows:
        if self._kept_MT is not None:
            return Rows(self._kept_MT, span.start)
        return Rows(self._stacked(span), 0)

    def _keep(self) -> Tensor:
        """All of it, in memory that this thread uses for one tensor after another."""
        shape = (len(self._plan.all), self._plan.num_elements)
        num_bytes = math.prod(shape) * self._dtype.itemsize
        room = getattr(_OF_THREAD, "room", None)
        if room is None or len(room) < num_bytes:
            room = _OF_THREAD.room = torch.empty(num_bytes, dtype=torch.uint8)
        kept_MT = room[:num_bytes].view(self._dtype).view(shape)
        for start in range(0, shape[1], READ_ELEMENTS):
            span = slice(start, min(start + READ_ELEMENTS, shape[1]))
            self._read_all(span, kept_MT[:, span])
        return kept_MT

    def _stacked(self, span: slice) -> Tensor:
        values_MN = torch.empty(len(self._plan.all), span.stop - span.start, dtype=self._dtype)
        self._read_all(span, values_MN)
        return values_MN

    def _read_all(self, span: slice, values_MN: Tensor) -> None:
        for values_N, each in zip(values_MN, self._plan.all, strict=True):
            values_N.copy_(self._read(each, span))

    def check(self, span: slice) -> None:
        """Refuse NaN and infinity: every method would spread them."""
        for each in self._plan.all:
            values_N = self._read(each, span)
            bad = (~torch.isfinite(values_N)).nonzero()[:, 0]
            if bad.numel():
                raise ValuesNotFinite(
                    f"{each.model}: {each.tensor} has {float(values_N[bad[0]])} at position "
                    f"{span.start + int(bad[0])} of {self._plan.num_elements}. "
                    "Train or download that model anew: no merge is better than its sources."
                )

    def _read(self, chosen: Input, span: slice) -> Tensor:
        return self._readers[chosen.model].read_span(chosen.tensor, span)


def shared(pool: ThreadPoolExecutor, threads: int) -> Mapper:
    """Runs of neighbouring blocks to each thread, results in order, few in memory at a time."""

    def mapper(work: Callable[[slice], T], spans: list[slice]) -> Iterator[T]:
        size = 8 * threads
        for start in range(0, len(spans), size):
            yield from pool.map(work, spans[start : start + size])

    return mapper
