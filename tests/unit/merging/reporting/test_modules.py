from __future__ import annotations

import pytest

from crucible_components.merging.reporting.modules import KINDS, Place, place_of

LAYERS = "model.layers"
VISION = "vision_tower.encoder.layers"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.self_attn.q_proj.weight", ("language", LAYERS, 3, "self_attn")),
        ("model.layers.3.self_attn.q_norm.weight", ("language", LAYERS, 3, "self_attn")),
        ("model.layers.3.post_attention_layernorm.weight", ("language", LAYERS, 3, "norms")),
        ("model.layers.12.mlp.experts.4.w1.weight", ("language", LAYERS, 12, "mlp")),
        ("model.layers.1.block_sparse_moe.gate.weight", ("language", LAYERS, 1, "mlp")),
        ("transformer.h.0.ln_1.weight", ("language", "transformer.h", 0, "norms")),
        ("transformer.h.0.attn.c_attn.bias", ("language", "transformer.h", 0, "self_attn")),
        ("model.visual.blocks.7.norm1.weight", ("vision", "model.visual.blocks", 7, "norms")),
        ("vision_tower.encoder.layers.2.mlp.fc1.weight", ("vision", VISION, 2, "mlp")),
        ("model.visual.merger.mlp.0.weight", ("vision", "", None, "projector")),
        ("model.visual.patch_embed.proj.weight", ("vision", "", None, "embed")),
        ("multi_modal_projector.linear_1.weight", ("language", "", None, "projector")),
        ("audio_tower.layers.0.fc1.weight", ("audio", "audio_tower.layers", 0, "mlp")),
        ("model.embed_tokens.weight", ("language", "", None, "embed")),
        ("model.norm.weight", ("language", "", None, "norms")),
        ("lm_head.weight", ("language", "", None, "head")),
        ("0.fc.weight", ("language", "", 0, "mlp")),
        ("model.advisory.weight", ("language", "", None, "other")),
        ("bias", ("language", "", None, "other")),
    ],
)
def test_place_of_a_tensor(name: str, place: tuple[str, str, int | None, str]) -> None:
    assert place_of(name) == Place(*place)
    assert place[3] in KINDS


def test_layers_are_ordered_by_number_and_language_comes_first() -> None:
    names = [
        "visual.blocks.0.mlp.a.weight",
        "model.layers.10.mlp.a.weight",
        "lm_head.weight",
        "model.layers.9.mlp.a.weight",
        "model.layers.9.self_attn.a.weight",
    ]
    places = sorted(map(place_of, names), key=lambda place: place.order)
    assert [(place.layer_name, place.kind) for place in places] == [
        ("model.layers.9", "self_attn"),
        ("model.layers.9", "mlp"),
        ("model.layers.10", "mlp"),
        ("language, outside of layers", "head"),
        ("visual.blocks.0", "mlp"),
    ]
