"""Named sizes: ``pico`` for a laptop's processor, and the sizes of the published models."""

from __future__ import annotations

from typing import Any

from crucible_components.models.fusion.configuration import FusionConfig

_SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
_SIGLIP2_GIANT = {
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 16,
}
# Phi-3.5-mini without its long-context rotary scaling: FUSION trains on 4,096 tokens at most.
_PHI_35_MINI = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}
_LLAMA_31_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "bos_token_id": 128000,
    "eos_token_id": 128009,
    "pad_token_id": 128002,
}
_PICO: dict[str, Any] = {
    "text_config": {
        "vocab_size": 512,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "image_size": 64,
        "patch_size": 16,
    },
    "num_dropped_vision_layers": 0,  # trained from scratch, so there is no specialised last layer
    "query_lens": [1, 4],
    "num_interaction_layers": 2,
    "interaction_stride": 2,
    "interaction_heads": 4,
}

PRESETS: dict[str, dict[str, Any]] = {
    "pico": _PICO,
    "fusion-3b": {"text_config": _PHI_35_MINI, "vision_config": _SIGLIP_SO400M},
    "fusion-x-3b": {"text_config": _PHI_35_MINI, "vision_config": _SIGLIP2_GIANT},
    "fusion-8b": {"text_config": _LLAMA_31_8B, "vision_config": _SIGLIP_SO400M},
    "fusion-x-8b": {"text_config": _LLAMA_31_8B, "vision_config": _SIGLIP2_GIANT},
}


def build_config(preset: str, **overrides: Any) -> FusionConfig:
    """The preset's configuration; ``overrides`` replace top-level fields, dicts are merged."""
    fields = {**PRESETS[preset]}
    for name, value in overrides.items():
        old = fields.get(name)
        fields[name] = {**old, **value} if isinstance(old, dict) else value
    return FusionConfig(**fields)
