"""The files beside the result's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crucible_components.merging.recipe.schema import MergeFile, ModelReference
from crucible_components.merging.sources.card import model_card
from crucible_components.merging.sources.locating import LocalFolder
from crucible_components.merging.sources.opening import Source, open_model
from crucible_components.merging.sources.result import (
    LayerOrigin,
    Settings,
    layer_notes,
    result_config,
    result_files,
)
from crucible_components.merging.sources.testing import small_config, small_tensors, write_folder

MERGE = """\
# kept as it is
merge_method: ties
base_model: base
models: [{model: chat}]
parameters: {density: 0.5, weight: 1.0}
"""


def layers(text: str) -> list[LayerOrigin]:
    """``a0 b1`` are layer 0 of a and layer 1 of b."""
    return [LayerOrigin(each[0], int(each[1:])) for each in text.split()]


def test_nothing_changes_by_itself() -> None:
    config = small_config(rope_scaling={"type": "yarn"}, layer_types=["x", "y"])
    assert result_config({"a": config}, "a", Settings()) == config


def test_stacked_layers_bring_what_is_listed_of_them() -> None:
    a = small_config(
        layer_types=["full", "sliding"],
        mlp_only_layers=[1],
        eos_token_id=[4, 5],
        architectures=["X", "Y"],
        max_window_layers=2,
        num_kv_heads=[1, 2],
    )
    b = {**a, "layer_types": ["linear", "conv"], "mlp_only_layers": [0], "num_kv_heads": [3, 4]}
    chosen = Settings(layers=layers("a0 a1 b0 b1 a1"))
    assert result_config({"a": a, "b": b}, "a", chosen) == {
        **a,
        "num_hidden_layers": 5,
        "layer_types": ["full", "sliding", "linear", "conv", "sliding"],
        "mlp_only_layers": [1, 2, 4],
        "num_kv_heads": [1, 2, 3, 4, 2],
    }


def test_nested_settings_of_the_language_model() -> None:
    text = {"n_layer": 2, "vocab_size": 6, "dtype": "float32", "layer_types": ["x", "y"]}
    config = {
        "text_config": text,
        "vision_config": {"n_layer": 2, "torch_dtype": "float32", "vocab_size": 1},
        "vocab_size": 6,
        "dtype": "float32",
    }
    settings = Settings(layers("a1"), vocab_size=8, is_tied=False, dtype="bfloat16")
    assert result_config({"a": config}, "a", settings) == {
        "text_config": {
            "n_layer": 1,
            "vocab_size": 8,
            "dtype": "bfloat16",
            "layer_types": ["y"],
            "tie_word_embeddings": False,
        },
        "vision_config": {"n_layer": 2, "torch_dtype": "bfloat16", "vocab_size": 1},
        "vocab_size": 8,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    assert config["dtype"] == text["dtype"] == "float32"


def test_a_type_that_was_not_set_is() -> None:
    assert result_config({"a": {}}, "a", Settings(dtype="float16")) == {"torch_dtype": "float16"}


def test_transformers_builds_what_the_settings_say(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=3, head_dim=4,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
        use_sliding_window=True, sliding_window=4, max_window_layers=1,
    ).to_dict()  # fmt: skip
    kinds = config["layer_types"]
    assert kinds == ["full_attention", "sliding_attention", "sliding_attention"]
    settings = Settings(layers("a2 a0 a0 a1"), vocab_size=20, is_tied=False, dtype="bfloat16")
    made = result_config({"a": config}, "a", settings)
    write_folder(tmp_path, {}, made)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.layer_types == [kinds[2], kinds[0], kinds[0], kinds[1]]
    model = AutoModelForCausalLM.from_config(loaded)
    assert model.dtype == torch.bfloat16
    assert len(model.model.layers) == 4
    assert model.lm_head.weight.shape == (20, 8)
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_settings_that_go_by_a_layers_number_are_noted() -> None:
    config = {"text_config": small_config(max_window_layers=1, decoder_sparse_step=2)}
    assert layer_notes(config, layers("a0 b1")) == []
    first, second = layer_notes(config, layers("a1 a0"))
    assert first.startswith("config.json: decoder_sparse_step tells what a layer is by its number")
    assert second.startswith("config.json: max_window_layers ")


LEFT_OUT = {
    "model-00001-of-00001.safetensors": "x",
    "model.safetensors.index.json": "{}",
    "pytorch_model.bin": "x",
    "optimizer.pt": "x",
    "trainer_state.json": "{}",
    "training_args.bin": "x",
    "adapter_config.json": "{}",
    "README.md": "of the base",
    "tokenizer.json": "{}",
}
TAKEN = {
    "generation_config.json": '{"temperature": 0.5}',
    "preprocessor_config.json": "{}",
    "processor_config.json": "{}",
    "video_preprocessor_config.json": "{}",
    "LICENSE": "free",
    "USE_POLICY.md": "be good",
}


def folder(path: Path, config: dict[str, Any], **code: str) -> LocalFolder:
    write_folder(path, {}, config)
    for name, text in {**LEFT_OUT, **TAKEN, **code}.items():
        (path / name).write_text(text)
    return LocalFolder(path)


def test_what_is_copied_and_what_is_not(tmp_path: Path) -> None:
    base = folder(tmp_path / "a", small_config(), **{"train.py": "print()"})
    config = {"model_type": "é"}
    files = result_files(base, config, merge_yaml=MERGE, card="# Card")
    assert {name: content.decode() for name, content in files.items()} == {
        **TAKEN,
        "config.json": '{\n  "model_type": "é"\n}\n',
        "merge.yaml": MERGE,
        "README.md": "# Card",
    }


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_that_settings_name_is_copied(tmp_path: Path, where: str) -> None:
    code = {"modeling_own.py": "class Own: ...", "configuration_own.py": "x = 1"}
    base = folder(tmp_path, small_config(), **code)
    (tmp_path / where).write_text(json.dumps({"auto_map": {"AutoModel": "modeling_own.Own"}}))
    files = result_files(base, {}, merge_yaml=MERGE, card="")
    assert {name: files[name].decode() for name in code} == code
    assert files.keys() >= TAKEN.keys()


def source(path: Path, name: str, **fields: Any) -> Source:
    write_folder(path, small_tensors(), small_config())
    opened = open_model(ModelReference.model_validate(name), {name: LocalFolder(path)})
    opened.close()
    return Source(**{**opened.__dict__, **fields})


def test_the_card_says_what_how_and_from_which_bytes(tmp_path: Path) -> None:
    base = source(tmp_path, "base", kind="hub", hub_names=("org/base",), digest="commit:12ab")
    chat = source(tmp_path, "chat", hub_names=("org/base", "org/lora"), digest="sha256:34cd")
    plain = source(tmp_path, "pl|in")
    file = MergeFile.model_validate(yaml.safe_load(MERGE))
    text = MERGE + "# ``` inside\n"
    card = model_card(file, text, [base, chat, plain], name="fused")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": ["org/base", "org/lora"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge"],
    }
    lines = body.splitlines()
    assert "# fused" in lines
    assert "3 models with the method `ties` and `base` as base, by Crucible" in body
    assert "| `base` | base | `commit:12ab` |" in lines
    assert "| `chat` | source | `sha256:34cd` |" in lines
    assert "| `pl\\|in` | source | input |" in lines
    assert f"````yaml\n{text}````\n" in body


def test_a_card_without_models_of_the_hub(tmp_path: Path) -> None:
    file = MergeFile.model_validate({"merge_method": "linear", "models": [{"model": "a"}]})
    card = model_card(file, "x: {braces}\n", [source(tmp_path, "a")])
    assert "base_model" not in card
    assert "1 model with the method `linear`, by Crucible" in card
    assert "x: {braces}" in card
