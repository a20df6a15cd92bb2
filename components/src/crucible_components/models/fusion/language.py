"""The text model's layers with interaction layers between them.

Legend: B sequences, S positions, D width, N pictures, q latents a turn, W window cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import Cache
from transformers.masking_utils import create_causal_mask

from crucible_components.models.fusion.interaction import InteractionLayer, TurnPositions


@dataclass(frozen=True)
class Interaction:
    """What the interaction layers need besides the hidden states; absent in cached decoding."""

    layers: dict[int, InteractionLayer]
    """By the decoder layer that each follows."""
    windows_NqWD: Tensor
    picture_B: Tensor | None
    positions: TurnPositions


def run_decoder(
    model: Any,
    embeds_BSD: Tensor,
    interaction: Interaction | None,
    *,
    attention_mask: Tensor | None,
    position_ids: Tensor,
    past_key_values: Cache | None,
) -> Tensor:
    """Normed final states (B, S, D) of ``model``, a transformers Llama or Phi-3 body.

    The loop is the body's own, with each interaction layer after its decoder layer. Without a
    mask the attention is causal over all positions, which is right for padding on the right.
    """
    mask = create_causal_mask(
        config=model.config,
        inputs_embeds=embeds_BSD,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        position_ids=position_ids,
    )
    rotary = model.rotary_emb(embeds_BSD, position_ids=position_ids)
    hidden_BSD = embeds_BSD
    layers: nn.ModuleList = model.layers
    for index, layer in enumerate(layers):
        hidden_BSD = layer(
            hidden_BSD,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            position_embeddings=rotary,
        )
        if interaction is not None and index in interaction.layers:
            hidden_BSD = interaction.layers[index](
                hidden_BSD, interaction.windows_NqWD, interaction.picture_B, interaction.positions
            )
    normed: Tensor = model.norm(hidden_BSD)
    return normed
