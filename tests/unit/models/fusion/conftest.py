"""A FUSION model small enough for exact checks, with tokenizers of three families."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import processors as post_processors
from transformers import PreTrainedTokenizerFast

from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    build_model,
)
from crucible_components.models.fusion.processing import Pixels
from crucible_components.models.fusion.template import IMAGE, LATENT, VISION_END, VISION_START
from crucible_components.models.fusion.tokenizer import train_tokenizer

TEXTS = ["How many red circles are there?", "three", "What colour is the square?", "blue, I think."]
TINY = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "vision_config": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    },
    "num_dropped_vision_layers": 1,
    "query_lens": [1, 4, 9],
}

Built = tuple[FusionForConditionalGeneration, FusionProcessor]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=320)


@pytest.fixture
def build(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Built]:
    def build(seed: int = 0, **overrides: object) -> Built:
        model, processor = build_model("pico", tokenizer, seed=seed, **{**TINY, **overrides})
        return model.eval(), processor

    return build


@pytest.fixture
def tiny(build: Callable[..., Built]) -> Built:
    return build()


@pytest.fixture
def pictures() -> list[Pixels]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (24, 40, 3), dtype=np.uint8) for _ in range(3)]


def llama_like_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with Llama 3's special tokens, which begins every text with one."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["begin_of_text", "eot_id", "start_header_id", "end_header_id"]
    special = [f"<|{name}|>" for name in [*names, "reserved_special_token_0"]]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([*TEXTS, "user system assistant"] * 3, trainer)
    core.post_processor = post_processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return _with_vision(
        PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token="<|begin_of_text|>",
            eos_token="<|eot_id|>",
            pad_token="<|reserved_special_token_0|>",
        )
    )


def phi_like_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte fallback; role tokens swallow the space behind them."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "<|endoftext|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    core.train_from_iterator(["▁" + text.replace(" ", "▁") for text in TEXTS] * 3, trainer)
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    core.add_special_tokens([AddedToken(role, rstrip=True, special=True) for role in roles])
    return _with_vision(
        PreTrainedTokenizerFast(
            tokenizer_object=core, bos_token="<s>", eos_token="<|endoftext|>", pad_token="<unk>"
        )
    )


def _with_vision(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens([VISION_START, VISION_END, IMAGE, LATENT], special_tokens=True)
    return tokenizer


@pytest.fixture(scope="session", params=["pico", "phi_3", "llama_3"])
def templated(
    request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast
) -> FusionProcessor:
    """A processor for each chat template with a tokenizer of its family."""
    made = {
        "pico": lambda: tokenizer,
        "phi_3": phi_like_tokenizer,
        "llama_3": llama_like_tokenizer,
    }
    return FusionProcessor(
        made[request.param](), template=request.param, image_size=16, num_image_tokens=16
    )
