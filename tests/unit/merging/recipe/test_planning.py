"""What each tensor of the result is made of, and what is wrong with a merge file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crucible_components.merging.recipe.checks import check_file
from crucible_components.merging.recipe.headers import Input, ModelHeaders, TensorPlan
from crucible_components.merging.recipe.layers import layers_of
from crucible_components.merging.recipe.planning import Planner
from crucible_components.merging.recipe.schema import MergeFile
from crucible_components.models.weights import TensorInfo


def headers(num_layers: int, *, columns: int = 4) -> ModelHeaders:
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    for index in range(num_layers):
        names += [f"model.layers.{index}.{part}.weight" for part in ("self_attn.q", "mlp.up")]
    infos = {name: TensorInfo(name, torch.bfloat16, (8, columns)) for name in names}
    return ModelHeaders(infos, num_layers)


def planned(
    known: dict[str, ModelHeaders], **content: Any
) -> tuple[dict[str, TensorPlan], list[str]]:
    planner = Planner(MergeFile.model_validate(content), known)
    found = {each.name: each for each in planner.plan()}
    return found, [f"{problem.path} {problem.message}" for problem in planner.problems]


def test_the_language_models_layers_are_found() -> None:
    names = [f"vision.blocks.{i}.norm" for i in range(24)]
    names += [f"language.layers.{i}.experts.{e}.up" for i in range(12) for e in range(64)]
    names += ["embed.weight", "projector.0.weight", "projector.2.weight"]
    layers = layers_of(names, 12)
    assert layers is not None
    assert (layers.prefix, layers.count) == ("language.layers.", 12)
    assert layers.index_of("language.layers.3.experts.7.up") == 3
    assert layers.moved("language.layers.3.experts.7.up", 9) == "language.layers.9.experts.7.up"
    assert layers_of(names) == layers_of(names, 24) != layers
    assert layers_of(["a", "b.weight"]) is None


def test_gradients_filters_and_the_base() -> None:
    found, problems = planned(
        {"a": headers(3), "b": headers(3)},
        merge_method="slerp",
        base_model="a",
        models=[{"model": "b"}],
        parameters={"t": [{"filter": "self_attn", "value": [0, 1]}, {"value": 0.25}]},
    )
    assert problems == []
    assert len(found) == 8
    for index, t in enumerate((0.0, 0.5, 1.0)):
        attention = found[f"model.layers.{index}.self_attn.q.weight"]
        assert attention.values == {"t": t}
        assert attention.base == Input("a", attention.name)
        assert attention.inputs == (Input("b", attention.name),)
        assert found[f"model.layers.{index}.mlp.up.weight"].values == {"t": 0.25}
    assert found["model.norm.weight"].values == {"t": 0.25}


def test_layers_are_stacked_and_renumbered() -> None:
    found, problems = planned(
        {"a": headers(4), "b": headers(4)},
        merge_method="passthrough",
        slices=[
            {"sources": [{"model": "a", "layer_range": [0, 3]}]},
            {"sources": [{"model": "b", "layer_range": [1, 4]}]},
        ],
    )
    assert problems == []
    origins = [found[f"model.layers.{i}.mlp.up.weight"].inputs[0] for i in range(6)]
    assert [(o.model, o.tensor.split(".")[2]) for o in origins] == [
        ("a", "0"), ("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("b", "3"),
    ]  # fmt: skip
    assert "model.layers.6.mlp.up.weight" not in found


def test_all_mistakes_are_told_at_once() -> None:
    short = headers(3)
    del short.infos["model.layers.1.mlp.up.weight"]  # type: ignore[attr-defined]
    _, problems = planned(
        {"a": headers(3), "b": short, "c": headers(3, columns=5)},
        merge_method="ties",
        base_model="a",
        models=[{"model": "a"}, {"model": "b"}, {"model": "c", "parameters": {"weight": 1.0}}],
    )
    text = "\n".join(problems)
    assert "b.model.layers.1.mlp.up.weight is missing; a has it." in text
    assert "and 5 more has shape [8, 5], in a [8, 4]." in text
    told = "parameters.weight is not set for some tensors, such as model.embed_tokens.weight."
    assert told in text


def test_layers_beyond_the_model() -> None:
    _, problems = planned(
        {"a": headers(2)},
        merge_method="passthrough",
        slices=[{"sources": [{"model": "a", "layer_range": [1, 4]}]}],
    )
    assert problems == ["slices.a.layer_range reaches beyond the model, which has 2 layers."]


def test_norm_and_head_are_those_of_the_last_slice() -> None:
    found, _ = planned(
        {"a": headers(2), "b": headers(2)},
        merge_method="passthrough",
        slices=[
            {"sources": [{"model": "a", "layer_range": [0, 1]}]},
            {"sources": [{"model": "b", "layer_range": [1, 2]}]},
        ],
    )
    assert found["model.embed_tokens.weight"].inputs[0].model == "a"
    assert found["model.norm.weight"].inputs[0].model == "b"


def vision_language(num_layers: int) -> ModelHeaders:
    text = headers(num_layers).infos
    names = [n.replace("model.", "model.language_model.") for n in text]
    names += ["model.vision_tower.blocks.0.weight", "model.vision_tower.steps"]
    infos = {n: TensorInfo(n, torch.bfloat16, (8, 4)) for n in names}
    steps = "model.vision_tower.steps"
    infos[steps] = TensorInfo(steps, torch.int64, (3,))
    return ModelHeaders(infos, num_layers)


def test_a_language_model_is_merged_into_a_module() -> None:
    found, problems = planned(
        {"vlm": vision_language(2), "text": headers(2)},
        merge_method="linear",
        dtype="float16",
        modules={
            "language_model": {
                "models": [
                    {"model": "vlm", "parameters": {"weight": 1}},
                    {"model": "text", "parameters": {"weight": 2}},
                ]
            }
        },
    )
    assert problems == []
    assert set(found) == set(vision_language(2).infos)
    merged = found["model.language_model.layers.1.mlp.up.weight"]
    assert merged.inputs[1] == Input("text", "model.layers.1.mlp.up.weight")
    assert merged.dtype == torch.float16
    norm = found["model.language_model.norm.weight"]
    assert norm.inputs[1] == Input("text", "model.norm.weight")
    tower = found["model.vision_tower.blocks.0.weight"]
    assert tower.copied_from == Input("vlm", "model.vision_tower.blocks.0.weight")
    assert tower.dtype == torch.bfloat16


def test_whole_numbers_are_copied() -> None:
    one, other = vision_language(1), vision_language(1)
    found, problems = planned(
        {"a": one, "b": other}, merge_method="task_arithmetic", base_model="a",
        models=[{"model": "b", "parameters": {"weight": 1}}],
    )  # fmt: skip
    assert problems == []
    assert found["model.vision_tower.steps"].copied_from == Input("a", "model.vision_tower.steps")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"merge_method": "tis"}, "merge_method: is 'tis', no such method. Did you mean 'ties'?"),
        ({"base_model": None}, "base_model: is not set; ties needs one."),
        ({"parameters": {"densty": 1}}, "parameters.densty: is no parameter of ties. Did you mean"),
        (
            {"parameters": {"density": [0.5, 1.5]}},
            "parameters.density: is 1.5; at least 0 and at most 1 is meant.",
        ),
        (
            {"parameters": {"density": [{"value": -1}]}},
            "parameters.density: is -1; at least 0 and at most 1 is meant.",
        ),
        ({"parameters": {"normalize": "yes"}}, "parameters.normalize: is 'yes'; true or false"),
        ({"parameters": {"lambda": float("nan")}}, "parameters.lambda: is nan; a number is meant."),
        (
            {"models": [{"model": "a"}, {"model": "a"}, {"model": "b"}]},
            "models: lists the base a 2 times.",
        ),
        ({"models": [{"model": "a"}]}, "models: has 0 besides the base; ties needs 1."),
        (
            {"merge_method": "nearswap", "parameters": {"t": 1},
             "models": [{"model": "b"}, {"model": "c"}]},
            "models: has 2 besides the base; nearswap takes 1.",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file(content: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "a",
        "models": [{"model": "b", "parameters": {"weight": 1}}],
    }
    assert check_file(MergeFile.model_validate(right)) == []
    [problem] = check_file(MergeFile.model_validate({**right, **content}))
    assert str(problem).startswith(message)


def test_parameters_that_do_not_fit_together() -> None:
    models = [{"model": m, "parameters": {"weight": w}} for m, w in (("a", 1), ("b", -1))]
    known = {"a": headers(2), "b": headers(2)}
    _, problems = planned(known, merge_method="linear", models=models)
    assert problems == ["parameters have weights that sum to 0 and are to be normalised."]
