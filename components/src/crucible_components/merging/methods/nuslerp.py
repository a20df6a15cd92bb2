"""Interpolation along the arc with weights, of models or of their changes, whole or by rows."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

_MIN_NORM = 1e-7
_MIN_SINE = 1e-8
_NO_WEIGHT = 1e-6


@merge_method(
    "nuslerp",
    Parameter("weight", per_model=True),
    Parameter("nuslerp_flatten", True),
    Parameter("nuslerp_row_wise", False),
    base="optional",
    min_models=2,
    max_models=2,
    by_rows=True,
)
def nuslerp(tensors: kernels.Tensors, values: Values) -> Merged:
    """``(sin((1-t)Ω) a + sin(tΩ) b) / sin Ω`` with ``t = w_b / (w_a + w_b)``, 0.5 if that sum is 0.

    Over the flattened tensor; else, as mergekit has it, over rows, or over columns if
    ``nuslerp_row_wise``. With a base, a and b are changes to it. A straight line where collinear.
    """
    weight_a, weight_b = values["weight"].tolist()
    total = weight_a + weight_b
    t = 0.5 if abs(total) < _NO_WEIGHT else weight_b / total
    grouping: kernels.Grouping = "rows"
    if values["nuslerp_flatten"]:
        grouping = "tensor"
    elif values["nuslerp_row_wise"] and len(tensors.shape) > 1:
        grouping = "columns"
    found = kernels.gram(tensors, from_base=tensors.has_base, grouping=grouping)
    norm_a, norm_b = found.norms_GK.clamp_min(_MIN_NORM).unbind(dim=1)
    cosine_G = (found.products_GKK[:, 0, 1] / (norm_a * norm_b)).clamp(-1, 1)
    angle_G = torch.acos(cosine_G)
    sine_G = torch.sin(angle_G)
    arc_GK = torch.stack([torch.sin((1 - t) * angle_G), torch.sin(t * angle_G)], dim=1)
    line_K = torch.tensor([1 - t, t], dtype=torch.float64)
    is_line_G = (1 - cosine_G.square()) <= _MIN_SINE**2
    shares_GK = torch.where(is_line_G[:, None], line_K, arc_GK / sine_G[:, None])
    return kernels.combination(shares_GK, from_base=tensors.has_base, grouping=grouping)
