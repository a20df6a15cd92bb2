"""In which settings the models of a merge differ, and whether they can be merged all the same.

A setting is free, or worth a note, if it is listed here; any other must be equal in all models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crucible.errors import Problem
from crucible_components.merging.sources.text_settings import (
    LAYER_COUNT_KEYS,
    LAYER_NUMBERS,
    nested_key,
    per_layer_keys,
    text_settings,
)

FREE_KEYS = frozenset(
    {
        "_attn_implementation",
        "_commit_hash",
        "_name_or_path",
        "auto_map",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""How a model was written or is run."""
NOTED_KEYS = frozenset(
    {
        # Positions: the weights fit, what they learnt of distances differs.
        "max_position_embeddings",
        "max_window_layers",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_local_base_freq",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "use_sliding_window",
        # Vocabulary: what the merge file's tokenizer settles, and shapes confirm.
        "bos_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "image_token_id",
        "image_token_index",
        "pad_token_id",
        "tie_word_embeddings",
        "unk_token_id",
        "video_token_id",
        "vision_end_token_id",
        "vision_start_token_id",
        "vocab_size",
        # Training and generation.
        "attention_dropout",
        "aux_loss_alpha",
        "embd_pdrop",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "label2id",
        "output_router_logits",
        "pretraining_tp",
        "resid_pdrop",
        "router_aux_loss_coef",
        "task_specific_params",
        "use_mrope",
    }
)
"""Taken from the base; a nested setting counts if any part of its path is listed."""

_UNSET = object()


@dataclass(frozen=True)
class Comparison:
    """How the models' settings differ from the base's."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def compare_configs(
    configs: Mapping[str, Mapping[str, Any]], base: str, *, layers_are_free: bool = False
) -> Comparison:
    """What differs from ``base``.

    Args:
        configs: config.json of each model, by how the merge file refers to it.
        base: the model that the result's settings come from.
        layers_are_free: the merge file chooses layers, so models may have any number of them.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    theirs = _settings(configs[base], layers_are_free)
    for model, config in configs.items():
        ours = _settings(config, layers_are_free)
        if layers_are_free:
            problems += _missing_lists(model, config, configs[base])
        for key in sorted(ours.keys() | theirs.keys()):
            value, other = ours.get(key, _UNSET), theirs.get(key, _UNSET)
            if value == other or not set(key.split(".")).isdisjoint(FREE_KEYS):
                continue
            text = f"is {_shown(value)}, in {base} {_shown(other)}"
            # What is not set has a default that may well be the other's value.
            is_noted = _UNSET in (value, other) or not NOTED_KEYS.isdisjoint(key.split("."))
            if is_noted:
                notes.append(f"{model}: {key} {text}. The result has the latter.")
            else:
                problems.append(_differs(f"{model}.config.json.{key}", f"{text}."))
    return Comparison(tuple(problems), tuple(notes))


def _differs(path: str, message: str) -> Problem:
    fix = "Merge models of one architecture, trained from one base."
    return Problem(path=path, message=message, fix=fix)


def _settings(config: Mapping[str, Any], layers_are_free: bool) -> dict[str, Any]:
    """All settings by dotted path; null is as good as absent."""
    flat = dict(_flatten(config))
    if layers_are_free:
        prefix = "" if nested_key(config) is None else f"{nested_key(config)}."
        for key in (*LAYER_COUNT_KEYS, *_by_layer(config)):
            flat.pop(f"{prefix}{key}", None)
            flat.pop(key, None)
    return flat


def _by_layer(config: Mapping[str, Any]) -> set[str]:
    settings = text_settings(config)
    numbers = {key for key in LAYER_NUMBERS if isinstance(settings.get(key), list)}
    return numbers | per_layer_keys(config)


def _missing_lists(
    model: str, config: Mapping[str, Any], base: Mapping[str, Any]
) -> Iterator[Problem]:
    """The result lists of each layer what its own model lists of it."""
    for key in sorted(_by_layer(base) - _by_layer(config)):
        message = "does not say it of each layer; the base does."
        yield _differs(f"{model}.config.json.{key}", message)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "unset" if value is _UNSET else repr(value)
