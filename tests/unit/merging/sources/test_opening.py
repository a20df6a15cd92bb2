"""What model references open to, and everything that is refused."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crucible.artifacts import open_store
from crucible.errors import Problem, UserError
from crucible_components.merging.recipe.schema import ModelReference
from crucible_components.merging.sources.checking import CONVERSION
from crucible_components.merging.sources.locating import LocalFolder
from crucible_components.merging.sources.opening import Source, open_model, open_models
from crucible_components.merging.sources.testing import small_config, small_tensors, write_folder

NORM = "model.norm.weight"


def reference(text: str) -> ModelReference:
    return ModelReference.model_validate(text)


def folder_at(path: Path, **changes: Any) -> Path:
    return write_folder(path, small_tensors(), small_config(**changes))


def norm(source: Source) -> torch.Tensor:
    return source.reader.read_span(NORM, slice(0, 4))


def refused(path: Any, **lookup: Any) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as error:
        open_model(reference(str(path)), lookup)
    assert all(str(problem) in str(error.value) for problem in error.value.problems)
    return error.value.problems


def sharded(folder: Path) -> Path:
    """Three files with an index."""
    tensors = small_tensors()
    write_folder(folder, {}, small_config())
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    weight_map = {}
    for number, file in enumerate(names):
        part = dict(list(tensors.items())[number::3])
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_names_come_before_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder_at(tmp_path / "chat")
    named = write_folder(tmp_path / "other", small_tensors(seed=1), small_config())
    with open_model(reference("chat"), {}) as source:
        assert (source.kind, source.digest, source.hub_names) == ("folder", None, ())
        assert torch.equal(norm(source), small_tensors()[NORM])
        assert source.config == small_config()
        assert source.reader.infos.keys() == small_tensors().keys()
    with open_model(reference("chat"), {"chat": LocalFolder(named)}) as source:
        assert (source.kind, source.reference) == ("input", "chat")
        assert torch.equal(norm(source), small_tensors(seed=1)[NORM])


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_at(tmp_path / "model dir")
    store = open_store(f"file://{tmp_path}/store")
    digest = store.put_tree(folder, type="Model").digest
    with open_model(reference(f"file://{tmp_path}/store@{digest}"), {}) as source:
        assert (source.kind, source.digest) == ("artifact", digest)
        assert source.folder.read_json("config.json") == small_config()
        assert torch.equal(norm(source), small_tensors()[NORM])
    monkeypatch.setenv("CRUCIBLE_STORE", f"file://{tmp_path}/store")
    with open_model(reference(f"artifact:{digest}"), {}) as source:
        assert source.digest == digest
    with open_model(reference(folder.as_uri()), {}) as source:
        assert source.kind == "folder"


def test_addresses_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = "sha256:" + "0" * 64
    [problem] = refused(f"file://{tmp_path}/store@{absent}")
    assert absent in problem.message
    [problem] = refused("s3://bucket/prefix")
    assert "names no digest" in problem.message
    assert "s3://BUCKET/PREFIX@sha256:DIGEST" in problem.fix
    [problem] = refused("s3://bucket/prefix@main")
    assert "'main' is not the digest of an artifact" in problem.message
    monkeypatch.delenv("CRUCIBLE_STORE", raising=False)
    [problem] = refused(f"artifact:{absent}")
    assert "CRUCIBLE_STORE is not set" in problem.message


def test_names_that_are_misspelt(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "model")
    [problem] = refused("instrcut", instruct=LocalFolder(folder), base=LocalFolder(folder))
    assert problem.path == "instrcut"
    assert "Did you mean 'instruct'? Valid: base, instruct." in problem.fix
    [problem] = refused("./no/such/folder")
    assert problem.message == "no such folder or input."
    [problem] = refused(f"{folder}@main")
    assert problem.message == "has revision 'main'; only models of the hub have revisions."


def test_shards(tmp_path: Path) -> None:
    with open_model(reference(str(sharded(tmp_path / "model"))), {}) as source:
        assert source.reader.infos.keys() == small_tensors().keys()
        assert torch.equal(norm(source), small_tensors()[NORM])


def test_only_the_models_own_weights_are_read(tmp_path: Path) -> None:
    """Neither checkpoints of its training, nor an adapter or another format beside it."""
    folder = sharded(tmp_path / "model")
    save_file({"x": torch.zeros(1)}, folder / "consolidated.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    folder_at(folder / "checkpoint-100")
    with open_model(reference(str(folder)), {}) as source:
        assert source.reader.infos.keys() == small_tensors().keys()
    other = folder_at(tmp_path / "other")
    (other / "model.safetensors").rename(other / "weights.safetensors")
    folder_at(other / "checkpoint-100")
    store = open_store(f"file://{tmp_path}/store")
    digest = store.put_tree(other, type="Model").digest
    with open_model(reference(f"file://{tmp_path}/store@{digest}"), {}) as source:
        assert source.reader.infos.keys() == small_tensors().keys()
    (other / "._weights.safetensors").write_bytes(b"of a file manager")
    with open_model(reference(str(other)), {}) as source:
        assert source.reader.infos.keys() == small_tensors().keys()
    single = folder_at(tmp_path / "single")
    save_file({"x": torch.zeros(1)}, single / "adapter_model.safetensors")
    (single / "adapter_config.json").write_text("{}")
    with open_model(reference(str(single)), {}) as source:
        assert source.reader.infos.keys() == small_tensors().keys()


def test_every_broken_file_is_told(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    first, second, _ = sorted(folder.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-3])
    second.write_bytes(b"\xff" * 40)
    (folder / "config.json").write_text("{")
    text = [f"{problem.path} {problem.message}" for problem in refused(folder)]
    assert len(text) == 3
    assert text[0].startswith(f"{folder}.config.json cannot be read")
    assert f"{first.name}: not a valid safetensors file" in text[1]
    assert "header describes another length" in text[1]
    assert f"{second.name}: not a valid safetensors file" in text[2]


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    (folder / "model-00002-of-00003.safetensors").unlink()
    [problem] = refused(folder)
    assert "names files that are missing: model-00002-of-00003.safetensors" in problem.message


def test_settings_that_are_no_object(tmp_path: Path) -> None:
    [problem] = refused(write_folder(tmp_path / "a", small_tensors(), None))
    assert (problem.path, problem.message) == (f"{tmp_path / 'a'}.config.json", "is missing.")
    [problem] = refused(write_folder(tmp_path / "b", small_tensors(), None, config__json="[]"))
    assert "holds a list, not an object" in problem.message


def test_pickles_are_refused_with_a_command_that_converts_them(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16()
    old, new = tmp_path / "old", tmp_path / "new"
    model.save_pretrained(old)
    (old / "model.safetensors").unlink()
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    [problem] = refused(old)
    assert problem.message == "has no safetensors, only pytorch_model.bin."
    assert problem.fix == f"Convert it: {CONVERSION}"
    _, _, code = shlex.split(CONVERSION)
    exec(code.replace("OLD", str(old)).replace("NEW", str(new)), {})
    with open_model(reference(str(new)), {}) as source:
        expected = load_file(new / "model.safetensors")
        assert source.reader.infos.keys() == expected.keys()
        assert torch.equal(expected["lm_head.weight"], model.lm_head.weight)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    [problem] = refused(write_folder(tmp_path / "a", {}, small_config(), training_args__bin=""))
    assert problem.message == "holds no .safetensors file."
    assert CONVERSION in problem.fix


@pytest.mark.parametrize(
    ("changes", "name", "dtype", "told"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, None, None, "says gptq"),
        (
            {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
            None,
            None,
            "text_config.quantization_config says fp8",
        ),
        ({}, "model.layers.0.mlp.up_proj.weight", torch.float8_e4m3fn, "(float8_e4m3fn)"),
        ({}, "model.layers.0.mlp.up_proj.weight", torch.int8, "up_proj.weight (int8)"),
        ({}, "model.layers.0.mlp.up_proj.blocks", torch.uint8, "up_proj.blocks (uint8)"),
        ({}, "model.layers.0.mlp.up_proj.qweight", torch.int32, "up_proj.qweight (int32)"),
    ],
)
def test_quantised_models_are_refused(
    tmp_path: Path, changes: dict[str, Any], name: str | None, dtype: torch.dtype, told: str
) -> None:
    tensors = small_tensors()
    if name is not None:
        tensors[name] = torch.zeros(8, 4).to(dtype)
    [problem] = refused(write_folder(tmp_path / "model", tensors, small_config(**changes)))
    assert problem.message.startswith("is quantised: ")
    assert told in problem.message
    assert "dequantise it" in problem.fix


def test_masks_and_counters_are_not_quantised(tmp_path: Path) -> None:
    tensors = small_tensors()
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    tensors["vision.position_ids"] = torch.arange(4)
    tensors["vision.steps"] = torch.zeros(4, dtype=torch.uint8)
    open_model(reference(str(write_folder(tmp_path / "m", tensors, small_config()))), {}).close()


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    settings = json.dumps({"base_model_name_or_path": "org/base"})
    folder = write_folder(tmp_path / "adapter", {}, None, adapter_config__json=settings)
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    [problem] = refused(folder)
    assert problem.message == "is an adapter, not a model."
    assert problem.fix == f"Write BASE+ADAPTER: org/base+{folder}."


def test_what_is_wrong_with_any_model_is_told_at_once(tmp_path: Path) -> None:
    good, bad = folder_at(tmp_path / "good"), tmp_path / "bad"
    shutil.copytree(good, bad)
    (bad / "config.json").unlink()
    paths = [good, bad, tmp_path / "none", bad]
    with pytest.raises(UserError, match="models: cannot be merged \\(2 problems\\)") as error:
        open_models([reference(str(path)) for path in paths], {})
    assert [each.path for each in error.value.problems] == [
        f"{bad}.config.json",
        str(tmp_path / "none"),
    ]


def test_models_are_opened_once(tmp_path: Path) -> None:
    first, second = folder_at(tmp_path / "a"), folder_at(tmp_path / "b")
    sources = open_models([reference(str(path)) for path in (first, second, first)], {})
    assert list(sources) == [str(first), str(second)]
    for source in sources.values():
        source.close()
        assert not source.reader._streams  # type: ignore[attr-defined]


def test_another_architecture_may_be_claimed(tmp_path: Path) -> None:
    path = str(folder_at(tmp_path / "a"))
    claimed = ModelReference.model_validate({"model": path, "override_architecture": "Other"})
    with open_model(claimed, {}) as source:
        assert source.config["architectures"] == ["Other"]
