"""Barycentric interpolation of any number of models on the sphere (C. Goddard, 2025)."""

from __future__ import annotations

import math

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


@merge_method(
    "multislerp",
    Parameter("weight", per_model=True),
    Parameter("normalize_weights", True),
    Parameter("eps", 1e-8, minimum=0.0),
    base="optional",
)
def multislerp(tensors: kernels.Tensors, values: Values) -> Merged:
    """Exponential map, at the weighted mean of the directions, of the mean tangent; × mean norm.

    All vectors lie in the span of the models, so everything follows from their scalar products.
    With a base, models are changes to it.

    Departs: a tensor that no model changed stays; mergekit ends the merge there.
    """
    from_base, eps = tensors.has_base, float(values["eps"])
    weights_K = values["weight"]
    if values["normalize_weights"]:
        weights_K = weights_K / weights_K.sum()
    if tensors.num_models == 1:
        return kernels.combination(torch.ones(1, 1), from_base=from_base)
    found = kernels.gram(tensors, from_base=from_base)
    norms_K = found.norms_GK[0]
    if not norms_K.any():
        return kernels.combination(weights_K[None], from_base=from_base)
    scale_K = 1 / (norms_K + eps)
    units_KK = found.products_GKK[0] * scale_K[:, None] * scale_K[None, :]
    mean_norm = math.sqrt(max(0.0, float(weights_K @ units_KK @ weights_K)))
    if mean_norm < eps:
        if tensors.num_models == 2:
            return kernels.combination(weights_K[None], from_base=from_base)
        raise ValueError("the weighted directions of the models cancel out. Change the weights.")
    mean_K = weights_K / mean_norm  # in terms of the unit vectors
    dots_K = units_KK @ mean_K
    tangent_K = weights_K - float(weights_K @ dots_K) * mean_K
    angle = math.sqrt(max(0.0, float(tangent_K @ units_KK @ tangent_K))) + eps
    point_K = mean_K * math.cos(angle) + tangent_K * (math.sin(angle) / angle)
    shares_K = point_K * scale_K * float(norms_K @ weights_K)
    return kernels.combination(shares_K[None], from_base=from_base)
