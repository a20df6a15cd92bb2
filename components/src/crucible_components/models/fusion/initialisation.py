"""First weights of a text model that starts from nothing.

transformers draws every matrix with deviation 0.02, which fits widths of thousands: at a width of a
hundred a layer then adds a hundredth of what the residual stream carries, and what a question could
learn from a picture drowns for hundreds of steps. Here each layer keeps the size of its input.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from crucible_components.models.fusion.modeling import FusionForConditionalGeneration

EMBEDDING_STD = 0.3
"""Found by experiment: 0.1 and 0.3 learn alike, 0.02 far later, 1.0 needs an untied head."""
POSITION_STD = 0.5
"""Of the tower's position embeddings, nearly that of its patch embeddings: with SigLIP's
``1 / sqrt(width)`` a new model stays blind to where things are for long."""
_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")


@torch.no_grad()
def initialise_by_width(model: FusionForConditionalGeneration) -> None:
    """Draw the text model's matrices and the tower's positions anew, from torch's generator.

    A matrix gets deviation ``1 / sqrt(inputs)``; one that writes to the residual stream is divided
    by ``sqrt(2 * num_layers)``, so that the sum of all layers keeps the stream's size.

    Source: the residual scaling of GPT-2 (Radford et al. 2019, section 2.3).
    """
    positions = model.vision_tower.embeddings.position_embedding.weight
    nn.init.normal_(positions, std=POSITION_STD)
    num_layers = model.config.text.num_hidden_layers
    for name, parameter in model.language_model.named_parameters():
        if parameter.dim() < 2:
            continue
        std = EMBEDDING_STD if "embed_tokens" in name else parameter.shape[1] ** -0.5
        if name.endswith(_RESIDUAL_OUTPUTS):
            std /= math.sqrt(2 * num_layers)
        nn.init.normal_(parameter, std=std)
