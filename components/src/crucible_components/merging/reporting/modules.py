"""Where a tensor stands in a model, by its name: stack of layers, layer, module, tower."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

KINDS: Final = ("embed", "self_attn", "mlp", "norms", "projector", "head", "other")
"""Modules in the order in which a forward pass meets them, about."""

_IN_LAYER = re.compile(r"(?:(.+?)\.)?(\d+)\.(.+\..+)")
"""A number that a module stands behind; ``merger.mlp.0.weight`` is no layer."""
_LAYER_WORDS: Final = (
    ("norms", ("norm", "ln")),
    ("self_attn", ("attn", "attention")),
    (
        "mlp",
        (
            "mlp",
            "feed_forward",
            "ffn",
            "sparse_moe",
            "moe",
            "experts",
            "fc",
            "intermediate",
            "output",
        ),
    ),
)
_OUTSIDE_WORDS: Final = (
    ("projector", ("projector", "connector", "merger")),
    ("embed", ("embed", "wte", "wpe")),
    ("norms", ("norm", "ln")),
    ("head", ("head", "score", "classifier", "output")),
)
_TOWERS: Final = (("vision", ("vis", "image")), ("audio", ("audio", "speech")))


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs in the report."""

    tower: str
    """language, vision or audio."""
    stack: str
    """What the layers are numbered in, as ``model.layers``; empty outside of layers."""
    layer: int | None
    kind: str
    """One of `KINDS`; empty where all modules of a layer are meant."""

    @property
    def whole_layer(self) -> Place:
        """The layer that it is in, or all that its tower has outside of layers."""
        return replace(self, kind="")

    @property
    def order(self) -> tuple[bool, str, bool, str, int, int]:
        """To sort by: the language model first, layers by number, modules as in `KINDS`."""
        return (
            self.tower != "language",
            self.tower,
            self.layer is None,
            self.stack,
            self.layer or 0,
            KINDS.index(self.kind) if self.kind else -1,
        )

    @property
    def layer_name(self) -> str:
        """Up to the first number, or the tower for tensors outside of layers."""
        if self.layer is None:
            return f"{self.tower}, outside of layers"
        return f"{self.stack}.{self.layer}" if self.stack else str(self.layer)


def place_of(name: str) -> Place:
    """The place of the tensor ``name``.

    Inside a layer the first part behind the number decides (``self_attn.q_norm`` is attention),
    outside of layers any part but the last.
    """
    found = _IN_LAYER.fullmatch(name)
    path = name.lower().split(".")
    tower = next((tower for tower, words in _TOWERS if _any_has(path, words)), "language")
    if found is None:
        modules = path[:-1] or path
        return Place(tower, "", None, _kind(modules, _OUTSIDE_WORDS))
    stack, number, rest = found.groups()
    return Place(tower, stack or "", int(number), _kind(rest.lower().split(".")[:1], _LAYER_WORDS))


def _kind(parts: list[str], table: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    return next((kind for kind, words in table if _any_has(parts, words)), "other")


def _any_has(parts: list[str], words: tuple[str, ...]) -> bool:
    """Whether a part contains a long word or begins with a short one (``ln_1``, ``fc2``)."""
    return any(
        part.startswith(word) if len(word) < 4 else word in part for part in parts for word in words
    )
