"""The stored elements of one tensor in all models, and how threads share its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from crucible.errors import CrucibleError
from crucible_components.merging.kernels.tensors import Mapper
from crucible_components.merging.recipe.headers import Input, TensorPlan
from crucible_components.models.weights import Reader

T = TypeVar("T")


class ValuesNotFinite(CrucibleError, ValueError):
    """A source holds NaN or infinity."""


class StoredValues:
    """Implements `Values`; reads a tensor once if its copies are to be kept."""

    def __init__(self, readers: Mapping[str, Reader], plan: TensorPlan, *, kept: bool) -> None:
        self._readers, self._plan = readers, plan
        self._kept: dict[Input, Tensor] = {}
        if kept:
            self._kept = {each: self._read(each, slice(0, plan.num_elements)) for each in plan.all}

    def models(self, span: slice) -> list[Tensor]:
        return [self._values(each, span) for each in self._plan.inputs]

    def base(self, span: slice) -> Tensor | None:
        return None if self._plan.base is None else self._values(self._plan.base, span)

    def check(self, span: slice) -> None:
        """Refuse NaN and infinity: every method would spread them."""
        for each in self._plan.all:
            values_N = self._values(each, span)
            bad = (~torch.isfinite(values_N)).nonzero()[:, 0]
            if bad.numel():
                raise ValuesNotFinite(
                    f"{each.model}: {each.tensor} has {float(values_N[bad[0]])} at position "
                    f"{span.start + int(bad[0])} of {self._plan.num_elements}. "
                    "Train or download that model anew: no merge is better than its sources."
                )

    def _values(self, chosen: Input, span: slice) -> Tensor:
        kept = self._kept.get(chosen)
        return self._read(chosen, span) if kept is None else kept[span]

    def _read(self, chosen: Input, span: slice) -> Tensor:
        return self._readers[chosen.model].read_span(chosen.tensor, span)


def shared(pool: ThreadPoolExecutor, threads: int) -> Mapper:
    """Runs of neighbouring blocks to each thread, results in order, few in memory at a time."""

    def mapper(work: Callable[[slice], T], spans: list[slice]) -> Iterator[T]:
        size = 8 * threads
        for start in range(0, len(spans), size):
            yield from pool.map(work, spans[start : start + size])

    return mapper
