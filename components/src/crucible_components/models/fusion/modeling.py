"""FUSION: pictures in, answers out.

Forward pass: the base picture is encoded together with the question, four crops of the doubled
picture without it. The first become image tokens, the second a map from which each turn's latent
tokens and their windows are pooled. Both enter the text model's sequence, where interaction layers
refresh the latents of every turn.

Three index levels let work be shared: pictures (crops are encoded once each), contexts (a picture
with one guidance text, encoded once each), sequences (rows of ``input_ids``; several answers to one
question share a context).

Legend: N pictures, G contexts, B sequences, S positions, L turns, T guidance tokens, V patches,
D text width, C vision width, F = 3C, q latents a turn, W window cells, K targets, A vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from crucible_components.models.fusion.configuration import FusionConfig
from crucible_components.models.fusion.interaction import InteractionLayer, TurnPositions
from crucible_components.models.fusion.language import Interaction, run_decoder
from crucible_components.models.fusion.losses import answer_loss, mapping_loss
from crucible_components.models.fusion.projector import (
    Projector,
    pad_none,
    pool_latents,
    pool_windows,
    stitch_crops,
)
from crucible_components.models.fusion.vision import FusionVisionTower, VisionFeatures

IGNORE = -100
"""Label of positions that are not supervised."""


@dataclass(frozen=True)
class VisionInputs:
    """Pictures and the guidance texts under which they are looked at."""

    pixel_values: Tensor
    """(N, 5, 3, side, side): crops TL, TR, BL, BR and the whole; uint8, or float in -1..1."""
    guidance_ids: Tensor
    """(G, T) token ids of the human turns."""
    guidance_mask: Tensor
    """(G, T), True where a token is no padding."""
    picture_index: Tensor | None = None
    """(G,) picture of each context; None: one context a picture, in order."""


@dataclass(frozen=True)
class VisionContext:
    """Encoded pictures, ready to enter sequences."""

    image_tokens_GVD: Tensor
    latents_NqD: Tensor
    windows_NqWD: Tensor
    picture_G: Tensor | None
    query_len: int
    vision_to_text_loss: Tensor | None
    text_to_vision_loss: Tensor


@dataclass
class FusionOutput(ModelOutput):
    """Loss terms in training, logits otherwise."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    answer_loss: Tensor | None = None
    vision_to_text_loss: Tensor | None = None
    text_to_vision_loss: Tensor | None = None


class FusionForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """Text-guided vision tower, projectors, interaction layers and a text model with its head."""

    config_class = FusionConfig
    main_input_name = "input_ids"
    _tied_weights_keys = {"lm_head.weight": "language_model.embed_tokens.weight"}  # noqa: RUF012
    _supports_sdpa = True
    _no_split_modules = ["LlamaDecoderLayer", "Phi3DecoderLayer", "SiglipEncoderLayer"]  # noqa: RUF012

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        text_width, vision_width = config.text.hidden_size, config.vision.hidden_size
        self.vision_tower = FusionVisionTower(config)
        self.vision_to_text = Projector(config.feature_width, text_width)
        self.text_to_vision = Projector(text_width, vision_width)
        self.interaction_layers = nn.ModuleList(
            InteractionLayer(text_width, config.interaction_heads)
            for _ in config.interaction_positions
        )
        self.language_model = AutoModel.from_config(config.text)  # type: ignore[no-untyped-call]
        self.lm_head = nn.Linear(text_width, config.text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation for what SigLIP and the text model do not initialise."""
        if module is self.lm_head:
            init.normal_(module.weight, std=self.config.text.initializer_range)
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.in_features)
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        embedding: nn.Module = self.language_model.embed_tokens
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.lm_head
        return head

    def encode(self, inputs: VisionInputs, query_len: int) -> VisionContext:
        """Encode all pictures and contexts; the mapping losses are computed on the way."""
        pixels = normalise_pixels(inputs.pixel_values, self.dtype)
        base_G = pixels[:, 4] if inputs.picture_index is None else pixels[inputs.picture_index, 4]
        map_NDhh = self._encode_crops(pixels[:, :4])
        text_GTD = self.get_input_embeddings()(inputs.guidance_ids)
        mask_GT = inputs.guidance_mask.bool()
        features = self._encode_base(base_G, text_GTD, mask_GT)
        image_GVD = self.vision_to_text(features.feature_NVF)
        vision_to_text_loss = None
        if features.text_feature_NTF is not None:
            mapped_GTD = self.vision_to_text(features.text_feature_NTF)
            vision_to_text_loss = mapping_loss(mapped_GTD, text_GTD, mask_GT)
        return VisionContext(
            image_tokens_GVD=image_GVD,
            latents_NqD=pool_latents(map_NDhh, query_len),
            windows_NqWD=pool_windows(map_NDhh, query_len, self.config.window_size),
            picture_G=inputs.picture_index,
            query_len=query_len,
            vision_to_text_loss=vision_to_text_loss,
            text_to_vision_loss=mapping_loss(self.text_to_vision(image_GVD), features.patch_NVC),
        )

    def forward(  # noqa: PLR0913 - what transformers calls a model with
        self,
        input_ids: Tensor,
        *,
        pixel_values: Tensor | None = None,
        guidance_ids: Tensor | None = None,
        guidance_mask: Tensor | None = None,
        picture_index: Tensor | None = None,
        context_index: Tensor | None = None,
        turn_ends: Tensor | None = None,
        latent_starts: Tensor | None = None,
        query_len: int | None = None,
        vision_context: VisionContext | None = None,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> FusionOutput:
        """Loss where ``labels`` are given, else logits.

        ``vision_context``, what `encode` returned, may replace the fields of `VisionInputs`.
        ``context_index`` (B,) is the context of each sequence, -1 for one without picture; None
        pairs them in order. ``turn_ends`` and ``latent_starts`` (B, L) are `TurnPositions`;
        ``query_len`` is the latents a turn for which ``input_ids`` (B, S) were expanded.
        ``labels`` (B, S) are shifted here; ``num_items_in_batch`` divides the summed answer loss.
        ``logits_to_keep``: last positions, 0 for all, or a (B, S) mask whose logits are (K, A).
        """
        query_len = query_len or self.config.default_query_len
        if vision_context is None and pixel_values is not None and len(pixel_values):
            inputs = _vision_inputs(pixel_values, guidance_ids, guidance_mask, picture_index)
            vision_context = self.encode(inputs, query_len)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config.text)
        if position_ids is None:
            position_ids = _position_ids(input_ids, attention_mask, past_key_values)
        embeds_BSD = self.get_input_embeddings()(input_ids)
        picture_B = _picture_of_rows(context_index, vision_context)
        embeds_BSD = self._insert_vision(
            input_ids, embeds_BSD, vision_context, context_index, picture_B
        )
        hidden_BSD = run_decoder(
            self.language_model,
            embeds_BSD,
            self._interaction(
                vision_context, picture_B, _turn_positions(turn_ends, latent_starts, query_len)
            ),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
        )
        if labels is not None:
            return self._loss(hidden_BSD, labels, vision_context, num_items_in_batch)
        logits = self.lm_head(_kept(hidden_BSD, logits_to_keep))
        return FusionOutput(logits=logits, past_key_values=past_key_values)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Vision enters with the prompt only; afterwards it lives in the cache."""
        cache = kwargs.get("past_key_values")
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if cache is not None and cache.get_seq_length():
            for name in ("pixel_values", "vision_context", "turn_ends", "latent_starts"):
                inputs[name] = None
        return inputs

    def _encode_crops(self, crops: Tensor) -> Tensor:
        features: VisionFeatures = self.vision_tower(crops.flatten(0, 1))
        mapped = self.vision_to_text(features.feature_NVF)
        return stitch_crops(mapped.unflatten(0, (-1, 4)))

    def _encode_base(self, base_G: Tensor, text_GTD: Tensor, mask_GT: Tensor) -> VisionFeatures:
        if not self.config.text_guidance:
            unguided: VisionFeatures = self.vision_tower(base_G)
            return unguided
        guided: VisionFeatures = self.vision_tower(base_G, self.text_to_vision(text_GTD), mask_GT)
        return guided

    def _insert_vision(
        self,
        input_ids: Tensor,
        embeds_BSD: Tensor,
        vision: VisionContext | None,
        context_B: Tensor | None,
        picture_B: Tensor | None,
    ) -> Tensor:
        """Embeddings with image tokens and initial latents in the places of their placeholders.

        A sequence without picture gets zeros for its latents, and no interaction layer changes
        them: it reads the same alone and beside pictures.
        """
        is_latent_BS = input_ids == self.config.latent_token_id
        if vision is None:
            return embeds_BSD.masked_fill(is_latent_BS[..., None], 0.0)
        image_at = (input_ids.flatten() == self.config.image_token_id).nonzero().squeeze(1)
        latent_at = is_latent_BS.flatten().nonzero().squeeze(1)
        image = vision.image_tokens_GVD
        if context_B is not None:
            image = image[context_B[context_B >= 0]]
        turns_B = is_latent_BS.sum(1) // vision.query_len
        rows = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(turns_B)
        latents = vision.latents_NqD if picture_B is None else pad_none(vision.latents_NqD)
        latents = latents[rows if picture_B is None else picture_B[rows]]
        flat = embeds_BSD.flatten(0, 1)
        values = torch.cat([image.flatten(0, 1), latents.flatten(0, 1)]).to(flat.dtype)
        return flat.index_copy(0, torch.cat([image_at, latent_at]), values).view_as(embeds_BSD)

    def _interaction(
        self,
        vision: VisionContext | None,
        picture_B: Tensor | None,
        positions: TurnPositions | None,
    ) -> Interaction | None:
        """What the interaction layers need; turns without picture count as padding to them.

        Departs: the released model shows a sequence without picture a grey one.
        """
        if vision is None or positions is None:
            return None
        if picture_B is not None:
            end_BL = positions.end_BL.masked_fill(picture_B[:, None] < 0, -1)
            positions = replace(positions, end_BL=end_BL)
            picture_B = picture_B.clamp(min=0)
        layers = dict(zip(self.config.interaction_positions, self.interaction_layers, strict=True))
        return Interaction(layers, vision.windows_NqWD, picture_B, positions)

    def _loss(
        self,
        hidden_BSD: Tensor,
        labels: Tensor,
        vision: VisionContext | None,
        num_targets: Tensor | int | None,
    ) -> FusionOutput:
        """The head runs on supervised positions only, a few in a hundred."""
        target_BS = labels[:, 1:]
        chosen = target_BS != IGNORE
        logits_KA = self.lm_head(hidden_BSD[:, :-1][chosen])
        answers = answer_loss(logits_KA, target_BS[chosen], num_targets)
        output = FusionOutput(loss=answers, answer_loss=answers)
        if vision is not None:
            terms = [vision.text_to_vision_loss]
            if vision.vision_to_text_loss is not None:
                terms.append(vision.vision_to_text_loss)
            output.loss = answers + self.config.mapping_loss_weight * sum(terms)
            output.vision_to_text_loss = vision.vision_to_text_loss
            output.text_to_vision_loss = vision.text_to_vision_loss
        return output


def _kept(hidden_BSD: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """States whose logits are wanted: of a mask, of the last positions, or 0 for all."""
    if isinstance(logits_to_keep, Tensor):
        return hidden_BSD[logits_to_keep]
    return hidden_BSD[:, -logits_to_keep:] if logits_to_keep else hidden_BSD


def _turn_positions(
    turn_ends: Tensor | None, latent_starts: Tensor | None, query_len: int
) -> TurnPositions | None:
    if turn_ends is None or latent_starts is None:
        return None
    return TurnPositions(turn_ends, latent_starts, query_len)


def _vision_inputs(
    pixel_values: Tensor,
    guidance_ids: Tensor | None,
    guidance_mask: Tensor | None,
    picture_index: Tensor | None,
) -> VisionInputs:
    if guidance_ids is None or guidance_mask is None:
        raise ValueError("pixel_values come with guidance_ids and guidance_mask.")
    return VisionInputs(pixel_values, guidance_ids, guidance_mask, picture_index)


def normalise_pixels(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures in -1..1: mean and deviation 0.5 a channel, as SigLIP. Floats pass unchanged."""
    if pixels.is_floating_point():
        return pixels.to(dtype)
    return pixels.to(dtype).mul_(2 / 255).sub_(1)


def _position_ids(input_ids: Tensor, attention_mask: Tensor | None, cache: Cache | None) -> Tensor:
    if attention_mask is not None and attention_mask.dim() == 2:
        counted = attention_mask.long().cumsum(1) - 1
        return counted.clamp(min=0)[:, -input_ids.shape[1] :]
    start = cache.get_seq_length() if cache is not None else 0
    stop = start + input_ids.shape[1]
    return torch.arange(start, stop, device=input_ids.device).unsqueeze(0)


def _picture_of_rows(context_B: Tensor | None, vision: VisionContext | None) -> Tensor | None:
    """Picture of each sequence, -1 for none; None where sequences and pictures pair in order."""
    if vision is None:
        return None
    picture_G = vision.picture_G
    if context_B is None:
        return picture_G
    if picture_G is None:
        return context_B
    return torch.where(context_B < 0, -1, picture_G[context_B.clamp(min=0)])
