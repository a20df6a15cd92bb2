"""The component on model folders: what it writes, and what it refuses before writing anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from crucible.errors import UserError
from crucible.sdk.component import slots_of
from crucible.sdk.events import EventWriter, read_events
from crucible.sdk.types import Metrics, Model, Report
from crucible.testing.contexts import step_context
from crucible_components.data.folder import FolderBytes
from crucible_components.merging.component import MergeModels

CONFIG = {"model_type": "toy", "dtype": "float32", "text_config": {"hidden": 2, "dtype": "float32"}}
NAMES = ("layers.0.a.weight", "layers.0.b.weight", "layers.1.a.weight", "layers.1.b.weight", "norm")


def write_model(folder: Path, seed: int, **config: object) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    save_file(
        {name: torch.randn(6, generator=generator) for name in NAMES},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "README.md").write_text(f"model {seed}")
    return folder


def merge(
    tmp_path: Path, models: list[Path], base: Path | None, **settings: Any
) -> MergeModels.Outputs:
    outputs = MergeModels.Outputs(
        model=Model("model", FolderBytes(tmp_path / "out" / "model")),
        metrics=Metrics("metrics", FolderBytes(tmp_path / "out" / "metrics")),
        report=Report("report", FolderBytes(tmp_path / "out" / "report")),
    )
    events = EventWriter(tmp_path / "events.jsonl")
    inputs = MergeModels.Inputs(
        models=[Model("models", FolderBytes(folder)) for folder in models],
        base=None if base is None else Model("base", FolderBytes(base)),
    )
    config = MergeModels.Config.model_validate(settings)
    with step_context(tmp_path, sink=events) as context:
        MergeModels().run(inputs, config, outputs, context)
    events.close()
    return outputs


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_model(tmp_path / str(seed), seed) for seed in range(3)]


def test_writes_model_metrics_and_report(tmp_path: Path, folders: list[Path]) -> None:
    base, *models = folders
    recipe = {"merge_method": "sce", "parameters": {"select_topk": 0.5}}
    outputs = merge(tmp_path, models, base, recipe=recipe)
    assert outputs.model.paths() == (
        "README.md",
        "config.json",
        "merge.yaml",
        "model.safetensors",
    )
    assert outputs.model.read_json("config.json") == CONFIG
    assert outputs.model.metadata == {"method": "sce"}
    metrics = outputs.metrics.read()
    assert metrics["num_parameters"] == 30
    assert -1 <= metrics["cosine/mean"] <= 1
    tracked = [e for e in read_events(tmp_path / "events.jsonl")[0] if e["type"] == "metrics"]
    assert tracked[0]["values"] == metrics
    with outputs.report.open("report.html") as stream:
        assert "sce" in stream.read().decode()


def test_the_recipe_is_kept_as_a_merge_file(tmp_path: Path, folders: list[Path]) -> None:
    base, *models = folders
    outputs = merge(tmp_path, models, base)
    with outputs.model.open("merge.yaml") as stream:
        assert yaml.safe_load(stream) == {
            "merge_method": "sce",
            "models": [{"model": "model_1"}, {"model": "model_2"}],
            "base_model": "base",
        }


def test_a_file_of_mergekit_with_names_of_the_hub(tmp_path: Path, folders: list[Path]) -> None:
    base, one, other = folders
    recipe = {
        "merge_method": "linear",
        "models": [
            {"model": "org/one", "parameters": {"weight": 1.0}},
            {"model": "org/other@v2", "parameters": {"weight": [{"filter": ".a.", "value": 3.0},
                                                              {"value": 0.0}]}},
        ],
        "dtype": "bfloat16",
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        merge(tmp_path, [one, other], None, recipe=recipe, model_names=["org/one", "org/othr"])
    assert "org/other@v2" in str(caught.value.problems)
    assert "may change unnoticed" in str(caught.value.problems)
    recipe["models"][1]["model"] = "org/other"  # type: ignore[index]
    outputs = merge(
        tmp_path, [one, other], base, recipe=recipe, model_names=["org/one", "org/other"]
    )
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    expected = (first[NAMES[0]] + 3 * second[NAMES[0]]) / 4
    assert torch.equal(merged[NAMES[0]], expected.bfloat16())
    assert torch.equal(merged[NAMES[1]], first[NAMES[1]].bfloat16())
    config = outputs.model.read_json("config.json")
    assert (config["dtype"], config["text_config"]["dtype"]) == ("bfloat16", "bfloat16")


def test_parameters_by_part_of_the_model(tmp_path: Path, folders: list[Path]) -> None:
    base, one, other = folders
    merge(
        tmp_path,
        [one, other],
        base,
        recipe={"merge_method": "task_arithmetic", "parameters": {"weight": 0.0}},
        by_filter={"layers.1.a": {"weight": 0.25}, ".a.": {"weight": 0.5}},
    )
    theta, first, second = (load_file(folder / "model.safetensors") for folder in folders)
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    for name, weight in {NAMES[0]: 0.5, NAMES[2]: 0.25, NAMES[1]: 0.0, "norm": 0.0}.items():
        changes = (first[name] - theta[name]) + (second[name] - theta[name])
        assert torch.allclose(merged[name], theta[name] + weight * changes, atol=1e-6), name


def test_all_problems_are_reported_and_nothing_is_written(
    tmp_path: Path, folders: list[Path]
) -> None:
    base, one, _ = folders
    other = write_model(tmp_path / "other", 1, text_config={"hidden": 3}, transformers_version="9")
    tensors = load_file(other / "model.safetensors")
    del tensors["layers.0.b.weight"]
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(UserError) as caught:
        merge(tmp_path, [one, other], base)
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 2
    assert any("hidden" in each for each in told)
    assert any("layers.0.b.weight" in each and "is missing" in each for each in told)
    assert not (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_names_must_be_as_many_as_models(tmp_path: Path, folders: list[Path]) -> None:
    with pytest.raises(UserError) as caught:
        merge(tmp_path, folders[1:], folders[0], model_names=["one"])
    assert str(caught.value.problems[0]).startswith("model_names: has 1 names for 2 models.")


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="at most one of models"):
        MergeModels.Config.model_validate(
            {"recipe": {"merge_method": "ties", "models": [{"model": "a"}],
                        "slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]}}
        )  # fmt: skip
    with pytest.raises(ValidationError, match="extra"):
        MergeModels.Config.model_validate({"recipe": {"merge_method": "ties", "densty": 1}})
    with pytest.raises(ValidationError, match="Did you mean 'sce'"):
        MergeModels.Config.model_validate({"recipe": {"merge_method": "scee"}})
    with pytest.raises(ValidationError, match=r"parameters\.density: is 2"):
        MergeModels.Config.model_validate(
            {"recipe": {"merge_method": "ties", "parameters": {"density": 2}}}
        )


def test_settings_are_checked_without_torch() -> None:
    code = (
        "import sys; from crucible_components.merging.component import MergeModels;"
        "MergeModels.Config(recipe={'merge_method': 'ties', 'parameters': {'density': 0.5}});"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_slots() -> None:
    slots = {slot.name: slot for slot in slots_of(MergeModels.Inputs)}
    assert slots["models"].many
    assert slots["base"].optional
