"""Tensors from memory, and a method applied to them: for tests of methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from crucible_components.merging.kernels import Rows
from crucible_components.merging.kernels.tensors import Mapper, Tensors, in_turn
from crucible_components.merging.methods import METHODS


@dataclass(frozen=True)
class FolderFiles:
    """A folder as a source of files, as artifacts are."""

    path: Path

    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*")))

    def open(self, path: str) -> BinaryIO:
        return (self.path / path).open("rb")


@dataclass(frozen=True)
class InMemory:
    """Implements `Values`."""

    whole_MT: Tensor
    has_base: bool

    def rows(self, span: slice) -> Rows:
        return Rows(self.whole_MT, span.start)

    def check(self, span: slice) -> None:
        assert torch.isfinite(self.whole_MT[:, span]).all()


def in_memory(models: Sequence[Tensor], base: Tensor | None, **fields: Any) -> Tensors:
    """One tensor of models that are here."""
    every = [*models, *([] if base is None else [base])]
    whole_MT = torch.stack([each.flatten() for each in every])
    if whole_MT.dtype != torch.bfloat16:
        whole_MT = whole_MT.float()
    values = InMemory(whole_MT, base is not None)
    return Tensors("layer.weight", tuple(models[0].shape), len(models), values, **fields)


def merge(
    name: str,
    models: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    mapper: Mapper = in_turn,
    random_seed: int = 0,
    **given: Any,
) -> Tensor:
    """The merged tensor; a parameter per model may be given once for all."""
    method = METHODS[name]
    tensors = replace(in_memory(models, base), dtype=dtype, mapper=mapper, by_rows=method.by_rows)
    values: dict[str, Any] = {"random_seed": random_seed}
    for parameter in method.parameters:
        value = given.pop(parameter.name, parameter.default)
        if value is None:
            continue
        if parameter.per_model:
            many = value if isinstance(value, (list, tuple)) else [value] * len(models)
            value = torch.tensor(many, dtype=torch.float64)
        values[parameter.name] = value
    assert not given, f"{name} has no {sorted(given)}"
    merged = method.function(tensors, values)
    parts = list(mapper(lambda span: merged(tensors.block(span)), tensors.spans))
    return torch.cat(parts).reshape(models[0].shape)
