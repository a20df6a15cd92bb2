from __future__ import annotations

import pytest
import torch

from crucible_components.models.fusion import FusionConfig, FusionForConditionalGeneration
from crucible_components.models.fusion.presets import PRESETS, build_config


@pytest.mark.parametrize(
    ("preset", "layers", "early", "patches", "width"),
    [
        ("fusion-3b", 26, 13, 729, 3456),
        ("fusion-x-3b", 39, 19, 576, 4608),
        ("fusion-8b", 26, 13, 729, 3456),
        ("fusion-x-8b", 39, 19, 576, 4608),
        ("pico", 4, 2, 16, 192),
    ],
)
def test_presets_have_the_published_shapes(
    preset: str, layers: int, early: int, patches: int, width: int
) -> None:
    config = build_config(preset)
    assert config.num_vision_layers == layers
    assert config.num_early_layers == early
    assert config.num_image_tokens == patches
    assert config.feature_width == width


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"pico"}))
def test_interaction_layers_stand_after_every_third_decoder_layer(preset: str) -> None:
    assert build_config(preset).interaction_positions == (0, 3, 6, 9, 12, 15, 18, 21, 24, 27)


@pytest.mark.parametrize(("preset", "millions"), [("fusion-3b", 850), ("fusion-8b", 1510)])
def test_interaction_layers_have_the_published_size(preset: str, millions: int) -> None:
    with torch.device("meta"):
        model = FusionForConditionalGeneration(build_config(preset))
    width = model.config.text.hidden_size
    counted = sum(p.numel() for p in model.interaction_layers.parameters())
    assert counted == 10 * (9 * width**2 + 8 * width)
    assert round(counted / 1e7) == round(millions / 10)


def test_defaults_are_the_published_ones() -> None:
    config = build_config("fusion-8b")
    assert config.query_lens == [4, 16, 36, 64, 144]
    assert (config.window_size, config.interaction_heads) == (3, 16)
    assert config.mapping_loss_weight == 0.1
    assert config.early_text_mask == "intended"


def test_a_config_survives_its_own_json() -> None:
    config = build_config("pico", text_guidance=False)
    again = FusionConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.text.hidden_size == 96


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ValueError, match="perfect square") as caught:
        build_config("pico", query_lens=[3], interaction_heads=7, interaction_stride=9)
    assert "interaction_heads: 7" in str(caught.value)
    assert "after decoder layers (0, 9)" in str(caught.value)
