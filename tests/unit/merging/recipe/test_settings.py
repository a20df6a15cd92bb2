"""Parameters by mergekit's rules, beside mergekit's own resolution of the same settings."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from mergekit.config import MergeConfiguration, evaluate_setting
from pydantic import ValidationError

from crucible_components.merging.recipe.schema import MergeFile, ModelReference
from crucible_components.merging.recipe.settings import resolve

SETTINGS: dict[str, Any] = {
    "scalar": 0.5,
    "flag": True,
    "gradient": [0, 0.5, 0.3, 0.7, 1],
    "one": [0.25],
    "words": ["a", "b"],
    "filtered": [
        {"filter": "self_attn", "value": [0, 0.5, 1]},
        {"filter": "mlp", "value": 0.25},
        {"value": 0.75},
    ],
    "only": [{"filter": "mlp", "value": 1.0}],
    "star": [{"filter": "*", "value": 2}],
    "single": {"filter": "mlp", "value": 3},
}
MERGE = {"merge_method": "linear", "models": [{"model": "m"}], "parameters": SETTINGS}


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("tensor", ["model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q", ""])
@pytest.mark.parametrize("position", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_as_mergekit_resolves(name: str, tensor: str, position: float) -> None:
    ours = resolve(name, [MergeFile.model_validate(MERGE).parameters], tensor, position)
    setting = MergeConfiguration.model_validate(MERGE).parameters[name]
    theirs = evaluate_setting(tensor, setting, position, validate=lambda value: value)
    assert ours == theirs if not isinstance(theirs, float) else ours == pytest.approx(theirs)


def test_the_most_specific_counts() -> None:
    layers = [{}, {"weight": [{"filter": "mlp", "value": 1.0}]}, {"weight": 2.0}]
    sources = [
        MergeFile.model_validate({**MERGE, "parameters": each}).parameters for each in layers
    ]
    assert resolve("weight", sources, "a.mlp.b", 0.0) == 1.0
    assert resolve("weight", sources, "a.attn.b", 0.0) == 2.0
    assert resolve("density", sources, "a", 0.0) is None


@pytest.mark.parametrize(
    "text", ["a/b", "a/b@main", "a/b+c/d", "a/b@r1+c/d@r2", "s3://bucket/artifact"]
)
def test_references_are_read_and_written(text: str) -> None:
    assert str(ModelReference.model_validate(text)) == text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": None}, "exactly one of models, slices and modules"),
        ({"tokenizer_source": "base", "tokenizer": {"source": "base"}}, "not both"),
        ({"merge_methd": "x"}, "Extra inputs are not permitted"),
        ({"models": [{"model": "a@b@c"}]}, "more than one @"),
        ({"dtype": "int4"}, "float32"),
        ({"tokenizer": {"source": "union", "tokens": {"x": {"source": {"kind": "model_token",
          "model": "a"}}}}}, "either token or token_id"),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MergeFile.model_validate({**MERGE, **changes})


def test_mergekits_own_examples_are_accepted() -> None:
    example = """
    slices:
      - sources:
          - {model: psmathur/orca_mini_v3_13b, layer_range: [0, 40]}
          - {model: garage-bAInd/Platypus2-13B, layer_range: [0, 40]}
    merge_method: slerp
    base_model: psmathur/orca_mini_v3_13b
    parameters:
      t:
        - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
        - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
        - value: 0.5
    dtype: float16
    """
    assert MergeFile.model_validate(yaml.safe_load(example)).slices is not None
