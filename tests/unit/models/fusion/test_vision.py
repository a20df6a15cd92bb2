"""Checks of the tower against stock SigLIP and against the meaning of its masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SiglipVisionModel

from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.models.fusion.vision import FusionVisionTower, guidance_masks

Built = tuple[FusionForConditionalGeneration, FusionProcessor]
NUM_PATCHES = 16


def _states(tower: FusionVisionTower, *inputs: Any) -> list[Tensor]:
    """Input of the first layer and output of every layer."""
    states: list[Tensor] = []
    first = tower.layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))
    hooks = [
        layer.register_forward_hook(lambda _, __, out: states.append(out)) for layer in tower.layers
    ]
    with torch.no_grad():
        tower(*inputs)
    for hook in [first, *hooks]:
        hook.remove()
    return states


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 16, 16, generator=generator)
    text = torch.randn(2, 6, 24, generator=generator)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    return pixels, text, mask


def test_without_text_the_tower_is_stock_siglip(tiny: Built, inputs: tuple[Tensor, ...]) -> None:
    tower = tiny[0].vision_tower
    stock = SiglipVisionModel(tiny[0].config.vision).eval()
    names = dict(stock.named_parameters())
    weights = dict(tower.named_parameters())
    with torch.no_grad():
        for name, parameter in names.items():
            own = name.replace("vision_model.", "").replace("encoder.layers", "layers")
            if own in weights:
                parameter.copy_(weights[own])
        expected = stock(inputs[0], output_hidden_states=True).hidden_states
    actual = _states(tower, inputs[0])
    assert len(actual) == 5  # the fifth layer of five is dropped
    for ours, theirs in zip(actual, expected, strict=False):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_feature_is_final_shallow_mean_and_deep_mean(
    tiny: Built, inputs: tuple[Tensor, ...]
) -> None:
    tower = tiny[0].vision_tower
    states = _states(tower, *inputs)
    with torch.no_grad():
        found = tower(*inputs)
    joint = torch.cat([found.feature_NVF, found.text_feature_NTF], dim=1)
    final, shallow, deep = joint.chunk(3, dim=-1)
    torch.testing.assert_close(final, states[4])
    torch.testing.assert_close(shallow, (states[0] + states[1]) / 2)
    torch.testing.assert_close(deep, (states[2] + states[3]) / 2)
    torch.testing.assert_close(found.patch_NVC, states[0][:, :NUM_PATCHES])


def test_patches_ignore_text_in_the_early_half_only(
    tiny: Built, inputs: tuple[Tensor, ...]
) -> None:
    tower = tiny[0].vision_tower
    guided, plain = _states(tower, *inputs), _states(tower, inputs[0])
    gaps = [(g[:, :NUM_PATCHES] - p).abs().max().item() for g, p in zip(guided, plain, strict=True)]
    assert max(gaps[:3]) < 1e-5
    assert min(gaps[3:]) > 1e-3


def test_text_sees_patches_in_every_layer(tiny: Built, inputs: tuple[Tensor, ...]) -> None:
    tower = tiny[0].vision_tower
    pixels, text, mask = inputs
    other = _states(tower, pixels.flip(-1), text, mask)
    same = _states(tower, pixels, text, mask)
    gaps = [
        (a[:, NUM_PATCHES:] - b[:, NUM_PATCHES:]).abs().max()
        for a, b in zip(same, other, strict=True)
    ]
    assert gaps[0] == 0
    assert min(gaps[1:]) > 1e-4


@pytest.mark.parametrize("early", ["intended", "released"])
def test_padding_of_the_guidance_changes_nothing(
    build: Callable[..., Built], inputs: tuple[Tensor, ...], early: str
) -> None:
    tower = build(early_text_mask=early)[0].vision_tower
    pixels, text, mask = inputs
    longer = torch.cat([text, torch.full((2, 3, 24), 7.0)], dim=1)
    padded = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    with torch.no_grad():
        short, long = tower(pixels, text, mask), tower(pixels, longer, padded)
    gap = (short.feature_NVF - long.feature_NVF).abs().max()
    # The released mask lets text rows attend to padding, which reaches patches later on.
    assert gap < 1e-5 if early == "intended" else gap > 1e-4


def test_released_mask_makes_text_rows_uniform() -> None:
    mask = torch.tensor([[True, True, False]])
    early, late = guidance_masks(mask, 2, "released", torch.float32)
    scores = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    rows = (scores + early).softmax(-1)[0, 0]
    torch.testing.assert_close(rows[2:], torch.full((3, 5), 0.2))
    torch.testing.assert_close(rows[:2], (scores + late).softmax(-1)[0, 0, :2])
    assert (rows[:2, 4] == 0).all()


def test_a_picture_without_any_guidance_token_is_finite(
    tiny: Built, inputs: tuple[Tensor, ...]
) -> None:
    tower = tiny[0].vision_tower
    pixels, text, mask = inputs
    with torch.no_grad():
        found = tower(pixels, text, torch.zeros_like(mask))
        plain = tower(pixels)
    torch.testing.assert_close(found.feature_NVF, plain.feature_NVF)
