from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from crucible.errors import UserError
from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    generate_answers,
    load_model,
    save_model,
)
from crucible_components.models.fusion.processing import Pixels

Built = tuple[FusionForConditionalGeneration, FusionProcessor]


def test_a_saved_model_answers_as_before(
    tiny: Built, pictures: list[Pixels], tmp_path: Path
) -> None:
    save_model(*tiny, tmp_path)
    model, processor = load_model(tmp_path)
    for (name, before), after in zip(tiny[0].named_parameters(), model.parameters(), strict=True):
        assert torch.equal(before, after), name
    question = ["How many red circles are there?"]
    before = generate_answers(*tiny, pictures[:1], question, max_new_tokens=4)
    assert generate_answers(model, processor, pictures[:1], question, max_new_tokens=4) == before


def test_the_folder_holds_no_code_and_no_pickle(tiny: Built, tmp_path: Path) -> None:
    save_model(*tiny, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_saving_twice_gives_equal_bytes(tiny: Built, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(*tiny, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_auto_classes_load_it_once_the_package_is_imported(tiny: Built, tmp_path: Path) -> None:
    save_model(*tiny, tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "fusion"
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), FusionProcessor)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(model, FusionForConditionalGeneration)


@pytest.mark.slow
def test_a_fresh_process_loads_it(tiny: Built, tmp_path: Path) -> None:
    save_model(*tiny, tmp_path)
    code = (
        "import sys, crucible_components.models.fusion\n"
        "from transformers import AutoModelForImageTextToText as Auto\n"
        "print(type(Auto.from_pretrained(sys.argv[1])).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "FusionForConditionalGeneration"


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json, tokenizer\.json missing"):
        load_model(tmp_path)


def test_tied_weights_are_stored_once_and_tied_again(tiny: Built, tmp_path: Path) -> None:
    save_model(*tiny, tmp_path)
    model, _ = load_model(tmp_path)
    assert model.lm_head.weight is model.get_input_embeddings().weight
