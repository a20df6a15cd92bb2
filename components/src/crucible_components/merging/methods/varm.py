"""Weights from how much each model changed: the variation ratio (FuseChat 1, arXiv:2402.16107)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


@merge_method("varm", Parameter("statistic", "square", choices=("square", "abs")))
def varm(tensors: kernels.Tensors, values: Values) -> Merged:
    """``θ + Σ w δ``, ``w = E[δ²] / Σ E[δ²]`` per tensor (section 3.3); equal if nothing changed.

    Departs: every model is compared with the base, as the paper says. The released script reads one
    statistic for all models, so that its weights come out equal.
    """

    def statistic(block: kernels.Block) -> torch.Tensor:
        deltas_KN = block.deltas_KN.double()
        sized_KN = deltas_KN.square() if values["statistic"] == "square" else deltas_KN.abs()
        return sized_KN.sum(dim=1)

    sums_K = tensors.sum(statistic)
    weights_K = torch.full_like(sums_K, 1 / tensors.num_models)
    if bool((sums_K > 0).all()):
        weights_K = sums_K / sums_K.sum()
    return kernels.combination(weights_K[None], from_base=True)
