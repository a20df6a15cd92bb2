"""Merge files as mergekit's users have them, run as they are, beside mergekit on the same models.

The models have those names in a cache of the hub, and are small. Tolerances are those of the stored
type: mergekit computes in it, and we round to it once.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from crucible_components.hub.testing import write_family
from crucible_components.merging.options import MergeOptions
from crucible_components.merging.preparing import prepare
from crucible_components.merging.recipe.parsing import parse

FILES = Path(__file__).parent / "merge_files"
NAMES = (
    "TheBloke/Llama-2-13B-fp16",
    "psmathur/orca_mini_v3_13b",
    "garage-bAInd/Platypus2-13B",
    "WizardLM/WizardLM-13B-V1.2",
    "WizardLM/WizardMath-13B-V1.0",
)
STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-22}
"""Distance of neighbouring numbers, relative to their size."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    tokens = {"garage-bAInd/Platypus2-13B": ("<|im_start|>", "<|im_end|>", "<|platypus|>")}
    write_family(folder, NAMES, tokens, num_layers=40, hidden_size=16)
    return folder


@pytest.fixture(autouse=True)
def offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def ours(name: str, folder: Path) -> dict[str, torch.Tensor]:
    text = (FILES / f"{name}.yml").read_text()
    folder.mkdir()
    with prepare(parse(text), text, options=MergeOptions(threads=2)) as merge:
        merge.run(folder)
    return load_file(folder / "model.safetensors")


def snapshot(hub: Path, model: str) -> Path:
    return next(hub.glob(f"models--{model.replace('/', '--')}/snapshots/*"))


def theirs(name: str, hub: Path, folder: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions as Options

        text = (FILES / f"{name}.yml").read_text()
        for model in NAMES:  # it asks the network for names of the hub, whatever the cache has
            text = text.replace(model, str(snapshot(hub, model)))
        config = MergeConfiguration.model_validate(yaml.safe_load(text))
        options = Options(quiet=True, random_seed=0)
        run_merge(config, str(folder), options, config_source=text)
    return load_file(folder / "model.safetensors")


def both(name: str, hub: Path, tmp_path: Path) -> tuple[Any, Any]:
    results = ours(name, tmp_path / "ours"), theirs(name, hub, tmp_path / "theirs")
    assert results[0].keys() == results[1].keys()
    return results


@pytest.mark.parametrize(
    ("name", "steps"),
    [("linear", 2), ("slerp", 1), ("gradient-slerp", 1), ("ties", 4), ("frankenmerge", 0)],
)
def test_the_file_gives_mergekits_tensors(name: str, steps: int, hub: Path, tmp_path: Path) -> None:
    dtype = yaml.safe_load((FILES / f"{name}.yml").read_text())["dtype"]
    for tensor, (mine, other) in pairs(*both(name, hub, tmp_path)).items():
        assert mine.dtype == other.dtype == getattr(torch, dtype)
        size = float(other.float().abs().max())
        difference = (mine.float() - other.float()).abs()
        # Changes rounded to float16 have many equal sizes, of which each of us keeps others.
        limit = steps * STEP[dtype] * size
        assert (difference > limit).float().mean() <= (0.05 if name == "ties" else 0), tensor


def pairs(mine: Any, other: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (mine[name], other[name]) for name in mine}


def test_dare_draws_other_numbers_of_the_same_distribution(hub: Path, tmp_path: Path) -> None:
    mine, other = both("dare", hub, tmp_path)
    base = load_file(snapshot(hub, NAMES[0]) / "model.safetensors")
    names = [name for name in mine if "mlp" in name]
    changes = [
        torch.cat([(result[name].float() - base[name].float()).flatten() for name in names])
        for result in (mine, other)
    ]
    kept = [float((change != 0).float().mean()) for change in changes]
    assert kept[0] == pytest.approx(kept[1], abs=0.01)
    spread = [float(change.std()) for change in changes]
    assert spread[0] == pytest.approx(spread[1], rel=0.02)
    assert abs(float(changes[0].mean() - changes[1].mean())) < 0.02 * spread[1]


def test_the_union_of_vocabularies(hub: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    mine, other = both("union", hub, tmp_path)
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / each) for each in ("ours", "theirs")]
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers]
    assert vocabularies[0] == vocabularies[1]
    assert "<|platypus|>" in vocabularies[0]
    count = len(vocabularies[0])
    for name, (ours_, theirs_) in pairs(mine, other).items():
        # Rows without a token, which mergekit cuts off, stay.
        rows = slice(0, count) if "embed" in name or "head" in name else slice(None)
        assert torch.allclose(ours_[rows], theirs_[rows], rtol=1e-5, atol=1e-7), name
    assert mine["model.embed_tokens.weight"].shape[0] == 64
