"""A new, untrained model with its processor."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from crucible_components.models.fusion.initialisation import initialise_by_width
from crucible_components.models.fusion.modeling import FusionForConditionalGeneration
from crucible_components.models.fusion.presets import build_config
from crucible_components.models.fusion.processing import FusionProcessor
from crucible_components.models.fusion.template import IMAGE, LATENT, TEMPLATES

MAX_SMALL_WIDTH = 512
"""Text models up to this width start from nothing: initialised by width, wider ones as transformers
does, and trained with the pico defaults."""


def build_model(
    preset: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    template: str = "pico",
    **overrides: Any,
) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """Model and processor of ``preset``, initialised from ``seed`` alone.

    The vocabulary is the tokenizer's. ``overrides`` replace fields of `FusionConfig`.
    """
    text = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.convert_tokens_to_ids(TEMPLATES[template].end),
    }
    config = build_config(
        preset,
        **{**overrides, "text_config": {**overrides.get("text_config", {}), **text}},
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        latent_token_id=tokenizer.convert_tokens_to_ids(LATENT),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FusionForConditionalGeneration(config)
        if config.text.hidden_size <= MAX_SMALL_WIDTH:
            initialise_by_width(model)
    processor = FusionProcessor(
        tokenizer,
        template=template,
        image_size=config.vision.image_size,
        num_image_tokens=config.num_image_tokens,
        default_query_len=config.default_query_len or 1,
        max_length=config.text.max_position_embeddings,
    )
    # transformers' own generate then answers as ours does.
    model.generation_config.suppress_tokens = processor.banned_token_ids
    return model, processor
