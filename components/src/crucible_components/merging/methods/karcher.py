"""The mean on the sphere that minimises squared angles (Karcher 1977; arXiv:2603.04972)."""

from __future__ import annotations

import math

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


@merge_method(
    "karcher",
    Parameter("max_iter", 10.0, minimum=1.0),
    Parameter("tol", 1e-5, minimum=0.0),
    base="none",
)
def karcher(tensors: kernels.Tensors, values: Values) -> Merged:
    """Fixed point of the mean tangent from the normalised mean of directions; × mean norm.

    The mean lies in the span of the models: the iteration runs on their scalar products, so the
    data is read twice however many steps it takes.
    """
    found = kernels.gram(tensors, from_base=False)
    tol = float(values["tol"])
    norms_K = found.norms_GK[0]
    is_valid_K = norms_K > tol
    if not is_valid_K.any():
        return kernels.combination(torch.zeros(1, tensors.num_models), from_base=False)
    scale_K = torch.where(is_valid_K, 1 / norms_K, 0.0)
    units_KK = found.products_GKK[0] * scale_K[:, None] * scale_K[None, :]
    alpha_K = is_valid_K.double() / is_valid_K.sum()
    mean_K = _mean(units_KK, alpha_K, int(values["max_iter"]), tol)
    mean_norm = float(norms_K.mean())
    return kernels.combination((mean_K * scale_K * mean_norm)[None], from_base=False)


def _mean(units_KK: torch.Tensor, alpha_K: torch.Tensor, max_iter: int, tol: float) -> torch.Tensor:
    """Coefficients of the mean in terms of the unit vectors."""

    def norm(coefficients_K: torch.Tensor) -> float:
        return math.sqrt(max(0.0, float(coefficients_K @ units_KK @ coefficients_K)))

    mean_K = alpha_K.clone()
    if norm(mean_K) < tol:
        mean_K = torch.zeros_like(alpha_K)
        mean_K[int(alpha_K.nonzero()[0])] = 1.0
    mean_K = mean_K / norm(mean_K)
    for _ in range(max_iter):
        dots_K = (units_KK @ mean_K).clamp(-1, 1)
        angles_K = torch.acos(dots_K)
        pull_K = torch.where(angles_K < tol, 0.0, alpha_K * angles_K / torch.sin(angles_K))
        tangent_K = pull_K - float(pull_K @ dots_K) * mean_K
        length = norm(tangent_K)
        if length < tol:
            break
        mean_K = math.cos(length) * mean_K + math.sin(length) * tangent_K / length
        mean_K = mean_K / max(norm(mean_K), tol)
    return mean_K
