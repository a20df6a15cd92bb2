"""The three terms of FUSION's loss.

Legend: K targets, A vocabulary.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def answer_loss(
    logits_KA: Tensor, targets_K: Tensor, num_targets: Tensor | int | None = None
) -> Tensor:
    """Cross-entropy in float32, summed and divided by ``num_targets`` (default: K, the mean).

    A caller that accumulates gradients passes the count over all its micro-batches.
    """
    total = functional.cross_entropy(logits_KA.float(), targets_K, reduction="sum")
    return total / (max(targets_K.numel(), 1) if num_targets is None else num_targets)


def mapping_loss(mapped: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ``1 - cos(mapped, target)`` over the positions of ``mask``; 0 if it selects none.

    Gradients flow to both sides, as published. Vision to text: embeddings of the guidance tokens
    against their mapped features (width D). Text to vision: patch embeddings against image tokens
    mapped back (width C).
    """
    distance = 1 - functional.cosine_similarity(mapped.float(), target.float(), dim=-1)
    if mask is None:
        return distance.mean()
    weight = mask.to(distance.dtype)
    return (distance * weight).sum() / weight.sum().clamp(min=1)
