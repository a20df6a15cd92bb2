"""The loop over tensors: large ones by all threads together, the others by one thread each.

Memory is set by the number of threads and `Limits.cache_bytes`, not by the model: a tensor whose
copies fit into the cache is read once however often its method walks over it; a larger one is read
anew, block by block, from the operating system's page cache at best.

A tensor is journalled once its values are durable. Another process that is given the same folder
and key goes on from there, and the result is the same to the byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch

from crucible_components.merging.execution.blocks import (
    StoredValues,
    ValuesNotFinite,
    shared,
)
from crucible_components.merging.execution.journal import Journal
from crucible_components.merging.execution.process import settle
from crucible_components.merging.kernels.tensors import Mapper, Tensors, in_turn
from crucible_components.merging.methods import Method
from crucible_components.merging.recipe.headers import Input, TensorPlan
from crucible_components.merging.reporting.figures import (
    Accumulator,
    Partial,
    TensorFigures,
    figures_of,
)
from crucible_components.models.weight_files import WeightFiles
from crucible_components.models.weights import Reader

COPY_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Limits:
    """What a merge may use."""

    threads: int = 2
    cache_bytes: int = 192 << 20
    """For the stored values of one tensor in all models, a thread."""
    commit_bytes: int = 512 << 20
    """Written between two entries of the journal, at most about."""
    commit_seconds: float = 5.0


@dataclass(frozen=True)
class Execution:
    """One merge: by which method, from where, in which arithmetic."""

    method: Method
    readers: Mapping[str, Reader]
    """By how the plans refer to the models."""
    dtype: torch.dtype = torch.float32
    """Of the arithmetic; less only to follow mergekit."""
    random_seed: int = 0
    limits: Limits = Limits()

    def run(
        self,
        plans: Sequence[TensorPlan],
        files: WeightFiles,
        journal: Journal,
        on_tensor: Callable[[TensorPlan], None] = lambda plan: None,
    ) -> list[TensorFigures]:
        """Write every planned tensor that the journal does not have; the first fault ends it.

        Args:
            plans: of all tensors of the result.
            files: opened for them.
            journal: beside the files; its key tells this merge from any other.
            on_tensor: called for each tensor that is there, also for those that were.

        Returns:
            The figures of all tensors, in the order of the plans.
        """
        if not files.is_resumed:
            journal.restart()
        todo = [plan for plan in plans if plan.name not in journal.done]
        for plan in plans:
            if plan.name in journal.done:
                on_tensor(plan)
        commit = _Commit(files, journal, self.limits)
        try:
            for plan, figures in self._merge_all(todo, files):
                commit.add(plan, figures)
                on_tensor(plan)
        finally:
            commit.now()
        files.finish()
        return [TensorFigures.from_json(journal.done[plan.name]) for plan in plans]

    def _merge_all(
        self, plans: Sequence[TensorPlan], files: WeightFiles
    ) -> Iterator[tuple[TensorPlan, TensorFigures]]:
        """Tensors as they are done."""
        settle()
        threads = self.limits.threads
        large = [plan for plan in plans if self._num_bytes(plan) > self.limits.cache_bytes]
        small = [plan for plan in plans if self._num_bytes(plan) <= self.limits.cache_bytes]
        # One thread of torch's in each of ours; it keeps that number for each thread.
        with ThreadPoolExecutor(threads, "merge", torch.set_num_threads, (1,)) as pool:
            try:
                for plan in large:
                    yield plan, self._merge(plan, files, shared(pool, threads), kept=False)
                futures = {
                    pool.submit(self._merge, plan, files, in_turn, kept=True): plan
                    for plan in small
                }
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _num_bytes(self, plan: TensorPlan) -> int:
        return sum(self.readers[each.model].infos[each.tensor].num_bytes for each in plan.all)

    def _merge(
        self, plan: TensorPlan, files: WeightFiles, mapper: Mapper, *, kept: bool
    ) -> TensorFigures:
        if plan.copied_from is not None:
            return self._copy(plan, plan.copied_from, files)
        tensors = Tensors(
            name=plan.name,
            shape=plan.shape,
            num_models=len(plan.inputs),
            values=StoredValues(self.readers, plan, kept=kept),
            dtype=self.dtype,
            by_rows=self.method.by_rows,
            mapper=mapper,
        )
        merged = self.method.function(tensors, self._values(plan))
        has_base = plan.base is not None
        figures = Accumulator(plan.name, tuple(i.model for i in plan.inputs), has_base=has_base)

        def finish(span: slice) -> Partial:
            block = tensors.block(span)
            values_N = merged(block).to(plan.dtype)
            files.write_span(plan.name, span.start, values_N)
            return figures_of(block.stored, values_N, has_base=has_base)

        for part in mapper(finish, tensors.spans):
            figures.take(part)
        found = figures.figures()
        if not found.is_finite:
            raise ValuesNotFinite(
                f"{plan.name}: the merged values do not fit into {plan.dtype}. "
                "Choose a wider out_dtype, or smaller weights."
            )
        return found

    def _copy(self, plan: TensorPlan, source: Input, files: WeightFiles) -> TensorFigures:
        """As it is stored, whatever its type."""
        for start in range(0, plan.num_elements, COPY_ELEMENTS):
            span = slice(start, min(start + COPY_ELEMENTS, plan.num_elements))
            values_N = self.readers[source.model].read_span(source.tensor, span)
            files.write_span(plan.name, start, values_N)
        return TensorFigures(
            plan.name, plan.num_elements, (), False, ((0.0,),), 0.0, 0, 0, copied_from=source.model
        )

    def _values(self, plan: TensorPlan) -> dict[str, Any]:
        values: dict[str, Any] = {"random_seed": self.random_seed}
        for name, value in plan.values.items():
            many = isinstance(value, tuple)
            values[name] = torch.tensor(value, dtype=torch.float64) if many else value
        return values


class _Commit:
    """Journals tensors in groups: each costs a flush of the disk."""

    def __init__(self, files: WeightFiles, journal: Journal, limits: Limits) -> None:
        self._files, self._journal, self._limits = files, journal, limits
        self._waiting: dict[str, Any] = {}
        self._num_bytes, self._since = 0, time.monotonic()

    def add(self, plan: TensorPlan, figures: TensorFigures) -> None:
        self._waiting[plan.name] = figures.to_json()
        self._num_bytes += plan.num_elements * plan.dtype.itemsize
        is_late = time.monotonic() - self._since >= self._limits.commit_seconds
        if is_late or self._num_bytes >= self._limits.commit_bytes:
            self.now()

    def now(self) -> None:
        """Make durable what waits, then say so in the journal."""
        if self._waiting:
            self._files.sync(self._waiting)
            self._journal.record(self._waiting)
        self._waiting, self._num_bytes, self._since = {}, 0, time.monotonic()
