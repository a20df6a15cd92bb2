"""Adapters against peft: what its merge gives, in float32, and what its models compute."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crucible.errors import UserError
from crucible_components.merging.recipe.schema import ModelReference
from crucible_components.merging.sources import lora
from crucible_components.merging.sources.opening import Source, open_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of peft's own use of what it imports
    import peft

ATTENTION = ["q_proj", "v_proj"]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ATTENTION},
    "all-linear": {"target_modules": "all-linear", "r": 3},
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "patterns": {
        "target_modules": [*ATTENTION, "up_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 5},
        "alpha_pattern": {r".*\.0\.self_attn\.v_proj": 3, "up_proj": 1},
    },
    "patterns-rslora": {
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 2},
        "use_rslora": True,
    },
    "dora": {"target_modules": [*ATTENTION, "down_proj"], "use_dora": True},
    "embedding-and-head": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "modules-to-save": {
        "target_modules": ATTENTION,
        "modules_to_save": ["lm_head", "embed_tokens", "norm"],
    },
    "biases": {"target_modules": ATTENTION, "bias": "all"},
}


def llama(folder: Path, **changes: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=52,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        **changes,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.bfloat16().save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    config = GPT2Config(vocab_size=31, n_positions=16, n_embd=24, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def trained(base: Path, folder: Path, **settings: Any) -> Any:
    """A peft model in float32 whose every trainable value was changed; saved in ``folder``."""
    from transformers import AutoModelForCausalLM

    given = {"r": 4, "lora_alpha": 7, "task_type": "CAUSAL_LM", **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied weights, embeddings and Conv1D
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = peft.get_peft_model(plain, peft.LoraConfig(**given))
        generator = torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = 0.2 * torch.randn(parameter.shape, generator=generator)
                parameter.data += noise
        model.eval().save_pretrained(folder)
    return model


def opened(base: Path, adapter: Path) -> Source:
    return open_model(ModelReference.model_validate(f"{base}+{adapter}"), {})


def whole(source: Source, name: str) -> Tensor:
    info = source.reader.infos[name]
    values = source.reader.read_span(name, slice(0, math.prod(info.shape)))
    assert values.dtype == info.dtype
    return values.reshape(info.shape)


def changed(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("grid_elements", [1, lora.GRID_ELEMENTS])
@pytest.mark.parametrize("case", CASES)
def test_as_peft_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, grid_elements: int
) -> None:
    """In one block and in many."""
    monkeypatch.setattr(lora, "GRID_ELEMENTS", grid_elements)
    base = llama(tmp_path / "base")
    model = trained(base, tmp_path / "adapter", **CASES[case])
    before = load_file(base / "model.safetensors")
    merged = model.merge_and_unload().state_dict()
    with opened(base, tmp_path / "adapter") as source:
        assert source.reader.infos.keys() == merged.keys()
        num_changed = 0
        for name, expected in merged.items():
            ours = whole(source, name)
            torch.testing.assert_close(ours.float(), expected, rtol=2e-6, atol=2e-6)
            is_adapted = source.reader.infos[name].dtype == torch.float32
            if not is_adapted:
                assert ours.dtype == torch.bfloat16
                assert torch.equal(ours, before[name])
            num_changed += is_adapted
        assert num_changed >= 4


def test_transposed_weights_as_peft_merges(tmp_path: Path) -> None:
    base = gpt2(tmp_path / "base")
    model = trained(base, tmp_path / "adapter", target_modules=["c_attn", "c_proj"])
    merged = model.merge_and_unload().state_dict()
    with opened(base, tmp_path / "adapter") as source:
        assert source.reader.infos.keys() == merged.keys() - {"lm_head.weight"}
        for name in source.reader.infos:
            torch.testing.assert_close(whole(source, name), merged[name], rtol=2e-6, atol=2e-6)


def renamed(folder: Path, old: str, new: str) -> None:
    """As checkpoints are whose names begin otherwise than those of the model in memory."""
    weights = load_file(folder / "model.safetensors")
    weights = {name.replace(old, new, 1): value for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(("old", "new"), [("transformer.", ""), ("transformer.", "text.model.")])
def test_a_checkpoint_whose_names_begin_otherwise(tmp_path: Path, old: str, new: str) -> None:
    base = gpt2(tmp_path / "base")
    model = trained(base, tmp_path / "adapter", target_modules=["c_attn"])
    merged = model.merge_and_unload().state_dict()
    renamed(base, old, new)
    with opened(base, tmp_path / "adapter") as source:
        adapted = f"{new}h.1.attn.c_attn.weight"
        torch.testing.assert_close(
            whole(source, adapted), merged["transformer.h.1.attn.c_attn.weight"]
        )


def test_a_tensor_that_may_be_one_of_two_is_not_guessed(tmp_path: Path) -> None:
    base = gpt2(tmp_path / "base")
    trained(base, tmp_path / "adapter", target_modules=["c_attn"])
    renamed(base, "transformer.", "one.")
    weights = load_file(base / "model.safetensors")
    weights["two.h.1.attn.c_attn.weight"] = torch.zeros(24, 72)
    save_file(weights, base / "model.safetensors")
    [problem] = problems_of(base, tmp_path / "adapter")
    assert "does not have: transformer.h.1.attn.c_attn.weight." in problem


def test_a_layer_that_is_not_there_is_not_taken_for_another(tmp_path: Path) -> None:
    base = gpt2(tmp_path / "base")
    trained(base, tmp_path / "adapter", target_modules=["c_attn"])
    weights = load_file(base / "model.safetensors")
    weights = {name: value for name, value in weights.items() if ".h.1." not in name}
    save_file(weights, base / "model.safetensors")
    [problem] = problems_of(base, tmp_path / "adapter")
    assert "does not have: transformer.h.1.attn.c_attn.weight." in problem


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_a_tied_model_computes_what_it_did_with_the_adapter(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The adapter of one of two modules that share a weight leaves the other as it was."""
    from transformers import AutoConfig, LlamaForCausalLM

    base = llama(tmp_path / "base", tie_word_embeddings=True)
    model = trained(base, tmp_path / "adapter", **settings)
    assert "lm_head.weight" not in load_file(base / "model.safetensors")
    tokens = torch.arange(12).reshape(2, 6)
    with opened(base, tmp_path / "adapter") as source, torch.no_grad():
        assert source.config["tie_word_embeddings"] is False
        assert "lm_head.weight" in source.reader.infos
        config = AutoConfig.from_pretrained(base)
        config.tie_word_embeddings = False
        ours = LlamaForCausalLM(config).float().eval()
        values = {name: whole(source, name).float() for name in source.reader.infos}
        ours.load_state_dict(values)
        expected = model(tokens).logits
        torch.testing.assert_close(ours(tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_tied_model_stays_tied_if_neither_is_adapted(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", tie_word_embeddings=True)
    trained(base, tmp_path / "adapter", target_modules=ATTENTION)
    with opened(base, tmp_path / "adapter") as source:
        assert source.config["tie_word_embeddings"] is True
        assert "lm_head.weight" not in source.reader.infos


@pytest.mark.parametrize("case", ["plain", "dora", "embedding-and-head", "modules-to-save"])
def test_any_span_is_that_part_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(lora, "GRID_ELEMENTS", 1)
    base = llama(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES[case])
    generator = torch.Generator().manual_seed(3)
    with opened(base, tmp_path / "adapter") as source:
        for name, info in source.reader.infos.items():
            flat = whole(source, name).flatten()
            cuts = torch.randint(0, flat.numel() + 1, (12, 2), generator=generator).tolist()
            for start, stop in [*map(sorted, cuts), (0, 0), (flat.numel() - 1, flat.numel())]:
                part = source.reader.read_span(name, slice(start, stop))
                assert part.dtype == info.dtype
                assert torch.equal(part, flat[start:stop])


def test_threads_may_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "GRID_ELEMENTS", 1)
    base = llama(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["embedding-and-head"])
    with opened(base, tmp_path / "adapter") as source:
        flat = whole(source, "model.embed_tokens.weight").flatten()
        cuts = [*range(0, flat.numel(), 50), flat.numel()]
        spans = [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
        with ThreadPoolExecutor(4) as pool:
            read = itertools.repeat("model.embed_tokens.weight")
            parts = list(pool.map(source.reader.read_span, read, spans))
        assert torch.equal(torch.cat(parts), flat)


def test_reading_leaves_the_adapter_as_it_is(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    trained(base, tmp_path / "adapter", **CASES["dora"])
    name = "model.layers.0.self_attn.q_proj.weight"
    with opened(base, tmp_path / "adapter") as source:
        first = whole(source, name)
        first.zero_()
        assert torch.equal(whole(source, name), whole(source, name))
        assert whole(source, name).abs().sum() > 0


def problems_of(base: Path, adapter: Path) -> list[str]:
    with pytest.raises(UserError) as refused:
        opened(base, adapter)
    return [f"{each.path}: {each.message}" for each in refused.value.problems]


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    trained(llama(tmp_path / "base"), tmp_path / "adapter", target_modules=ATTENTION)
    changed(tmp_path / "adapter", base_model_name_or_path="org/base")
    other = gpt2(tmp_path / "gpt2")
    with pytest.raises(UserError) as refused:
        opened(other, tmp_path / "adapter")
    [problem] = refused.value.problems
    assert problem.path == str(tmp_path / "adapter")
    assert "changes tensors that the base does not have" in problem.message
    assert "layers.0.self_attn.q_proj.weight" in problem.message
    assert "and 1 more" in problem.message
    assert problem.fix == "Use its own base, org/base."


def test_shapes_that_do_not_fit_are_told(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    trained(llama(tmp_path / "base"), tmp_path / "adapter", target_modules=["up_proj"])
    config = LlamaConfig(
        vocab_size=37, hidden_size=24, intermediate_size=60, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wider")
    [problem] = problems_of(tmp_path / "wider", tmp_path / "adapter")
    assert "does not fit the base: " in problem
    assert "model.layers.0.mlp.up_proj.weight [60, 24] for [52, 24], model.layers.1." in problem


def test_all_faults_of_an_adapter_are_told_at_once(tmp_path: Path) -> None:
    base, adapter = llama(tmp_path / "base"), tmp_path / "adapter"
    trained(base, adapter, target_modules=[*ATTENTION, "up_proj"], modules_to_save=["lm_head"])
    weights = load_file(adapter / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0."
    del weights[f"{prefix}self_attn.q_proj.lora_B.weight"]
    weights[f"{prefix}self_attn.v_proj.lora_A.weight"] = torch.zeros(6, 24)
    del weights["base_model.model.lm_head.weight"]
    weights[f"{prefix}self_attn.k_proj.lora_A.weight"] = torch.zeros(4, 24, 1)
    weights[f"{prefix}self_attn.k_proj.lora_B.weight"] = torch.zeros(12, 4, 1)
    weights[f"{prefix}mlp.up_proj.lora_magnitude_vector"] = torch.zeros(52)
    save_file(weights, adapter / "adapter_model.safetensors")
    text = "\n".join(problems_of(base, adapter))
    layer = "model.layers.0."
    assert f"only one of the factors A and B: {layer}self_attn.q_proj." in text
    rank = f"{layer}self_attn.v_proj A [6, 24], B [12, 4], r 4."
    assert f"has factors of another rank than its settings say: {rank}" in text
    assert "lacks weights of modules that its settings name: lm_head." in text
    assert f"adapts convolutions, which is not supported: {layer}self_attn.k_proj." in text
    assert f"do not fit use_dora in adapter_config.json: {layer}mlp.up_proj." in text
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"r": "four"}, "r"),
        ({"r": 0}, "r"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern"),
    ],
)
def test_what_is_more_than_factors_is_refused(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    base = llama(tmp_path / "base")
    trained(base, tmp_path / "adapter", target_modules=ATTENTION)
    changed(tmp_path / "adapter", **changes)
    [problem] = problems_of(base, tmp_path / "adapter")
    assert problem.startswith(f"{tmp_path / 'adapter'}.adapter_config.json.{key}: ")


def test_magnitudes_of_columns_are_refused(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    trained(base, tmp_path / "adapter", target_modules=["embed_tokens"], use_dora=True)
    [problem] = problems_of(base, tmp_path / "adapter")
    assert "magnitudes of columns, which is not supported: model.embed_tokens." in problem


def test_base_and_adapter_are_checked_together(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    trained(base, tmp_path / "adapter", target_modules=ATTENTION)
    changed(tmp_path / "adapter", lora_bias=True)
    (base / "config.json").unlink()
    text = "\n".join(problems_of(base, tmp_path / "adapter"))
    assert f"{base}.config.json: is missing." in text
    assert "adapter_config.json.lora_bias" in text
    text = "\n".join(problems_of(tmp_path / "adapter", base))
    assert f"{tmp_path / 'adapter'}: is an adapter, not a model." in text
    assert f"{base}.adapter_config.json: is missing: not an adapter." in text
