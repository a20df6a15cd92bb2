"""Methods on the sphere see tensors by their scalar products alone: one pass over the data.

Whatever they compute is a combination of the models (or of their changes), whose coefficients
follow from norms and products of whole tensors, of rows, or of columns.

Legend: K models, G groups: 1 for the tensor as a whole, R rows or C columns; N elements of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crucible_components.merging.kernels.block import Block
from crucible_components.merging.kernels.tensors import Tensors

Grouping = Literal["tensor", "rows", "columns"]


@dataclass(frozen=True)
class Gram:
    """Scalar products of the models' vectors, or of their changes where the origin is the base."""

    products_GKK: Tensor
    """Float64."""
    from_base: bool

    @property
    def norms_GK(self) -> Tensor:
        return self.products_GKK.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()


def gram(tensors: Tensors, *, from_base: bool, grouping: Grouping = "tensor") -> Gram:
    """All scalar products, in one pass; ``rows`` and ``columns`` need blocks of whole rows."""

    def products(block: Block) -> Tensor:
        vectors_KN = (block.deltas_KN if from_base else block.models_KN).double()
        if grouping == "tensor":
            return (vectors_KN @ vectors_KN.T)[None]
        vectors_KRC = block.rows(vectors_KN)
        if grouping == "columns":
            return torch.einsum("krc,lrc->ckl", vectors_KRC, vectors_KRC)
        return torch.einsum("krc,lrc->rkl", vectors_KRC, vectors_KRC)

    collect = tensors.cat if grouping == "rows" else tensors.sum
    return Gram(collect(products), from_base)


def combination(
    coefficients_GK: Tensor, *, from_base: bool, grouping: Grouping = "tensor"
) -> Callable[[Block], Tensor]:
    """What adds the models up by coefficients, the base included where changes are meant."""

    def merged(block: Block) -> Tensor:
        vectors_KN = block.deltas_KN if from_base else block.models_KN
        weights = coefficients_GK.to(vectors_KN.dtype)
        if grouping == "tensor":
            mixed_N = (weights[0, :, None] * vectors_KN).sum(dim=0)
        else:
            weights_KRC = weights.T[:, None, :]
            if grouping == "rows":
                first = block.start // block.num_columns
                num_rows = vectors_KN.shape[-1] // block.num_columns
                weights_KRC = weights[first : first + num_rows].T[:, :, None]
            mixed_N = (weights_KRC * block.rows(vectors_KN)).sum(dim=0).flatten()
        return block.base_N + mixed_N if from_base else mixed_N

    return merged
