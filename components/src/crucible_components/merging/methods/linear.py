"""Weighted average of parameters (model soups, arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_components.merging.lazy import kernels
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


def _check(values: Mapping[str, Any]) -> str | None:
    if values["normalize"] and sum(values["weight"]) == 0:
        return "have weights that sum to 0 and are to be normalised."
    return None


@merge_method("linear", Parameter("weight", per_model=True), Parameter("normalize", True),
              base="none", check=_check)  # fmt: skip
def linear(tensors: kernels.Tensors, values: Values) -> Merged:
    """``Σ w x``, divided by ``Σ w`` if ``normalize``.

    Departs: weights that sum to 0 are refused instead of dividing by it.
    """
    weights_K = values["weight"]
    if values["normalize"]:
        weights_K = weights_K / weights_K.sum()
    weights = weights_K.tolist()
    return lambda block: kernels.weighted_sum(block, weights)
