"""How far from the base to the mean, by the angle between changes (arXiv:2403.19522)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

_MIN_NORM_PRODUCT = 1e-6
_SINGULAR = 1e-6


@merge_method("model_stock", Parameter("filter_wise", False), min_models=2, by_rows=True)
def model_stock(tensors: kernels.Tensors, values: Values) -> Merged:
    """``t · mean(x) + (1-t) · θ``, ``t = N c / (1 + (N-1) c)``, c the mean pairwise cosine.

    Over the tensor as a whole, or by rows if ``filter_wise``. Changes that oppose each other so
    much that t has no finite value leave the base as it is, as in mergekit.
    """
    grouping: kernels.Grouping = "rows" if values["filter_wise"] else "tensor"
    found = kernels.gram(tensors, from_base=True, grouping=grouping)
    norms_GK, count = found.norms_GK, tensors.num_models
    cosines_GKK = found.products_GKK / (norms_GK[:, :, None] * norms_GK[:, None, :]).clamp_min(
        _MIN_NORM_PRODUCT
    )
    first, second = torch.triu_indices(count, count, offset=1)
    cosine_G = cosines_GKK[:, first, second].clamp(-1, 1).mean(dim=1)
    divisor_G = 1 + (count - 1) * cosine_G
    is_singular_G = divisor_G.abs() < _SINGULAR
    t_G = torch.where(is_singular_G, 0.0, count * cosine_G / divisor_G)
    shares_GK = (t_G / count)[:, None].expand(-1, count)
    return kernels.combination(shares_GK, from_base=True, grouping=grouping)
