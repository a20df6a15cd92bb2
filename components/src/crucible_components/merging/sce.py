"""The SCE kernel: one merged tensor from K sources and their common base.

Works block by block, so that beyond its arguments and the result it holds only one variance and
one mask of the tensor's size (none at ``select_topk`` 1). Pure: no files, no names.

Legend: K sources, N elements of one block.

Source: FuseChat, arXiv:2408.07990v2, section "SCE", and the two public implementations that depart
from it (variants R and U). Departs: float32 with one rounding where both codes use bfloat16;
elements on which all sources agree are taken over unchanged; U falls back to equal weights when
the changes are lost in float32 noise relative to the base (`NOISE_FRACTION`), not below an
absolute 1e-6, which light fine-tuning always undercuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crucible_components.merging.config import SceMethod
from crucible_components.merging.topk import blocks, top_k_mask

NOISE_FRACTION = 2.0**-24
"""Changes whose root mean square is below this share of the base's carry no weight information."""
_MIN_DIVISOR = 1e-6


@dataclass(frozen=True)
class SceMerge:
    """One merged tensor and how much each source counted in it."""

    tensor: Tensor
    weights: tuple[float, ...]
    """η of each source; they sum to 1."""


def merge_sce(
    tensors: Sequence[Tensor],
    base: Tensor,
    settings: SceMethod,
    *,
    out_dtype: torch.dtype | None = None,
) -> SceMerge:
    """Merge ``tensors`` over ``base``, rounded once to ``out_dtype`` (default: the base's).

    Args:
        tensors: at least one source, each of the base's shape; finite; any mix of float32,
            bfloat16 and float16.
        base: the common ancestor.
        settings: selection and variant.
        out_dtype: type of the result.
    """
    sources = [tensor.reshape(-1) for tensor in tensors]
    origin = base.reshape(-1)
    selected = _select(sources, settings.select_topk)
    weights = _calculate(sources, origin, selected, settings)
    merged = torch.empty(origin.numel(), dtype=out_dtype or base.dtype)
    mask = None if settings.variant == "R" else selected
    for span in blocks(origin.numel()):
        block_mask = None if mask is None else mask[span]
        parts = [source[span] for source in sources]
        merged[span] = _erase_and_merge(
            parts, origin[span], block_mask, weights.float(), settings.variant
        )
    return SceMerge(merged.view(base.shape), tuple(weights.tolist()))


def deltas_of(sources: Sequence[Tensor], origin: Tensor) -> Tensor:
    """What each source changed, [K, N] in float32."""
    return torch.stack([source.float() for source in sources]) - origin.float()


def _select(sources: Sequence[Tensor], select_topk: float) -> Tensor | None:
    """Mask of the elements that vary most between sources; None selects every element."""
    if select_topk == 1.0:
        return None
    variance = torch.empty(sources[0].numel(), dtype=torch.float32)
    for span in blocks(variance.numel()):
        # The base cancels out; measured from the first source, equal sources vary by exactly 0.
        first = sources[0][span].double()
        spread_KN = torch.stack([source[span].double() - first for source in sources])
        variance[span] = (spread_KN - spread_KN.mean(dim=0)).square_().mean(dim=0)
    return top_k_mask(variance, int(select_topk * int(torch.count_nonzero(variance))))


def _calculate(
    sources: Sequence[Tensor], origin: Tensor, selected: Tensor | None, settings: SceMethod
) -> Tensor:
    """η, [K] in float64: each source's share of the squared change at the selected elements."""
    energy_K = torch.zeros(len(sources), dtype=torch.float64)
    base_energy = 0.0
    for span in blocks(origin.numel()):
        deltas_KN = deltas_of([source[span] for source in sources], origin[span])
        if selected is not None:
            deltas_KN *= selected[span]
        energy_K += deltas_KN.double().square().sum(dim=1)
        base_energy += float(origin[span].double().square().sum())
    total = float(energy_K.sum())
    noise = NOISE_FRACTION**2 * len(sources) * base_energy if settings.variant == "U" else 0.0
    if total <= noise:
        return torch.full_like(energy_K, 1 / len(sources))
    return energy_K / total


def _erase_and_merge(
    parts: Sequence[Tensor], origin: Tensor, mask: Tensor | None, weights_K: Tensor, variant: str
) -> Tensor:
    """The merged block, [N] in float32."""
    base_N = origin.float()
    parts_KN = torch.stack([part.float() for part in parts])
    deltas_KN = parts_KN - base_N
    kept_KN = deltas_KN if mask is None else deltas_KN * mask
    # Float64, so that the elected sign does not hang on the order of the sources.
    positive_N = kept_KN.sum(dim=0, dtype=torch.float64) >= 0
    agrees_KN = torch.where(positive_N, kept_KN > 0, kept_KN < 0)
    shares_KN = weights_K[:, None] * agrees_KN
    change_N = (shares_KN * kept_KN).sum(dim=0)
    if variant != "P":
        divisor_N = shares_KN.sum(dim=0)
        if variant == "U":
            divisor_N = divisor_N.clamp_min(_MIN_DIVISOR)
        change_N = torch.where(divisor_N > 0, change_N / divisor_N, 0.0)
    unanimous_N = (parts_KN == parts_KN[0]).all(dim=0)
    if mask is not None:
        unanimous_N &= mask | (deltas_KN[0] == 0)
    return torch.where(unanimous_N, parts_KN[0], base_N + change_N)
