"""Weighted sum of changes (arXiv:2212.04089)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


@merge_method(
    "task_arithmetic",
    Parameter("weight", per_model=True),
    Parameter("normalize", False),
    Parameter("lambda", 1.0),
)
def task_arithmetic(tensors: kernels.Tensors, values: Values) -> Merged:
    """``θ + λ Σ w δ``, divided by ``Σ w`` if ``normalize``."""
    return kernels.add_up(
        values["weight"], vote=False, normalize=values["normalize"], scale=values["lambda"]
    )
