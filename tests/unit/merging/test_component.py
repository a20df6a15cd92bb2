"""The component on model folders: what it writes, and what it refuses before writing anything."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from crucible.errors import UserError
from crucible.sdk.component import slots_of
from crucible.sdk.events import EventWriter, read_events
from crucible.sdk.types import Metrics, Model, Report
from crucible.testing.contexts import step_context
from crucible_components.data.folder import FolderBytes
from crucible_components.merging.component import MergeModels

CONFIG = {"model_type": "toy", "dtype": "float32", "text_config": {"layers": 2, "dtype": "float32"}}


def write_model(folder: Path, seed: int, **config: object) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    names = ["layers.0.a.weight", "layers.0.b.weight", "layers.10.a.weight", "embed.weight"]
    save_file(
        {name: torch.randn(6, generator=generator) for name in names},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text('{"vocab": {"a": 0}}')
    (folder / "README.md").write_text(f"model {seed}")
    return folder


def merge(
    tmp_path: Path, models: list[Path], base: Path, **settings: object
) -> MergeModels.Outputs:
    outputs = MergeModels.Outputs(
        model=Model("model", FolderBytes(tmp_path / "out" / "model")),
        metrics=Metrics("metrics", FolderBytes(tmp_path / "out" / "metrics")),
        report=Report("report", FolderBytes(tmp_path / "out" / "report")),
    )
    events = EventWriter(tmp_path / "events.jsonl")
    inputs = MergeModels.Inputs(
        models=[Model("models", FolderBytes(folder)) for folder in models],
        base=Model("base", FolderBytes(base)),
    )
    config = MergeModels.Config.model_validate(settings)
    with step_context(tmp_path, sink=events) as context:
        MergeModels().run(inputs, config, outputs, context)
    events.close()
    return outputs


def test_writes_model_metrics_and_report(tmp_path: Path) -> None:
    base, *models = [write_model(tmp_path / str(seed), seed) for seed in range(3)]
    outputs = merge(tmp_path, models, base, method={"name": "sce", "select_topk": 0.5})
    assert outputs.model.paths() == (
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    )
    assert outputs.model.read_json("config.json") == CONFIG
    assert outputs.model.metadata == {"method": "sce", "select_topk": 0.5, "variant": "U"}
    metrics = outputs.metrics.read()
    assert metrics["num_parameters"] == 24
    assert metrics["share/source_1"] + metrics["share/source_2"] == pytest.approx(1)
    assert -1 <= metrics["cosine/mean"] <= 1
    tracked = [e for e in read_events(tmp_path / "events.jsonl")[0] if e["type"] == "metrics"]
    assert tracked[0]["values"] == metrics


def test_report_has_one_row_a_module_in_natural_order(tmp_path: Path) -> None:
    base, *models = [write_model(tmp_path / str(seed), seed) for seed in range(3)]
    outputs = merge(tmp_path, models, base)
    cells: list[list[str]] = []

    class Table(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "tr":
                cells.append([])

        def handle_data(self, data: str) -> None:
            if cells and self.lasttag in ("td", "th") and data.strip():
                cells[-1].append(data.strip())

    with outputs.report.open("report.html") as stream:
        page = stream.read().decode()
    Table().feed(page)
    rows = {row[0]: row for row in cells[1:]}
    assert list(rows) == ["all", "embed", "layers.0", "layers.10"]
    assert [row[1] for row in rows.values()] == ["24", "6", "12", "6"]
    assert float(rows["all"][2]) + float(rows["all"][3]) == pytest.approx(1, abs=0.002)
    assert "http" not in page
    assert "sce: select_topk 1.0, variant U" in page


def test_a_chosen_type_is_stored_and_named_in_the_config(tmp_path: Path) -> None:
    base, *models = [write_model(tmp_path / str(seed), seed) for seed in range(3)]
    outputs = merge(tmp_path, models, base, dtype="bfloat16")
    config = outputs.model.read_json("config.json")
    assert (config["dtype"], config["text_config"]["dtype"]) == ("bfloat16", "bfloat16")
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}


def test_all_problems_are_reported_and_nothing_is_written(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", 0)
    other = write_model(tmp_path / "other", 1, text_config={"layers": 3}, transformers_version="9")
    (other / "tokenizer.json").write_text('{"vocab": {"b": 0}}')
    tensors = load_file(other / "model.safetensors")
    tensors["embed.weight"][2] = float("nan")
    del tensors["layers.0.b.weight"]
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(UserError) as caught:
        merge(tmp_path, [other], base)
    assert {problem.path for problem in caught.value.problems} == {
        "models",
        "models[0].config.json.text_config.layers",
        "models[0].tokenizer.json",
        "models[0].layers.0.b.weight",
        "models[0].embed.weight",
    }
    assert not (tmp_path / "out").exists()


def test_contract() -> None:
    inputs = {slot.name: (str(slot.type), slot.many) for slot in slots_of(MergeModels.Inputs)}
    assert inputs == {"models": ("Model", True), "base": ("Model", False)}
    outputs = {slot.name: slot.same_variant_as for slot in slots_of(MergeModels.Outputs)}
    assert outputs == {"model": "models", "metrics": None, "report": None}
    defaults = MergeModels.Config().model_dump()
    assert defaults == {
        "method": {"name": "sce", "select_topk": 1.0, "variant": "U"},
        "dtype": "base",
    }


@pytest.mark.parametrize(
    "method",
    [
        {"name": "ties"},
        {"name": "sce", "select_topk": 1.1},
        {"name": "sce", "variant": "X"},
        {"name": "sce", "topk": 1},
        {"select_topk": 1.0},
    ],
)
def test_bad_settings_are_refused(method: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MergeModels.Config.model_validate({"method": method})
