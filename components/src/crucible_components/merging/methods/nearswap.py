"""Take over what hardly differs, and little of what differs much (alchemonaut, 2024)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

_MIN_DIFFERENCE = 1e-6


@merge_method("nearswap", Parameter("t"), max_models=1)
def nearswap(tensors: kernels.Tensors, values: Values) -> Merged:
    """``ω x + (1-ω) θ`` with ``ω = min(1, t / |θ - x|)`` per element."""
    t = float(values["t"])

    def merged(block: kernels.Block) -> torch.Tensor:
        model_N = block.models_KN[0]
        difference_N = (block.base_N - model_N).abs().clamp_min(_MIN_DIFFERENCE)
        weight_N = (t / difference_N).clamp(0, 1)
        return weight_N * model_N + (1 - weight_N) * block.base_N

    return merged
