"""Which tensors of a model have one row for each token, and which one of another model is alike.

Recognised by the names that transformers gives them; a head's bias has rows of one element.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from crucible_components.models.weights import TensorInfo

_INPUTS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
_BIASES = ("lm_head.bias", "embed_out.bias")


def embedding_names(infos: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> frozenset[str]:
    """Names of the tensors with as many rows as the model's token embedding.

    Args:
        infos: of the model.
        config: its config.json. Of several embeddings that of ``vocab_size`` rows is meant, else
            the largest.
    """
    known = {name: info.shape[0] for name, info in infos.items() if _role(name) and info.shape}
    counts = [rows for name, rows in known.items() if _role(name) is _INPUTS]
    counts = counts or list(known.values())
    if not counts:
        return frozenset()
    sizes = [size for size in vocab_sizes(config) if size in counts]
    wanted = sizes[0] if sizes else max(counts)
    return frozenset(name for name, rows in known.items() if rows == wanted)


def num_rows(infos: Mapping[str, TensorInfo], names: Collection[str]) -> int:
    """How many rows each of the embeddings ``names`` has; 0 without any."""
    return next((infos[name].shape[0] for name in names), 0)


def num_columns(info: TensorInfo) -> int:
    """Elements of a row."""
    return math.prod(info.shape[1:])


def counterpart(name: str, names: Collection[str]) -> str | None:
    """The tensor among another model's ``names`` that is to it what ``name`` is to its own.

    A model without a head of its own uses its embedding as one.
    """
    if name in names:
        return name
    wanted = (_role(name), _INPUTS) if _role(name) is _HEADS else (_role(name),)
    for role in wanted:
        alike = sorted(other for other in names if _role(other) is role)
        if alike:
            return alike[0]
    return None


def vocab_sizes(config: Mapping[str, Any]) -> Iterator[int]:
    """Every ``vocab_size`` of a config.json, the outermost first."""
    if isinstance(config.get("vocab_size"), int):
        yield config["vocab_size"]
    for value in config.values():
        if isinstance(value, dict):
            yield from vocab_sizes(value)


def _role(name: str) -> tuple[str, ...] | None:
    return next((r for r in (_INPUTS, _HEADS, _BIASES) if name.endswith(r)), None)
