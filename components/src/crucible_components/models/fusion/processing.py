"""Processor: pictures to crops, conversations to ids, both to batches.

Legend: N pictures, B sequences, S positions, L turns, T guidance tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from crucible_components.models.fusion.layout import (
    ConversationEncoder,
    EncodedConversation,
    ExpandedConversation,
    Turn,
    expand,
)
from crucible_components.models.fusion.modeling import IGNORE
from crucible_components.models.fusion.template import IMAGE, LATENT, TEMPLATES

Pixels = NDArray[np.uint8]
Picture = Image.Image | Pixels


class FusionProcessor(ProcessorMixin):
    """Prepares pictures and conversations for one FUSION model."""

    # transformers restores positional parameters only; keyword-only ones would be lost.
    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str = "pico",
        image_size: int = 384,
        num_image_tokens: int = 729,
        default_query_len: int = 36,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, **kwargs)  # type: ignore[no-untyped-call]
        self.template = template
        self.image_size = image_size
        self.num_image_tokens = num_image_tokens
        self.default_query_len = default_query_len
        self.max_length = max_length
        vocabulary = tokenizer.get_vocab()
        self.image_token_id = vocabulary[IMAGE]
        self.latent_token_id = vocabulary[LATENT]
        self.end_token_id = vocabulary[TEMPLATES[template].end]
        self.pad_token_id: int = tokenizer.pad_token_id
        special = set(tokenizer.all_special_ids) - {self.end_token_id}
        self.banned_token_ids: list[int] = sorted(special)
        self._encoder = ConversationEncoder(
            TEMPLATES[template],
            lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
            tokenise_guidance=lambda text: list(tokenizer(text)["input_ids"]),
            bos_token_id=_leading_bos(tokenizer),
            image_token_id=self.image_token_id,
            latent_token_id=self.latent_token_id,
        )

    def preprocess(self, picture: Picture) -> Pixels:
        """Crops TL, TR, BL, BR of the picture at double size, and the whole: (5, 3, side, side).

        The picture is squashed to a square with the bicubic filter; colours stay 0..255.
        """
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image = image.convert("RGB")
        side = self.image_size
        double = np.asarray(_resized(image, 2 * side))
        crops = double.reshape(2, side, 2, side, 3).transpose(0, 2, 4, 1, 3)
        base = np.asarray(_resized(image, side)).transpose(2, 0, 1)
        return np.concatenate([crops.reshape(4, 3, side, side), base[None]])

    def encode(self, turns: Sequence[Turn], *, has_image: bool = True) -> EncodedConversation:
        """Token ids of one conversation, see `ConversationEncoder.encode`."""
        return self._encoder.encode(turns, has_image=has_image)

    def expand(self, encoded: EncodedConversation, query_len: int) -> ExpandedConversation:
        """One conversation at its full length for ``query_len`` latents a turn."""
        return expand(
            encoded,
            query_len,
            num_image_tokens=self.num_image_tokens,
            image_token_id=self.image_token_id,
            max_length=self.max_length,
        )

    def collate(
        self, conversations: Sequence[EncodedConversation], query_len: int
    ) -> dict[str, Tensor]:
        """Everything the model takes except pixels, padded on the right.

        Contexts stand in the order of the conversations that have a picture; so must the pixels.
        """
        rows = [self.expand(one, query_len) for one in conversations]
        seen = [one.guidance_ids for one in conversations if one.has_image]
        batch = {
            "input_ids": pad([row.ids for row in rows], self.pad_token_id),
            "labels": pad([np.where(row.supervised, row.ids, IGNORE) for row in rows], IGNORE),
            "turn_ends": pad([row.turn_ends for row in rows], -1),
            "latent_starts": pad([row.latent_starts for row in rows], -1),
            "guidance_ids": pad(seen, self.pad_token_id),
            "guidance_mask": pad([np.ones(len(ids), dtype=np.bool_) for ids in seen], False),
        }
        if len(seen) < len(rows):
            has_image = np.array([one.has_image for one in conversations])
            index = np.where(has_image, np.cumsum(has_image) - 1, -1)
            batch["context_index"] = torch.from_numpy(index)
        return batch

    def __call__(
        self,
        images: Picture | Sequence[Picture] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        query_len: int | None = None,
        **_: Any,
    ) -> BatchFeature:
        """Model inputs that ask each question of ``text`` about the picture beside it."""
        questions = [text] if isinstance(text, str) else list(text or ())
        pictures = _as_list(images, len(questions))
        query_len = query_len or self.default_query_len
        encoded = [
            self.encode([Turn(question)], has_image=picture is not None)
            for question, picture in zip(questions, pictures, strict=True)
        ]
        batch: dict[str, Any] = self.collate(encoded, query_len)
        batch.pop("labels")
        pixels = [self.preprocess(picture) for picture in pictures if picture is not None]
        if pixels:
            batch["pixel_values"] = torch.from_numpy(np.stack(pixels))
        batch["attention_mask"] = (batch["input_ids"] != self.pad_token_id).long()
        batch["query_len"] = query_len
        return BatchFeature(batch)

    def decode(self, token_ids: Sequence[int] | Tensor, **_: Any) -> str:
        """The text of an answer, without special tokens and outer spaces."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "guidance_ids", "guidance_mask"]


def pad(rows: Sequence[NDArray[Any]], value: int | bool) -> Tensor:
    """Rows of different length as one tensor, filled on the right."""
    width = max((len(row) for row in rows), default=0)
    dtype = rows[0].dtype if rows else np.int64
    padded = np.full((len(rows), width), value, dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def _resized(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _as_list(images: Picture | Sequence[Picture] | None, count: int) -> list[Picture] | list[None]:
    if images is None:
        return [None] * count
    if isinstance(images, Image.Image | np.ndarray):
        return [images]
    return list(images)


def _leading_bos(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The beginning-of-sequence id if the tokenizer puts one before a text by itself."""
    bos: int | None = tokenizer.bos_token_id
    ids = tokenizer("a")["input_ids"]
    return bos if bos is not None and ids[:1] == [bos] else None
