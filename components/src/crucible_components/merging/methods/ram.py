"""Reinforced Agent Merging (arXiv:2601.13572): what one model changed alone is kept whole."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

_EPSILON = Parameter("epsilon", 1e-5, minimum=0.0)


@merge_method("ram", _EPSILON)
def ram(tensors: kernels.Tensors, values: Values) -> Merged:
    """Per element the mean of the changes beyond ``epsilon``; of one alone, that change."""
    return _mean_of_active(float(values["epsilon"]), torch.ones(tensors.num_models))


@merge_method("ramplus_tl", Parameter("r", 0.1), Parameter("alpha", 0.2, minimum=0.0), _EPSILON)
def ramplus_tl(tensors: kernels.Tensors, values: Values) -> Merged:
    """As ram, with changes of one model alone times ``1 + r · min(shared / alone, alpha)``.

    Shared and alone are counted per model over the tensor.
    """
    epsilon = float(values["epsilon"])

    def counts(block: kernels.Block) -> torch.Tensor:
        active_KN = block.deltas_KN.abs() > epsilon
        num_active_N = active_KN.sum(dim=0)
        return torch.stack(
            [(active_KN & (num_active_N > 1)).sum(dim=1), (active_KN & (num_active_N == 1)).sum(1)]
        )

    shared_K, alone_K = tensors.sum(counts)
    ratio_K = shared_K / alone_K.clamp_min(epsilon)
    return _mean_of_active(epsilon, 1 + values["r"] * ratio_K.clamp(0, values["alpha"]))


def _mean_of_active(epsilon: float, boost_K: torch.Tensor) -> Merged:
    def merged(block: kernels.Block) -> torch.Tensor:
        deltas_KN = block.deltas_KN
        active_KN = deltas_KN.abs() > epsilon
        num_active_N = active_KN.sum(dim=0)
        factor_KN = torch.where(num_active_N == 1, boost_K.to(deltas_KN.dtype)[:, None], 1)
        total_N = (deltas_KN * active_KN * factor_KN).sum(dim=0)
        return block.base_N + total_N / num_active_N.clamp_min(1)

    return merged
