"""Explicit attention for processors with bfloat16 units, where the fused kernel is slow.

PyTorch's fused attention on the CPU is right for float32; in bfloat16 its backward pass is several
times slower than two matrix products and a softmax, which oneDNN runs on the processor's own units.

Legend: B rows, H heads, S queries, K keys, E head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

MATMUL = "crucible_matmul"


def matmul_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' layers call it; the result is (B, S, H, E)."""
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and causal and query.shape[2] > 1:
        attention_mask = causal_mask(query.shape[2], key.shape[2], query)
    attended = attend(query, key, value, attention_mask, scaling)
    return attended.transpose(1, 2).contiguous(), None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    scaling: float | None = None,
) -> Tensor:
    """Attention (B, H, S, E) by two matrix products; a boolean mask keeps what is True."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(-1, -2))
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    return torch.matmul(functional.softmax(scores, dim=-1), value)


def causal_mask(num_queries: int, num_keys: int, like: Tensor) -> Tensor:
    """Additive mask (S, K): the last query sees all keys, each before it one key less."""
    blocked = torch.full(
        (num_queries, num_keys), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device
    )
    return blocked.triu_(num_keys - num_queries + 1)


def prefers_matmul(device: torch.device, dtype: torch.dtype) -> bool:
    """True where the fused kernel is the slower one."""
    return device.type == "cpu" and dtype == torch.bfloat16


def choose_attention(model: PreTrainedModel) -> None:
    """Set the attention that is fastest for the model's device and type."""
    chosen = MATMUL if prefers_matmul(model.device, model.dtype) else "sdpa"
    model.set_attn_implementation(chosen)


AttentionInterface.register(MATMUL, matmul_attention)
AttentionMaskInterface.register(MATMUL, sdpa_mask)
