"""Which tensors have a row for each token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crucible_components.merging.vocabulary.embeddings import (
    counterpart,
    embedding_names,
    num_rows,
)
from crucible_components.models.weights import TensorInfo


def infos(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {name: TensorInfo(name, torch.bfloat16, shape) for name, shape in names.items()}


@pytest.mark.parametrize(
    "name", ["model__embed_tokens__weight", "transformer__wte__weight", "word_embeddings__weight"]
)
def test_embeddings_and_heads_of_one_size(name: str) -> None:
    known = infos(**{name: (8, 4)}, lm_head__weight=(8, 4), lm_head__bias=(8,), norm__weight=(8,))
    found = embedding_names(known, {})
    assert found == {name.replace("__", "."), "lm_head.weight", "lm_head.bias"}
    assert num_rows(known, found) == 8


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"text_config": {"vocab_size": 6}, "vision_config": {"hidden_size": 8}}, "text"),
        ({"vocab_size": 6}, "text"),
        ({"vocab_size": 7}, "codes"),
        ({}, "codes"),
    ],
)
def test_of_several_that_of_the_configs_size(config: dict[str, Any], wanted: str) -> None:
    known = infos(
        text__embed_tokens__weight=(6, 4),
        codes__embed_tokens__weight=(9, 4),
        lm_head__weight=(6, 4),
    )
    names = {f"{wanted}.embed_tokens.weight"} | ({"lm_head.weight"} if wanted == "text" else set())
    assert embedding_names(known, config) == names


def test_models_without_embeddings() -> None:
    known = infos(norm__weight=(8,), model__embed_tokens_per_layer__weight=(8, 4))
    assert embedding_names(known, {"vocab_size": 8}) == frozenset()
    assert num_rows(known, ()) == 0
    assert embedding_names(infos(embed_out__weight=(5, 4)), {}) == {"embed_out.weight"}


def test_the_tensor_of_another_model_that_is_alike() -> None:
    names = {"language_model.embed_tokens.weight"}
    assert counterpart("model.embed_tokens.weight", names) == "language_model.embed_tokens.weight"
    assert counterpart("lm_head.weight", names) == "language_model.embed_tokens.weight"
    assert counterpart("lm_head.weight", {*names, "embed_out.weight"}) == "embed_out.weight"
    assert counterpart("lm_head.bias", names) is None
    assert counterpart("embed_tokens.weight", {"lm_head.weight"}) is None
    two = {"a.embed_tokens.weight", "b.embed_tokens.weight"}
    assert counterpart("b.embed_tokens.weight", two) == "b.embed_tokens.weight"
