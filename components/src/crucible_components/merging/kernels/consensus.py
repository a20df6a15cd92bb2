"""Task arithmetic: changes to the base, thinned out, weighted and added, with or without a vote.

Legend: K models, N elements of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crucible_components.merging.kernels.block import Block
from crucible_components.merging.kernels.elementwise import add_changes, add_majority, norms
from crucible_components.merging.kernels.tensors import Tensors

Mask = Callable[[Block], Tensor]
"""[K, N]: 1 for changes that are kept, else 0."""
_NO_DIVISOR = 1e-8
_NO_CHANGE = 1e-7


def kept_share_factors(tensors: Tensors, mask: Mask) -> Tensor:
    """What gives each model's kept changes the L1 norm that all of them had, [K] float64."""
    before_K, after_K = tensors.sum(lambda block: norms(block, mask(block)))
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
    total_weight, ones = sum(weights), [1.0] * len(weights)
    scaled = (weights_K if factors_K is None else weights_K * factors_K).tolist()

    def merged(block: Block) -> Tensor:
        mask_KN = None if mask is None else mask(block)
        if vote:
            change_N, divisor_N = add_majority(
                block, votes=scaled, factors=ones, weights=weights, mask_SN=mask_KN
            )
            if normalize:
                divisor_N += torch.eq(divisor_N, 0, out=torch.empty_like(divisor_N))
                change_N /= divisor_N
        else:
            change_N = add_changes(block, scaled, mask_KN)
            if normalize and abs(total_weight) >= _NO_DIVISOR:
                change_N /= total_weight
        if scale != 1:
            change_N *= scale
        return change_N.add_(block.base_N)

    return merged
