"""A model whose embeddings have the rows of the result: permuted, filled and averaged on reading.

Only elements that are asked for are read, neighbouring rows at once; nothing is kept but the mean
row of each tensor, where rows are padded with it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from crucible.errors import Problem
from crucible_components.merging.vocabulary.embeddings import counterpart, num_columns
from crucible_components.merging.vocabulary.rows import AVERAGE, MEAN, ZEROS, RowPlans, Run
from crucible_components.models.weights import Reader, TensorInfo

_MEAN_ELEMENTS = 1 << 20
"""Read at a time for the mean row."""


class PermutedReader:
    """Reads as `TensorReader` does; tensors that are no embeddings are read as they are.

    Args:
        readers: of all models that the plan names.
        model: the one to read.
        rows: where rows come from.
        tensors: names of embeddings by model.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        model: str,
        *,
        rows: RowPlans,
        tensors: Mapping[str, Collection[str]],
    ) -> None:
        self._own = readers[model]
        self._readers = [readers[each] for each in rows.models]
        self._rows, self._plan = rows, rows.plans[rows.index(model)]
        self._names = {
            name: [counterpart(name, tensors[each]) for each in rows.models]
            for name in tensors[model]
        }
        self._means: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        self.infos: Mapping[str, TensorInfo] = resized(
            self._own.infos, tensors[model], rows.num_rows
        )

    def read_span(self, name: str, span: slice) -> Tensor:
        """The elements ``span`` of the flat tensor; several threads may read at once."""
        if name not in self._names:
            return self._own.read_span(name, span)
        info = self.infos[name]
        width = num_columns(info)
        runs = list(self._plan.runs(span.start // width, -(-span.stop // width)))
        if len(runs) == 1:
            return self._part(info, runs[0], span).to(info.dtype)
        values_N = torch.empty(span.stop - span.start, dtype=info.dtype)
        for run in runs:
            start, stop = max(run.start * width, span.start), min(run.stop * width, span.stop)
            part_N = values_N[start - span.start : stop - span.start]
            part_N.copy_(self._part(info, run, slice(start, stop)))
        return values_N

    def _part(self, info: TensorInfo, run: Run, span: slice) -> Tensor:
        """The elements ``span`` of the result, all within ``run``."""
        size = span.stop - span.start
        if run.donor == ZEROS:
            return torch.zeros(size)
        if run.donor == MEAN:
            width = num_columns(info)
            mean_C = self._mean(info)
            return mean_C[torch.arange(span.start, span.stop) % width]
        if run.donor == AVERAGE:
            total_N = torch.zeros(size)
            rows_M = self._rows.owned_MV[:, run.start]
            owners = [(donor, int(row)) for donor, row in enumerate(rows_M) if row >= 0]
            for donor, row in owners:
                total_N += self._donated(info, donor, row - run.start, span).float()
            return total_N.div_(len(owners))
        return self._donated(info, run.donor, run.row - run.start, span)

    def _donated(self, info: TensorInfo, donor: int, num_rows: int, span: slice) -> Tensor:
        """What stands in a model ``num_rows`` rows after ``span``."""
        name = self._names[info.name][donor]
        assert name is not None, "the plan has checked it"
        shift = num_rows * num_columns(info)
        return self._readers[donor].read_span(name, slice(span.start + shift, span.stop + shift))

    def _mean(self, info: TensorInfo) -> Tensor:
        """The mean of the rows of tokens."""
        with self._lock:
            if info.name not in self._means:
                width, num_ids = num_columns(info), self._rows.num_ids
                total_C = torch.zeros(width, dtype=torch.float64)
                step = max(1, _MEAN_ELEMENTS // width)
                for first in range(0, num_ids, step):
                    last = min(num_ids, first + step)
                    values_N = self.read_span(info.name, slice(first * width, last * width))
                    total_C += values_N.double().view(-1, width).sum(dim=0)
                self._means[info.name] = (total_C / num_ids).to(info.dtype)
            return self._means[info.name]


def resized(
    infos: Mapping[str, TensorInfo], names: Collection[str], num_rows: int
) -> dict[str, TensorInfo]:
    """``infos`` with as many rows as the result has."""
    return {
        name: replace(info, shape=(num_rows, *info.shape[1:])) if name in names else info
        for name, info in infos.items()
    }


def check_columns(
    rows: RowPlans,
    tensors: Mapping[str, Collection[str]],
    infos: Mapping[str, Mapping[str, TensorInfo]],
) -> list[Problem]:
    """Rows that a plan takes from models that lack the tensor, or whose rows are not as long."""
    problems = []
    for model, plan in zip(rows.models, rows.plans, strict=True):
        donors = set(plan.donors_V.tolist())
        others = rows.models if AVERAGE in donors else [rows.models[d] for d in donors if d >= 0]
        for name in sorted(tensors[model]):
            width = num_columns(infos[model][name])
            for donor in others:
                other = counterpart(name, tensors[donor])
                if other is None:
                    message = f"is missing; {model} takes rows from it."
                elif (found := num_columns(infos[donor][other])) != width:
                    message = (
                        f"has rows of {found} elements; {model} takes rows of {width} from it."
                    )
                else:
                    continue
                problems.append(Problem(f"{donor}.{other or name}", message, "Merge like models."))
    return problems
