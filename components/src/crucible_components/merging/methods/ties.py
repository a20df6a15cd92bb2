"""Trim, elect sign, merge (arXiv:2306.01708)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


@merge_method(
    "ties",
    Parameter("weight", per_model=True),
    Parameter("density", 1.0, per_model=True, minimum=0.0, maximum=1.0),
    Parameter("normalize", True),
    Parameter("lambda", 1.0),
    Parameter("rescale", False),
    Parameter("int8_mask", False),
)
def ties(tensors: kernels.Tensors, values: Values) -> Merged:
    """Trim, elect sign, merge.

    Keep each model's ``density`` largest changes; add up those that agree with the sign of
    ``Σ w δ``, divided by their weights if ``normalize``.

    ``rescale`` gives the kept changes the L1 norm that all had. ``int8_mask`` changes nothing: no
    mask is held. Of changes of equal size those that come first are kept.
    """
    mask = largest_changes(tensors, values["density"].tolist())
    factors_K = None
    if mask is not None and values["rescale"]:
        factors_K = kernels.kept_share_factors(tensors, mask)
    return kernels.add_up(
        values["weight"],
        vote=True,
        normalize=values["normalize"],
        scale=values["lambda"],
        mask=mask,
        factors_K=factors_K,
    )


def largest_changes(tensors: kernels.Tensors, densities: list[float]) -> kernels.Mask | None:
    """The mask of each model's largest changes; at least one where the density is not 0."""
    if min(densities) >= 1:
        return None
    total = tensors.num_elements
    counts = [max(1, int(d * total)) if 0 < d < 1 else round(d) * total for d in densities]
    chosen = tensors.top(kernels.sizes, counts)
    return lambda block: chosen(kernels.sizes(block), block.start)
