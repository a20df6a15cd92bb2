"""A new model keeps the size of what flows through it, whatever its width."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from crucible_components.models.fusion import build_model
from crucible_components.models.fusion.initialisation import EMBEDDING_STD, POSITION_STD


@pytest.mark.parametrize("width", [48, 192])
def test_the_streams_size_is_that_of_its_width_free_law(
    tokenizer: PreTrainedTokenizerFast, width: int
) -> None:
    layers = 4
    text = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    model, _ = build_model("pico", tokenizer, seed=0, text_config=text)
    body = model.language_model
    assert body.embed_tokens.weight.std().item() == pytest.approx(EMBEDDING_STD, rel=0.05)
    assert model.vision_tower.embeddings.position_embedding.weight.std().item() == pytest.approx(
        POSITION_STD, rel=0.1
    )
    x = torch.randn(4096, width)
    for layer in body.layers:
        value = layer.self_attn.v_proj(x)
        assert value.std().item() == pytest.approx(1.0, rel=0.1)
        written = layer.self_attn.o_proj(torch.randn(4096, layer.self_attn.o_proj.in_features))
        assert written.std().item() == pytest.approx((2 * layers) ** -0.5, rel=0.1)


def test_wide_models_keep_the_initialisation_of_transformers(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = {"hidden_size": 576, "intermediate_size": 64, "num_hidden_layers": 4}
    model, _ = build_model("pico", tokenizer, seed=0, text_config=text)
    assert model.language_model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.1)
