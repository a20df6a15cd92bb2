"""Model folders with small tokenizers and embeddings, in memory: for tests of vocabularies."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
from torch import Tensor

from crucible_components.models.weights import TensorInfo

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class MemoryFolder:
    """Files by path; implements `TensorSource`."""

    files: Mapping[str, bytes]

    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(self.files))

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self.files[path])


@dataclass
class MemoryReader:
    """Tensors by name; implements `Reader` and notes what is read."""

    tensors: Mapping[str, Tensor]
    spans: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        return {n: TensorInfo(n, t.dtype, tuple(t.shape)) for n, t in self.tensors.items()}

    def read_span(self, name: str, span: slice) -> Tensor:
        size = math.prod(self.tensors[name].shape)
        assert 0 <= span.start <= span.stop <= size, "reads beyond the tensor"
        self.spans.append((name, span.start, span.stop))
        return self.tensors[name].flatten()[span].clone()


def bpe(
    words: Iterable[str], added: Sequence[str] = (), *, letters: str = "abcdefghijklmnopqrstuvwxyz"
) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json: letters, then each word built up from its left end.

    Args:
        words: of letters.
        added: special tokens, behind all others.
        letters: the alphabet.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {letter: index for index, letter in enumerate([*letters, "Ġ"])}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(added))
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def folder(
    definition: Mapping[str, Any], *, files: Mapping[str, str] | None = None, **config: Any
) -> MemoryFolder:
    """A folder with a tokenizer, the given further files, and entries of tokenizer_config.json."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    content = {
        "tokenizer.json": json.dumps(definition),
        "tokenizer_config.json": json.dumps(settings),
        **(files or {}),
    }
    return MemoryFolder({path: text.encode() for path, text in content.items()})


def embeddings(
    num_rows: int,
    *,
    num_columns: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    head: bool = False,
) -> MemoryReader:
    """A model with random embeddings and one tensor that is none."""
    generator = torch.Generator().manual_seed(seed)
    names = [EMBEDDING, *([HEAD] if head else [])]
    tensors = {n: torch.randn(num_rows, num_columns, generator=generator) for n in names}
    tensors["model.norm.weight"] = torch.randn(num_columns, generator=generator)
    return MemoryReader({name: tensor.to(dtype) for name, tensor in tensors.items()})
