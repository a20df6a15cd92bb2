"""Figures of tensors built in code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crucible_components.merging.kernels import Rows
from crucible_components.merging.reporting import Accumulator, TensorFigures

Gather = Callable[..., TensorFigures]


@pytest.fixture
def gather() -> Gather:
    """The figures of one tensor given whole; sources are called a, b, c unless told."""

    def gather(
        models_KN: Tensor,
        origin_N: Tensor | None,
        merged_N: Tensor,
        *,
        name: str = "model.layers.0.mlp.up_proj.weight",
        sources: tuple[str, ...] | None = None,
        copied_from: str | None = None,
    ) -> TensorFigures:
        names = sources or tuple("abcdef"[: len(models_KN)])
        accumulator = Accumulator(name, names, has_base=origin_N is not None)
        rows = [models_KN, *([] if origin_N is None else [origin_N[None]])]
        accumulator.add(Rows(torch.cat(rows), 0), merged_N)
        return accumulator.figures(copied_from=copied_from)

    return gather


@pytest.fixture
def orthogonal() -> Callable[..., Tensor]:
    """``[K, N]`` changes of norm 1 at right angles, from a seed."""

    def orthogonal(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        random_NK = torch.randn(64, count, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(random_NK)[0].T.contiguous().to(dtype)

    return orthogonal
