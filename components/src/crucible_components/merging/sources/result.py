"""The files beside the weights and the tokenizer of a merge's result, by name.

From the folder of the base, or of the first model: settings, generation defaults, processors,
licences, and code that the settings name. Never weights, their index, or what training left behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from crucible_components.merging.sources.checking import CONFIG_FILE
from crucible_components.merging.sources.locating import Folder
from crucible_components.merging.sources.text_settings import (
    LAYER_COUNT_KEYS,
    LAYER_NUMBERS,
    TIE_KEY,
    per_layer_keys,
    text_settings,
    with_text_settings,
)

COPIED = (
    "generation_config.json",
    "*processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
_NAMING_CODE = ("*config.json",)
_DTYPE_KEYS = ("dtype", "torch_dtype")
_BY_RULE = frozenset(
    {
        "attn_layer_offset",
        "attn_layer_period",
        "cross_attention_freq",
        "decoder_sparse_step",
        "expert_layer_offset",
        "expert_layer_period",
        "first_k_dense_replace",
        "full_attention_interval",
        "interleave_moe_layer_step",
        "max_window_layers",
        "moe_layer_freq",
        "no_rope_layer_interval",
        "sliding_window_pattern",
    }
)
"""Settings that say by a layer's number what it is; left as they are."""


@dataclass(frozen=True)
class LayerOrigin:
    """Where a layer of the result comes from: the first source of its slice."""

    model: str
    index: int


@dataclass(frozen=True)
class Settings:
    """What a result's config.json says that its base's does not; None leaves what is there."""

    layers: Sequence[LayerOrigin] | None = None
    """One for each layer, where the merge file has slices."""
    vocab_size: int | None = None
    is_tied: bool | None = None
    """The head is the embedding."""
    dtype: str | None = None
    """Of the weights, as in ``bfloat16``."""


def result_config(
    configs: Mapping[str, Mapping[str, Any]], base: str, settings: Settings
) -> dict[str, Any]:
    """The config.json of the result.

    Args:
        configs: those of all models, by how the merge file refers to them.
        base: the model whose settings are taken.
        settings: what the merge makes of them.
    """
    config = dict(configs[base])
    if settings.layers is not None:
        config = with_text_settings(config, _layer_settings(configs, base, settings.layers))
    if settings.vocab_size is not None:
        config = with_text_settings(config, {"vocab_size": settings.vocab_size})
    if settings.is_tied is not None:
        config = with_text_settings(config, {TIE_KEY: settings.is_tied}, everywhere=True)
    if settings.dtype is not None:
        if not any(key in config for key in _DTYPE_KEYS):
            config["torch_dtype"] = settings.dtype  # old and new transformers read it
        config = _with_dtype(config, settings.dtype)
    return config


def layer_notes(config: Mapping[str, Any], layers: Sequence[LayerOrigin]) -> list[str]:
    """Settings that take a layer for what its number says, if layers have other numbers now."""
    if all(origin.index == number for number, origin in enumerate(layers)):
        return []
    found = sorted(key for key in text_settings(config) if key in _BY_RULE)
    return [
        f"config.json: {key} tells what a layer is by its number, and the slices give layers new "
        "numbers. It is left as it was: check that the result's layers are what it says."
        for key in found
    ]


def result_files(
    folder: Folder, config: Mapping[str, Any], *, merge_yaml: str, card: str
) -> dict[str, bytes]:
    """Every file of the result but weights and tokenizer.

    Args:
        folder: of the base, else of the first model.
        config: of `result_config`.
        merge_yaml: the merge file as it was given.
        card: of `model_card`.
    """
    files = {name: _read(folder, name) for name in _copied(folder)}
    files[CONFIG_FILE] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    files["merge.yaml"] = merge_yaml.encode()
    files["README.md"] = card.encode()
    return files


def _copied(folder: Folder) -> list[str]:
    paths = folder.paths()
    found = [p for p in paths if any(fnmatch(p, pattern) for pattern in COPIED)]
    if any(_names_code(folder, p) for p in paths if any(fnmatch(p, n) for n in _NAMING_CODE)):
        found += [p for p in paths if p.endswith(".py") and "/" not in p]
    return found


def _names_code(folder: Folder, path: str) -> bool:
    settings = folder.read_json(path)
    return isinstance(settings, dict) and bool(settings.get("auto_map"))


def _layer_settings(
    configs: Mapping[str, Mapping[str, Any]], base: str, layers: Sequence[LayerOrigin]
) -> dict[str, Any]:
    """The number of layers, and what is listed for each or lists some of them."""
    settings = text_settings(configs[base])
    changes: dict[str, Any] = {key: len(layers) for key in LAYER_COUNT_KEYS if key in settings}
    for key in per_layer_keys(configs[base]):
        changes[key] = [_of(configs, origin, key)[origin.index] for origin in layers]
    for key in LAYER_NUMBERS & settings.keys():
        if settings[key] is not None:
            changes[key] = [n for n, o in enumerate(layers) if o.index in _of(configs, o, key)]
    return changes


def _of(configs: Mapping[str, Mapping[str, Any]], origin: LayerOrigin, key: str) -> list[Any]:
    """The list of the layer's own model; `compare_configs` saw that it is there."""
    found: list[Any] = text_settings(configs[origin.model])[key]
    return found


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {
        key: dtype
        if key in _DTYPE_KEYS
        else _with_dtype(value, dtype)
        if isinstance(value, Mapping)
        else value
        for key, value in config.items()
    }


def _read(folder: Folder, path: str) -> bytes:
    with folder.open(path) as stream:
        return stream.read()
