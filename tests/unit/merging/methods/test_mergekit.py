"""Every method that mergekit has, against mergekit itself on the same tensors.

In float32 both differ by the order of sums. Where we depart on purpose the method's docstring says
so, and the tensors here are such that it does not show.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mergekit.merge_methods.base import ParameterScope, TensorGroup
from mergekit.merge_methods.registry import _METHODS as MERGEKIT
from torch import Tensor

from crucible_components.merging.testing import merge

WEIGHTS = [0.2, 0.5, 0.4]
CASES: list[tuple[str, int, bool, dict[str, Any]]] = [
    ("linear", 3, False, {"weight": WEIGHTS}),
    ("linear", 3, False, {"weight": WEIGHTS, "normalize": False}),
    ("slerp", 1, True, {"t": 0.3}),
    ("nuslerp", 2, False, {"weight": [0.3, 0.6]}),
    ("nuslerp", 2, True, {"weight": [0.3, 0.6]}),
    ("nuslerp", 2, True, {"weight": [0.3, 0.6], "nuslerp_flatten": False}),
    (
        "nuslerp",
        2,
        False,
        {"weight": [0.3, 0.6], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    ("multislerp", 3, False, {"weight": WEIGHTS}),
    ("multislerp", 3, True, {"weight": WEIGHTS, "normalize_weights": False}),
    ("karcher", 3, False, {}),
    ("karcher", 3, False, {"max_iter": 3}),
    ("task_arithmetic", 3, True, {"weight": WEIGHTS, "lambda": 0.7}),
    ("task_arithmetic", 3, True, {"weight": WEIGHTS, "normalize": True}),
    ("ties", 3, True, {"weight": WEIGHTS, "density": 0.4}),
    ("ties", 3, True, {"weight": WEIGHTS, "density": [0.4, 0.9, 0.0], "rescale": True}),
    ("ties", 3, True, {"weight": [0.2, -0.5, 0.4], "density": 0.4, "normalize": False}),
    ("breadcrumbs", 3, True, {"weight": WEIGHTS, "density": 0.4, "gamma": 0.05}),
    ("breadcrumbs", 3, True, {"weight": WEIGHTS, "density": 0.9, "gamma": 0.3}),
    ("breadcrumbs_ties", 3, True, {"weight": WEIGHTS, "density": 0.4, "rescale": True}),
    ("sce", 3, True, {}),
    ("sce", 3, True, {"select_topk": 0.5}),
    ("ram", 3, True, {}),
    ("ramplus_tl", 3, True, {"r": 0.3, "alpha": 0.5}),
    ("model_stock", 3, True, {}),
    ("model_stock", 3, True, {"filter_wise": True}),
    ("nearswap", 1, True, {"t": 0.05}),
    ("arcee_fusion", 1, True, {}),
    ("passthrough", 1, False, {"scale": 0.5}),
    # Where nothing is dropped, chance decides nothing.
    ("dare_linear", 3, True, {"weight": WEIGHTS, "density": 1.0}),
    ("dare_ties", 3, True, {"weight": WEIGHTS, "density": 0.0}),
    ("della", 3, True, {"weight": WEIGHTS, "density": 1.0}),
    ("della_linear", 3, True, {"weight": WEIGHTS, "density": 0.0}),
]


def by_mergekit(
    name: str, models: list[Tensor], base: Tensor | None, given: dict[str, Any]
) -> Tensor:
    """What mergekit's own entry gives; the base comes first, its own parameters are unused."""
    method = MERGEKIT[name]
    tensors = [*([] if base is None else [base]), *models]
    group = TensorGroup.from_tensors(
        [tensor.clone() for tensor in tensors], base_index=None if base is None else 0
    )
    first = len(tensors) - len(models)
    scopes = {spec.name: spec.scope for spec in method.spec.parameters}
    filled = {
        key: value
        if scopes[key] == ParameterScope.SHARED
        else dict(enumerate(value if isinstance(value, list) else [value] * len(models), first))
        for key, value in given.items()
    }
    [merged] = method([group], parameters=filled)
    return merged


@pytest.mark.parametrize(("name", "count", "has_base", "given"), CASES)
@pytest.mark.parametrize("shape", [(130, 70), (300,)])
def test_as_mergekit(
    name: str, count: int, has_base: bool, given: dict[str, Any], shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(11)
    base = torch.randn(shape, generator=generator)
    models = []
    for _ in range(count):
        changed = torch.rand(shape, generator=generator) > 0.3
        models.append(base + 0.1 * torch.randn(shape, generator=generator) * changed)
    theirs = by_mergekit(name, models, base if has_base else None, given)
    ours = merge(name, models, base if has_base else None, **given)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)
