"""One model's tensors as they are: for models stacked from layers of others."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


@merge_method(
    "passthrough", Parameter("scale", per_model=True, is_optional=True), base="none", max_models=1
)
def passthrough(tensors: kernels.Tensors, values: Values) -> Merged:
    """``x``, or ``scale · x``."""
    scale = values.get("scale")

    def merged(block: kernels.Block) -> torch.Tensor:
        model_N = block.models_KN[0]
        return model_N if scale is None else model_N * float(scale[0])

    return merged
