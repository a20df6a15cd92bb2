"""The loops as functions of blocks and tensors.

Legend: K models, M rows: the models, then the base; N elements of a block, S mask rows: 1 for all
models or K; R rows and C columns where N = R·C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crucible_components.merging.kernels import change_loops, selection_loops
from crucible_components.merging.kernels.block import Block, Rows

_NO_MASK = np.empty((0, 0), np.float32)


def array(stored: Tensor) -> NDArray[Any]:
    """As the loops take it: the bits of bfloat16, all other types as float32."""
    if stored.dtype == torch.bfloat16:
        return stored.contiguous().view(torch.uint16).numpy()
    return stored.float().contiguous().numpy()


def _block(rows: Rows) -> tuple[NDArray[Any], int]:
    return array(rows.whole_MT), rows.offset


def _mask(mask_SN: Tensor | None) -> NDArray[np.float32]:
    return _NO_MASK if mask_SN is None else mask_SN.contiguous().numpy()


def _factors(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def is_finite(rows: Rows, length: int) -> bool:
    """Whether NaN or infinity is surely not among them; sums that overflow count as if it was."""
    if rows.whole_MT.dtype == torch.bfloat16:
        return bool(change_loops.all_finite(*_block(rows), length))
    return bool(torch.isfinite(rows.whole_MT[:, rows.offset : rows.offset + length].sum()))


def weighted_sum(block: Block, weights: Sequence[float]) -> Tensor:
    """``Σ weights · models``, [N]."""
    total_N = torch.empty(block.num_elements)
    rows = _block(block.stored.first(block.num_models))
    change_loops.weighted_sum(*rows, _factors(weights), total_N.numpy())
    return total_N.to(block.dtype)


def variance(block: Block) -> Tensor:
    """Over the models, [N] float32; exactly 0 where all models are equal.

    Float64 within makes it exact for 16-bit models: what is equal ties, whatever the order.
    """
    found_N = torch.empty(block.num_elements)
    change_loops.variance(*_block(block.stored.first(block.num_models)), found_N.numpy())
    return found_N


def sizes(block: Block) -> Tensor:
    """|δ|, [K, N] float32."""
    found_KN = torch.empty(block.num_models, block.num_elements)
    change_loops.sizes(*_block(block.changes), found_KN.numpy())
    return found_KN


def energies(block: Block, mask_SN: Tensor | None) -> Tensor:
    """``Σ δ²`` of each model over the mask, then ``Σ θ²`` of the base, [K + 1] float64."""
    found_M = change_loops.energies(*_block(block.changes), block.num_elements, _mask(mask_SN))
    if block.dtype != torch.float32:
        found_M[-1] = float(block.base_N.double().square().sum())
    return torch.from_numpy(found_M)


def norms(block: Block, mask_SN: Tensor) -> Tensor:
    """``Σ |δ|`` of each model over all elements, then over the mask, [2, K] float64."""
    return torch.from_numpy(change_loops.norms(*_block(block.changes), _mask(mask_SN)))


def add_changes(block: Block, factors: Sequence[float], mask_SN: Tensor | None = None) -> Tensor:
    """``Σ factors · δ`` over the mask, [N]."""
    change_N = torch.empty(block.num_elements)
    change_loops.add_changes(
        *_block(block.changes), _mask(mask_SN), _factors(factors), change_N.numpy()
    )
    return change_N.to(block.dtype)


def add_majority(
    block: Block,
    *,
    votes: Sequence[float],
    factors: Sequence[float],
    weights: Sequence[float],
    mask_SN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``Σ factors · votes · δ`` and ``Σ weights`` of the models with the majority's sign, [N] each.

    That is the sign of ``Σ votes · δ``, + where it is 0. What the mask leaves out has no part.
    """
    sums_2N = torch.empty(2, block.num_elements)
    rules_3K = np.array([votes, factors, weights], np.float32)
    change_loops.add_majority(*_block(block.changes), _mask(mask_SN), rules_3K, sums_2N.numpy())
    change_N, weight_N = sums_2N.to(block.dtype)
    return change_N, weight_N


def take_agreed(block: Block, merged_N: Tensor, *, with_base: bool) -> Tensor:
    """``merged_N``, but what is stored where all models have it, to the bit; the base too?"""
    rows = block.stored if with_base else block.stored.first(block.num_models)
    values_N = merged_N.float().contiguous()
    change_loops.take_agreed(*_block(rows), values_N.numpy())
    return values_N.to(merged_N.dtype)


def row_ranks(keys: Tensor) -> Tensor:
    """The place of each key in its row, ascending, equal ones as they come; [..., C] int32."""
    keys_RC = keys.float().reshape(-1, keys.shape[-1]).contiguous()
    ranks_RC = torch.empty(keys_RC.shape, dtype=torch.int32)
    selection_loops.row_ranks(keys_RC.numpy(), ranks_RC.numpy())
    return ranks_RC.view(keys.shape)
