"""Batches of prompts in which equal pictures and equal questions are encoded once.

Legend: N pictures, G contexts, B sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crucible_components.models.fusion.layout import EncodedConversation, IdArray, Turn
from crucible_components.models.fusion.modeling import VisionInputs
from crucible_components.models.fusion.processing import FusionProcessor, Picture, pad

Prompt = str | Sequence[Turn]
"""A question, or a conversation whose last turn has no answer yet."""


@dataclass(frozen=True)
class PromptBatch:
    """Encoded prompts, their distinct pictures and contexts, and which belongs to which."""

    conversations: list[EncodedConversation]
    vision: VisionInputs | None
    context_index_B: Tensor | None


def encode_prompts(
    processor: FusionProcessor, images: Sequence[Picture | None], prompts: Sequence[Prompt]
) -> list[EncodedConversation]:
    """One encoded conversation a prompt; None in ``images`` means a text-only prompt."""
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images for {len(prompts)} questions. Give one for each.")
    turns = [[Turn(prompt)] if isinstance(prompt, str) else prompt for prompt in prompts]
    return [
        processor.encode(one, has_image=image is not None)
        for one, image in zip(turns, images, strict=True)
    ]


def share_vision(
    processor: FusionProcessor,
    images: Sequence[Picture | None],
    conversations: list[EncodedConversation],
) -> PromptBatch:
    """Find equal pictures (the same object) and equal guidance, so each is encoded once."""
    pixels: dict[int, Any] = {}
    picture_rows: dict[int, int] = {}
    contexts: dict[tuple[int, bytes], int] = {}
    guidance: list[IdArray] = []
    picture_index: list[int] = []
    context_index: list[int] = []
    for image, one in zip(images, conversations, strict=True):
        if image is None:
            context_index.append(-1)
            continue
        if id(image) not in picture_rows:
            picture_rows[id(image)] = len(pixels)
            pixels[id(image)] = processor.preprocess(image)
        key = (id(image), one.guidance_ids.tobytes())
        if key not in contexts:
            contexts[key] = len(guidance)
            guidance.append(one.guidance_ids)
            picture_index.append(picture_rows[id(image)])
        context_index.append(contexts[key])
    if not guidance:
        return PromptBatch(conversations, None, None)
    vision = VisionInputs(
        pixel_values=torch.from_numpy(np.stack(list(pixels.values()))),
        guidance_ids=pad(guidance, processor.pad_token_id),
        guidance_mask=pad([np.ones(len(ids), dtype=np.bool_) for ids in guidance], False),
        picture_index=torch.tensor(picture_index),
    )
    return PromptBatch(conversations, vision, torch.tensor(context_index))
