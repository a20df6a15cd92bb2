"""Task arithmetic: changes to the base, thinned out, weighted and added, with or without a vote.

Legend: K models, N elements of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crucible_components.merging.kernels.block import Block
from crucible_components.merging.kernels.tensors import Tensors

Mask = Callable[[Block], Tensor]
"""[K, N]: 1 for changes that are kept, else 0."""
_NO_DIVISOR = 1e-8
_NO_CHANGE = 1e-7


def kept_share_factors(tensors: Tensors, mask: Mask) -> Tensor:
    """What gives each model's kept changes the L1 norm that all of them had, [K] float64."""

    def norms(block: Block) -> Tensor:
        size_KN = block.deltas_KN.abs().float()
        before_K = size_KN.sum(dim=1, dtype=torch.float64)
        return torch.stack([before_K, size_KN.mul_(mask(block)).sum(dim=1, dtype=torch.float64)])

    before_K, after_K = tensors.sum(norms)
    is_tiny_K = (before_K < _NO_CHANGE) | (after_K < _NO_CHANGE)
    return torch.where(is_tiny_K, 1.0, before_K / after_K.clamp_min(_NO_CHANGE))


def add_up(
    weights_K: Tensor,
    *,
    vote: bool,
    normalize: bool,
    scale: float,
    mask: Mask | None = None,
    factors_K: Tensor | None = None,
) -> Callable[[Block], Tensor]:
    """``base + scale · Σ w δ [/ Σ w]``, per element over the models that count there.

    Args:
        weights_K: of the models.
        vote: count only models that agree with the sign of ``Σ w δ``, which is + where it is 0.
        normalize: divide by the weights that counted.
        scale: of the sum; mergekit's ``lambda``.
        mask: which changes are there at all.
        factors_K: of the changes that are.
    """
    weights = weights_K.tolist()
    total_weight = sum(weights)

    def merged(block: Block) -> Tensor:
        weighted_KN = _weighted(block, weights_K, mask, factors_K)
        if vote:
            change_N, divisor_N = _of_majority(weighted_KN, weights)
        else:
            change_N, divisor_N = weighted_KN.sum(dim=0), None
        if normalize and divisor_N is not None:
            change_N /= divisor_N
        elif normalize and abs(total_weight) >= _NO_DIVISOR:
            change_N /= total_weight
        if scale != 1:
            change_N *= scale
        return change_N.add_(block.base_N)

    return merged


def _weighted(
    block: Block, weights_K: Tensor, mask: Mask | None, factors_K: Tensor | None
) -> Tensor:
    """``w δ``, [K, N]; the caller's own."""
    deltas_KN = block.deltas_KN
    dtype = deltas_KN.dtype
    kept_KN = deltas_KN if mask is None else deltas_KN * mask(block).to(dtype)
    if factors_K is not None:
        kept_KN = kept_KN * factors_K.to(dtype)[:, None]
    return kept_KN * weights_K.to(dtype)[:, None]


def _of_majority(weighted_KN: Tensor, weights: list[float]) -> tuple[Tensor, Tensor]:
    """The sum of those that have the sign of ``Σ w δ``, and of their weights (1 if that is 0).

    Multiplied by that sign, those that agree are the positive ones.
    """
    total_N = weighted_KN.sum(dim=0)
    sign_N = torch.ge(total_N, 0, out=torch.empty_like(total_N)).mul_(2).sub_(1)
    change_N, divisor_N = torch.zeros_like(total_N), torch.zeros_like(total_N)
    counts_N = torch.empty_like(total_N)
    for weighted_N, weight in zip(weighted_KN, weights, strict=True):
        weighted_N *= sign_N
        torch.gt(weighted_N, 0, out=counts_N)
        divisor_N += counts_N.mul_(weight)
        change_N += weighted_N.clamp_min_(0)
    divisor_N += torch.eq(divisor_N, 0, out=counts_N)
    return change_N.mul_(sign_N), divisor_N
