"""Which tensors belong to which layer, from their names: for any architecture of transformers.

A stack of layers is a run of numbers in names, as in ``model.layers.0.…`` to ``model.layers.31.…``;
numbers further down (experts) belong to the layer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBERED = re.compile(r"(.*?\.|)(\d+)(\..+)")
_BEFORE_LAYERS = re.compile(r"embed|wte|wpe")


@dataclass(frozen=True)
class Layers:
    """The stack that ``layer_range`` counts."""

    prefix: str
    """Of its tensors, up to the number."""
    count: int

    @property
    def stem(self) -> str:
        """Of the module that the stack belongs to: ``model.`` where the prefix is it and a word."""
        return self.prefix[: self.prefix.rstrip(".").rfind(".") + 1]

    def index_of(self, name: str) -> int | None:
        """The layer that a tensor belongs to; None if it is in no layer."""
        found = _NUMBERED.fullmatch(name)
        return int(found[2]) if found and found[1] == self.prefix else None

    def moved(self, name: str, index: int) -> str:
        """The same tensor of another layer."""
        found = _NUMBERED.fullmatch(name)
        assert found is not None
        assert found[1] == self.prefix
        return f"{self.prefix}{index}{found[3]}"

    def translated(self, name: str, other: Layers) -> str:
        """What the tensor is called in a model whose layers are ``other``."""
        for own, theirs in ((self.prefix, other.prefix), (self.stem, other.stem)):
            if name.startswith(own):
                return theirs + name.removeprefix(own)
        return name


def is_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers comes before them (embeddings) or after (norm, head)."""
    return _BEFORE_LAYERS.search(name) is not None


def layers_of(names: Iterable[str], num_layers: int | None = None) -> Layers | None:
    """The stack of layers among tensors of these names; None if there is none.

    Of several (a vision tower beside a language model) the one that has ``num_layers``, what the
    configuration says of the language model; else the longest, else the first by name.
    """
    stacks: dict[str, set[int]] = defaultdict(set)
    for name in names:
        found = _NUMBERED.fullmatch(name)
        if found:
            stacks[found[1]].add(int(found[2]))
    whole = {
        prefix: len(numbers)
        for prefix, numbers in stacks.items()
        if numbers == set(range(len(numbers)))
    }
    if not whole:
        return None
    prefix = min(whole, key=lambda each: (whole[each] != num_layers, -whole[each], each))
    return Layers(prefix, whole[prefix])
