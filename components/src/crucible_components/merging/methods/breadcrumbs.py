"""Drop the largest changes as well as the smallest (Model Breadcrumbs, arXiv:2312.06795)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

_PARAMETERS = (
    Parameter("weight", per_model=True),
    Parameter("density", 1.0, per_model=True, minimum=0.0, maximum=1.0),
    Parameter("gamma", 0.01, per_model=True, minimum=0.0, maximum=1.0),
    Parameter("normalize", False),
    Parameter("lambda", 1.0),
    Parameter("rescale", False),
    Parameter("int8_mask", False),
)


@merge_method("breadcrumbs", *_PARAMETERS)
def breadcrumbs(tensors: kernels.Tensors, values: Values) -> Merged:
    """Without the ``gamma`` largest, the ``density`` next largest; then as task_arithmetic."""
    return _breadcrumbs(tensors, values, vote=False)


@merge_method("breadcrumbs_ties", *_PARAMETERS)
def breadcrumbs_ties(tensors: kernels.Tensors, values: Values) -> Merged:
    """Without the ``gamma`` largest, the ``density`` next largest; then vote as ties does."""
    return _breadcrumbs(tensors, values, vote=True)


def _breadcrumbs(tensors: kernels.Tensors, values: Values, *, vote: bool) -> Merged:
    rules = {"vote": vote, "normalize": values["normalize"], "scale": values["lambda"]}
    mask = _band(tensors, values["density"].tolist(), values["gamma"].tolist())
    factors_K = None
    if mask is not None and values["rescale"]:
        factors_K = kernels.kept_share_factors(tensors, mask)
    return kernels.add_up(values["weight"], **rules, mask=mask, factors_K=factors_K)


def _band(
    tensors: kernels.Tensors, densities: list[float], gammas: list[float]
) -> kernels.Mask | None:
    """Between the largest and the smallest; where both do not fit, the density comes first."""
    if min(densities) >= 1:
        return None
    total = tensors.num_elements
    kept = [total if d >= 1 else int(d * total) for d in densities]
    dropped = [min(int(g * total), total - k) for g, k in zip(gammas, kept, strict=True)]
    down_to = [d + k for d, k in zip(dropped, kept, strict=True)]

    def twice(block: kernels.Block) -> torch.Tensor:
        return kernels.sizes(block).repeat(2, 1)

    chosen = tensors.top(twice, [*down_to, *dropped])

    def mask(block: kernels.Block) -> torch.Tensor:
        down_to_KN, upper_KN = chosen(twice(block), block.start).chunk(2)
        return down_to_KN.sub_(upper_KN)

    return mask
