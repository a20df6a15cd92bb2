"""Configuration of FUSION: a Llama-like text model, a SigLIP tower and what joins them."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

EarlyTextMask = Literal["intended", "released"]


@strict
class FusionConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Shape and switches of a FUSION model.

    Source: FUSION, arXiv:2504.09925 and its released code; departures stand in the README.
    """

    model_type = "fusion"
    sub_configs: ClassVar[dict[str, Any]] = {
        "text_config": AutoConfig,
        "vision_config": AutoConfig,
    }

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    """A ``llama`` or ``phi3`` configuration."""
    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    """A ``siglip_vision_model`` configuration, counting the layers of the original tower."""
    num_dropped_vision_layers: int = 1
    """Last layers of the tower that are not built; the published models drop one."""
    text_guidance: bool = True
    """False encodes the base image without the question; for ablations."""
    early_text_mask: EarlyTextMask = "intended"
    """First half of the tower: patches do not see text (intended) or, as the published checkpoints
    were trained, text rows attend uniformly and patches see text (released)."""
    query_lens: list[int] | None = None
    """Candidates for the number of latent tokens a turn, perfect squares. None: the published
    4, 16, 36, 64, 144. One is drawn for each training step."""
    default_query_len: int | None = None
    """Latent tokens a turn at inference. None: the middle of ``query_lens``."""
    window_size: int = 3
    """Each latent attends to ``window_size`` squared cells of the pooled picture."""
    num_interaction_layers: int = 10
    interaction_start: int = 0
    """Decoder layer after which the first interaction layer stands."""
    interaction_stride: int = 3
    interaction_heads: int = 16
    mapping_loss_weight: float = 0.1
    """Lambda of the two reconstruction losses."""
    image_token_id: int | None = None
    latent_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.text_config = _sub_config(self.text_config, "llama")
        self.vision_config = _sub_config(self.vision_config, "siglip_vision_model")
        self.tie_word_embeddings = self.tie_word_embeddings or self.text.tie_word_embeddings
        self.query_lens = sorted(self.query_lens or [4, 16, 36, 64, 144])
        if self.default_query_len is None:
            self.default_query_len = self.query_lens[len(self.query_lens) // 2]
        if problems := self._problems():
            raise ValueError("FusionConfig: " + " ".join(problems))
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def text(self) -> Any:
        """``text_config``, built."""
        return self.text_config

    @property
    def vision(self) -> Any:
        """``vision_config``, built."""
        return self.vision_config

    @property
    def num_vision_layers(self) -> int:
        """Layers of the tower that are built."""
        return int(self.vision.num_hidden_layers - self.num_dropped_vision_layers)

    @property
    def num_early_layers(self) -> int:
        """Layers in which the early mask holds; also the states in each of the two means."""
        return self.num_vision_layers // 2

    @property
    def feature_width(self) -> int:
        """Channels of the multi-depth feature: final, shallow mean, deep mean."""
        return int(3 * self.vision.hidden_size)

    @property
    def grid_size(self) -> int:
        """Patches a side of one encoded picture; a rest is not seen, as in SigLIP."""
        return int(self.vision.image_size // self.vision.patch_size)

    @property
    def num_image_tokens(self) -> int:
        return self.grid_size**2

    @property
    def interaction_positions(self) -> tuple[int, ...]:
        """Decoder layers that an interaction layer follows."""
        first, step = self.interaction_start, self.interaction_stride
        return tuple(first + k * step for k in range(self.num_interaction_layers))

    def _problems(self) -> list[str]:
        found = []
        for q in [*(self.query_lens or ()), self.default_query_len or 1]:
            if q < 1 or math.isqrt(q) ** 2 != q:
                found.append(f"query_lens: {q} is not a perfect square. Use 1, 4, 9, 16, ...")
        if self.num_early_layers < 1:
            found.append(f"vision_config: {self.num_vision_layers} layers kept, need at least 2.")
        if self.num_interaction_layers and (
            self.interaction_stride < 1
            or self.interaction_start < 0
            or self.interaction_positions[-1] >= self.text.num_hidden_layers
        ):
            found.append(
                f"interaction layers after decoder layers {self.interaction_positions}, the text "
                f"model has {self.text.num_hidden_layers}. Lower their number, start or stride."
            )
        if self.text.hidden_size % self.interaction_heads:
            found.append(
                f"interaction_heads: {self.interaction_heads} does not divide the text width "
                f"{self.text.hidden_size}."
            )
        return found


def _sub_config(
    value: dict[str, Any] | PreTrainedConfig | None, default_type: str
) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    fields = dict(value or {})
    config: PreTrainedConfig = CONFIG_MAPPING[fields.pop("model_type", default_type)](**fields)
    return config
