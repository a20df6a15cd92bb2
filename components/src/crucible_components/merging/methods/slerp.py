"""Interpolation along the arc between two models (Shoemake 1985)."""

from __future__ import annotations

import math

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

_MIN_NORM = 1e-8
_COLLINEAR = 0.9995


@merge_method("slerp", Parameter("t"), min_models=1, max_models=1)
def slerp(tensors: kernels.Tensors, values: Values) -> Merged:
    """``sin((1-t)Ω)/sin Ω · θ + sin(tΩ)/sin Ω · x``, Ω the angle between base θ and model x.

    A straight line where they are (anti)parallel beyond a cosine of 0.9995, as in mergekit.
    """
    t = float(values["t"])

    def products(block: kernels.Block) -> torch.Tensor:
        base_N, model_N = block.base_N.double(), block.models_KN[0].double()
        return torch.stack([base_N @ base_N, model_N @ model_N, base_N @ model_N])

    base, model, both = tensors.sum(products).tolist()
    norms = [math.sqrt(square) for square in (base, model)]
    cosine = both / math.prod(norm if norm > _MIN_NORM else 1.0 for norm in norms)
    share_base, share_model = _shares(t, cosine)

    def merged(block: kernels.Block) -> torch.Tensor:
        return share_base * block.base_N + share_model * block.models_KN[0]

    return merged


def _shares(t: float, cosine: float) -> tuple[float, float]:
    if abs(cosine) > _COLLINEAR:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
