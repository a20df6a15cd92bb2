"""Settings of the language model in a config.json: at its top, or nested in a multimodal one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NESTED_KEYS = ("text_config", "llm_config", "language_config")
LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
TIE_KEY = "tie_word_embeddings"
LAYER_NUMBERS = frozenset(
    {
        "attn_layer_indices",
        "cross_attention_layers",
        "dense_layers",
        "full_attention_idxs",
        "full_attn_idxs",
        "mlp_only_layers",
        "moe_layers",
    }
)
"""Lists of numbers of layers."""
_NOT_PER_LAYER = ("_id", "_ids", "architectures")


def nested_key(config: Mapping[str, Any]) -> str | None:
    """Under which the language model's settings are nested; None if they are at the top."""
    return next((key for key in NESTED_KEYS if isinstance(config.get(key), Mapping)), None)


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the language model."""
    key = nested_key(config)
    found: Mapping[str, Any] = config if key is None else config[key]
    return found


def with_text_settings(
    config: Mapping[str, Any], changes: Mapping[str, Any], *, everywhere: bool = False
) -> dict[str, Any]:
    """A copy with ``changes`` to the language model's settings.

    At the top of a multimodal config a setting is changed only if it is there, or ``everywhere``.
    """
    key = nested_key(config)
    if key is None:
        return {**config, **changes}
    at_top = {name: value for name, value in changes.items() if everywhere or name in config}
    return {**config, **at_top, key: {**config[key], **changes}}


def num_layers(config: Mapping[str, Any]) -> int | None:
    """Of the language model, by its settings; None if they do not say."""
    settings = text_settings(config)
    for key in LAYER_COUNT_KEYS:
        if isinstance(settings.get(key), int):
            return int(settings[key])
    return None


def per_layer_keys(config: Mapping[str, Any]) -> frozenset[str]:
    """Settings of the language model that are lists of one entry for each layer."""
    count = num_layers(config)
    return frozenset(
        key
        for key, value in text_settings(config).items()
        if isinstance(value, list) and len(value) == count
        if key not in LAYER_NUMBERS and not key.endswith(_NOT_PER_LAYER)
    )
