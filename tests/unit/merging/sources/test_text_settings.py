"""Settings of the language model, at the top or nested."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_components.merging.sources.text_settings import (
    num_layers,
    per_layer_keys,
    text_settings,
    with_text_settings,
)

TEXT: dict[str, Any] = {"n_layers": 2, "layer_types": ["a", "b"], "moe_layers": [0, 1], "k": 1}


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config"])
def test_nested(key: str) -> None:
    config = {key: TEXT, "num_hidden_layers": 9, "eos_token_id": [1, 2]}
    assert text_settings(config) is TEXT
    assert num_layers(config) == num_layers(TEXT) == 2
    assert per_layer_keys(config) == per_layer_keys(TEXT) == {"layer_types"}
    assert with_text_settings(config, {"k": 2}) == {**config, key: {**TEXT, "k": 2}}
    everywhere = with_text_settings(config, {"k": 2}, everywhere=True)
    assert everywhere == {**config, "k": 2, key: {**TEXT, "k": 2}}
    assert TEXT["k"] == 1


def test_settings_that_do_not_say() -> None:
    assert num_layers({"text_config": None, "hidden_size": 1}) is None
    assert per_layer_keys({"layer_types": ["a"]}) == frozenset()
