"""What a merge will do, from headers alone, and every reason why it cannot.

`plan_merge` compares names, shapes and types; `check_values` then reads all values once, so that a
NaN in the last tensor is known before the first one is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from crucible.errors import Problem
from crucible_components.merging.config import OutputDtype
from crucible_components.merging.topk import blocks
from crucible_components.models.weights import TensorInfo

MERGEABLE = (torch.float32, torch.bfloat16, torch.float16)
_OUT_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Weights(Protocol):
    """The part of `TensorReader` that a merge uses."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the merged model."""

    output: TensorInfo
    is_copy: bool
    """True for integer and boolean tensors, which must be equal in all models."""


@dataclass(frozen=True)
class MergePlan:
    """All tensors of the merged model in the base's file order, and what forbids the merge."""

    tensors: tuple[PlannedTensor, ...]
    problems: tuple[Problem, ...]


def plan_merge(sources: Sequence[Weights], base: Weights, dtype: OutputDtype) -> MergePlan:
    """Lay out the merged model; reads headers only."""
    problems: list[Problem] = []
    planned: list[PlannedTensor] = []
    for name, info in base.infos.items():
        found = _check_tensor(name, info, sources)
        if found:
            problems += found
            continue
        is_copy = info.dtype not in MERGEABLE
        out_dtype = info.dtype if is_copy else _OUT_DTYPES.get(dtype, info.dtype)
        planned.append(PlannedTensor(TensorInfo(name, out_dtype, info.shape), is_copy))
    for index, source in enumerate(sources):
        problems += [
            Problem(
                path=f"models[{index}].{name}",
                message="is not a tensor of the base.",
                fix="Merge only checkpoints that were fine-tuned from the base.",
            )
            for name in source.infos.keys() - base.infos.keys()
        ]
    if not problems and all(tensor.is_copy for tensor in planned):
        fix = "Give a model folder with trained weights."
        problems.append(Problem(path="base", message="holds no floating-point tensor.", fix=fix))
    return MergePlan(tuple(planned), tuple(sorted(problems, key=lambda p: p.path)))


def check_values(plan: MergePlan, sources: Sequence[Weights], base: Weights) -> list[Problem]:
    """Read every planned tensor of every model and name those whose values forbid the merge."""
    problems: list[Problem] = []
    for planned in plan.tensors:
        name = planned.output.name
        origin = base.read(name)
        if planned.is_copy:
            problems += [
                Problem(
                    path=f"models[{index}].{name}",
                    message=f"differs from the base, but {origin.dtype} cannot be merged.",
                    fix="Such a tensor must be equal in all models.",
                )
                for index, source in enumerate(sources)
                if not torch.equal(source.read(name), origin)
            ]
            continue
        labelled = [("base", origin)]
        labelled += [(f"models[{i}]", source.read(name)) for i, source in enumerate(sources)]
        for label, tensor in labelled:
            num_bad = _count_unrepresentable(tensor, planned.output.dtype)
            if num_bad:
                problems.append(_bad_values(f"{label}.{name}", num_bad, tensor, planned.output))
    return problems


def _check_tensor(name: str, info: TensorInfo, sources: Sequence[Weights]) -> list[Problem]:
    problems = []
    if info.dtype not in MERGEABLE and (info.dtype.is_floating_point or info.dtype.is_complex):
        problems.append(_unsupported(f"base.{name}", info.dtype))
    for index, source in enumerate(sources):
        path = f"models[{index}].{name}"
        other = source.infos.get(name)
        if other is None:
            fix = "Merge only checkpoints that hold every tensor of the base."
            problems.append(Problem(path=path, message="is missing.", fix=fix))
        elif other.shape != info.shape:
            message = f"has shape {list(other.shape)}, the base has {list(info.shape)}."
            fix = "Merge only checkpoints of one architecture and vocabulary."
            problems.append(Problem(path=path, message=message, fix=fix))
        elif (other.dtype in MERGEABLE) != (info.dtype in MERGEABLE):
            problems.append(_unsupported(path, other.dtype))
    return problems


def _unsupported(path: str, dtype: torch.dtype) -> Problem:
    return Problem(
        path=path,
        message=f"has type {dtype}, which cannot be merged.",
        fix="Store the weights as float32, bfloat16 or float16 first.",
    )


def _count_unrepresentable(tensor: Tensor, out_dtype: torch.dtype) -> int:
    """How many values are NaN or infinite, or become so in ``out_dtype``."""
    flat = tensor.reshape(-1)
    return sum(int((~flat[span].to(out_dtype).isfinite()).sum()) for span in blocks(flat.numel()))


def _bad_values(path: str, num_bad: int, tensor: Tensor, output: TensorInfo) -> Problem:
    return Problem(
        path=path,
        message=(
            f"{num_bad} of {tensor.numel()} values are NaN, infinite "
            f"or too large for {output.dtype}."
        ),
        fix="Repair or retrain that checkpoint, or choose a wider dtype.",
    )
