"""Take over only the changes that matter most (Arcee Fusion, 2024)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Values, merge_method

_EPS = 1e-8
_QUARTILES = (0.25, 0.5, 0.75)
_BEYOND = 1.5


@merge_method("arcee_fusion", max_models=1, by_rows=True)
def arcee_fusion(tensors: kernels.Tensors, values: Values) -> Merged:
    """Keep a change where its importance stands out, else the base.

    ``θ + δ`` where ``|δ| · KL(softmax x ‖ softmax θ)`` of the row is at least
    ``median + 1.5 · (Q3 - Q1)`` of the tensor, else ``θ``.

    Departs: quartiles are exact; mergekit takes them from a sample of a million.
    """
    total = tensors.num_elements
    ranks = [total - int(share * (total - 1)) for share in _QUARTILES]
    quartiles = tensors.top(lambda block: importance(block).expand(len(ranks), -1), ranks)
    first, median, third = quartiles.threshold_M.tolist()
    threshold = median + _BEYOND * (third - first)

    def merged(block: kernels.Block) -> torch.Tensor:
        is_kept_N = torch.ge(importance(block)[0], threshold)
        return torch.add(block.base_N, block.deltas_KN[0] * is_kept_N)

    return merged


def importance(block: kernels.Block) -> torch.Tensor:
    """|δ| times the divergence of its row, [1, N] float32."""
    model_RC = block.rows(block.models_KN[0]).float().softmax(dim=-1) + _EPS
    base_RC = block.rows(block.base_N).float().softmax(dim=-1) + _EPS
    divergence_R1 = (model_RC * (model_RC / base_RC).log()).sum(dim=-1, keepdim=True)
    return (block.rows(block.deltas_KN[0]).abs().float() * divergence_R1).flatten()[None]
