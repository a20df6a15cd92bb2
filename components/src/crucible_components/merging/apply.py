"""Carry out a merge plan: read one tensor of every model, merge it, write it, forget it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from crucible_components.merging.config import MergeMethod
from crucible_components.merging.divergence import Divergence, measure_divergence
from crucible_components.merging.plan import MergePlan, PlannedTensor, Weights
from crucible_components.merging.sce import merge_sce
from crucible_components.models.weights import TensorWriter

KERNELS = {"sce": merge_sce}
"""Kernel by the method's ``name``."""


@dataclass(frozen=True)
class MergedTensor:
    """What is kept of a merged tensor once its values are written."""

    name: str
    num_elements: int
    weights: tuple[float, ...]
    """Share of each source in the result; they sum to 1."""
    divergence: Divergence


def apply_merge(
    plan: MergePlan,
    sources: Sequence[Weights],
    base: Weights,
    *,
    method: MergeMethod,
    new_file: Callable[[str], Path],
    on_tensor: Callable[[int], None] = lambda num_done: None,
) -> list[MergedTensor]:
    """Write the merged weights and return one record per merged (not copied) tensor.

    Holds one tensor of each model at a time. An error leaves no file behind.

    Args:
        plan: a plan without problems, for these models.
        sources: readers of the sources.
        base: reader of the common ancestor.
        method: which kernel, and its parameters.
        new_file: turns an output file name into the path to write.
        on_tensor: called after each tensor with the number of tensors done.
    """
    records = []
    with TensorWriter(new_file, [planned.output for planned in plan.tensors]) as writer:
        for num_done, planned in enumerate(plan.tensors, start=1):
            name = planned.output.name
            origin = base.read(name)
            if planned.is_copy:
                writer.write(name, origin)
            else:
                values = [source.read(name) for source in sources]
                merged, record = _merge_tensor(planned, values, origin, method)
                writer.write(name, merged)
                records.append(record)
            on_tensor(num_done)
    return records


def _merge_tensor(
    planned: PlannedTensor, values: Sequence[Tensor], origin: Tensor, method: MergeMethod
) -> tuple[Tensor, MergedTensor]:
    output = planned.output
    merged = KERNELS[method.name](values, origin, method, out_dtype=output.dtype)
    divergence = measure_divergence(values, origin)
    record = MergedTensor(output.name, origin.numel(), merged.weights, divergence)
    return merged.tensor, record
