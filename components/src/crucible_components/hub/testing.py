"""Small language models in a cache of the hub: what is taken from it is never downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def write_family(
    cache_dir: Path,
    names: Sequence[str],
    tokens: Mapping[str, Sequence[str]],
    *,
    num_layers: int = 2,
    hidden_size: int = 32,
) -> None:
    """Fine-tunes of one small Llama by their hub names; the first is the base itself.

    Args:
        cache_dir: for HF_HUB_CACHE.
        names: ``org/name``.
        tokens: special tokens of models that have others than the base.
        num_layers: of each model.
        hidden_size: of each model.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(settings).bfloat16()  # type: ignore[no-untyped-call]
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(number)
        changed = {
            key: value + number * 0.002 * torch.randn(value.shape, generator=generator).bfloat16()
            for key, value in start.items()
        }
        base.load_state_dict(changed)
        folder = _snapshot(cache_dir, name)
        base.save_pretrained(folder)
        _tokenizer(tokens.get(name, ("<|im_start|>", "<|im_end|>"))).save_pretrained(folder)


def _snapshot(cache_dir: Path, name: str) -> Path:
    """The folder of the commit that ``main`` is."""
    commit = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    repository = cache_dir / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def _tokenizer(special: Sequence[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", *(f"w{number}" for number in range(50))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        eos_token=special[-1],
        chat_template="{% for m in messages %}" + special[0] + "{{ m.content }}{% endfor %}",
    )
