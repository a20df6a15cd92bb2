"""Byte-level BPE tokenizers trained on the text at hand."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crucible_components.models.fusion.template import (
    IMAGE,
    LATENT,
    TEMPLATES,
    VISION_END,
    VISION_START,
)

PAD = "<pad>"
SPECIAL_TOKENS = [PAD, VISION_START, VISION_END, IMAGE, LATENT]


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, template: str = "pico"
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocab_size`` ids that knows every byte, so no text is unknown.

    Words keep the space before them and one is put before the first, so a word has one id wherever
    it stands.
    """
    shape = TEMPLATES[template]
    roles = [text.strip() for text in (shape.user_role, shape.assistant_role, shape.end)]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([*SPECIAL_TOKENS, *roles]))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=shape.end,
        additional_special_tokens=[token for token in special if token not in (PAD, shape.end)],
        clean_up_tokenization_spaces=False,
    )


def add_vision_tokens(tokenizer: PreTrainedTokenizerFast) -> int:
    """Give a text model's tokenizer the vision tokens; returns how many were new."""
    added: int = tokenizer.add_tokens(
        [VISION_START, VISION_END, IMAGE, LATENT], special_tokens=True
    )
    return added
