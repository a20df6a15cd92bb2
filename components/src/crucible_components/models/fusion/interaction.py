"""Interaction layers: between decoder layers, each turn's latents look at the picture again.

A latent asks with its own state and the state of the turn's last prompt token, so it knows the
question, and attends to its own window of the picture only. Answers come later in the sequence than
that token, so they cannot leak in.

Legend: B sequences, N pictures, L turns, q latents a turn, W = w*w window cells, D width,
H heads, S positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from crucible_components.models.fusion.attention import attend, prefers_matmul


@dataclass(frozen=True)
class TurnPositions:
    """Where each turn's latents and last prompt token stand; -1 pads sequences of fewer turns."""

    end_BL: Tensor
    """Position of the token right before the answer."""
    latent_start_BL: Tensor
    """Position of the first of the turn's latents, which stand side by side."""
    query_len: int

    @property
    def latents_BLq(self) -> Tensor:
        """Positions of all latents; meaningless where the turn is padding."""
        offsets = torch.arange(self.query_len, device=self.latent_start_BL.device)
        return self.latent_start_BL.clamp(min=0)[..., None] + offsets

    @property
    def valid_BL(self) -> Tensor:
        return self.end_BL >= 0


class InteractionLayer(nn.Module):
    """One cross attention of latents to their windows, with its own feed-forward.

    Source: FUSION, arXiv:2504.09925, released ``vision_sampler.py``. Linears without bias,
    LayerNorm eps 1e-5, PyTorch's default initialisation, no gate.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_in = nn.Linear(2 * width, width, bias=False)
        self.context_in = nn.Linear(width, width, bias=False)
        self.norm_q, self.norm_k, self.norm_v, self.norm_out = (
            nn.LayerNorm(width, eps=1e-5) for _ in range(4)
        )
        self.q_proj, self.k_proj, self.v_proj, self.o_proj, self.fc1, self.fc2 = (
            nn.Linear(width, width, bias=False) for _ in range(6)
        )

    def forward(
        self,
        hidden_BSD: Tensor,
        windows_NqWD: Tensor,
        picture_B: Tensor | None,
        positions: TurnPositions,
    ) -> Tensor:
        """``hidden_BSD`` with the latents of all real turns updated, all else unchanged.

        ``picture_B`` says which row of ``windows_NqWD`` a sequence sees; None: its own.
        """
        flat_MD = hidden_BSD.flatten(0, 1)
        start_B = torch.arange(len(hidden_BSD), device=hidden_BSD.device) * hidden_BSD.shape[1]
        latents_BLq = positions.latents_BLq + start_B[:, None, None]
        ends_BL = positions.end_BL.clamp(min=0) + start_B[:, None]
        latent_BLqD = flat_MD[latents_BLq]
        context_BLqD = flat_MD[ends_BL].unsqueeze(2).expand_as(latent_BLqD)
        query_BLqD = self.query_in(torch.cat([context_BLqD, latent_BLqD], dim=-1))
        attended_BLqD = self._attend(query_BLqD, windows_NqWD, picture_B)
        mixed_BLqD = self.norm_out(attended_BLqD + query_BLqD)
        update_BLqD = self.fc2(functional.gelu(self.fc1(mixed_BLqD))) + latent_BLqD
        valid_BL = positions.valid_BL
        updated_MD = flat_MD.index_copy(
            0, latents_BLq[valid_BL].flatten(), update_BLqD[valid_BL].flatten(0, 1).to(flat_MD)
        )
        return updated_MD.view_as(hidden_BSD)

    def _attend(self, query_BLqD: Tensor, windows_NqWD: Tensor, picture_B: Tensor | None) -> Tensor:
        """Turns of one sequence share keys and values, so latents are the batch, turns the rows."""
        context_NqWD = self.context_in(windows_NqWD)
        key_NqWD = self.k_proj(self.norm_k(context_NqWD))
        value_NqWD = self.v_proj(self.norm_v(context_NqWD))
        if picture_B is not None:
            key_NqWD, value_NqWD = key_NqWD[picture_B], value_NqWD[picture_B]
        num_rows, num_turns, num_latents, width = query_BLqD.shape
        query = self.q_proj(self.norm_q(query_BLqD)).transpose(1, 2).flatten(0, 1)
        key, value = self._split(key_NqWD.flatten(0, 1)), self._split(value_NqWD.flatten(0, 1))
        fused = not prefers_matmul(query.device, query.dtype)
        attention = functional.scaled_dot_product_attention if fused else attend
        attended = attention(self._split(query), key, value)
        merged = attended.transpose(1, 2).reshape(num_rows, num_latents, num_turns, width)
        output: Tensor = self.o_proj(merged.transpose(1, 2))
        return output

    def _split(self, features: Tensor) -> Tensor:
        rows, length, width = features.shape
        return features.view(rows, length, self.num_heads, width // self.num_heads).transpose(1, 2)
