"""Output heads that are the embedding: never written, unless the models disagree about it.

``tie_word_embeddings`` says that a model's head is its embedding; the checkpoint then holds one of
them, or needlessly both. A merge of tied models has no head of its own. If any model of a merge
has its own head the result has one too, and a tied model takes part with its embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crucible.errors import Problem
from crucible_components.merging.sources.text_settings import TIE_KEY, text_settings
from crucible_components.merging.sources.views import ClosableReader, with_alias, without

_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_NUMBERED = re.compile(r"(^|\.)\d+\.")
"""In a layer: neither an embedding nor a head."""


@dataclass(frozen=True)
class Tie:
    """A model's embedding and its head."""

    embedding: str
    head: str
    """Its name; if the checkpoint does not hold it, the name it would have."""
    is_stored: bool
    """The checkpoint holds the head, too."""
    is_tied: bool
    """The head is the embedding."""


@dataclass(frozen=True)
class Untangled:
    """Models that all have heads, or none."""

    readers: Mapping[str, ClosableReader]
    is_tied: bool | None
    """Of the result; None if no model has an embedding and a head that we know."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def find_tie(names: Iterable[str], config: Mapping[str, Any]) -> Tie | None:
    """The embedding and the head among tensors of these names; None if there is no embedding.

    Settings may say it at the top and for the language model. Where they disagree or say nothing,
    a stored head means that it is not tied.
    """
    listed = [name for name in names if not _NUMBERED.search(name)]
    embedding = _pick(listed, _EMBEDDINGS)
    if embedding is None:
        return None
    head = _pick(listed, _HEADS)
    flags = {place[TIE_KEY] for place in (text_settings(config), config) if _says(place)}
    is_tied = flags.pop() if len(flags) == 1 else head is None
    return Tie(embedding, head or _head_for(embedding), head is not None, is_tied)


def untangle(
    readers: Mapping[str, ClosableReader], configs: Mapping[str, Mapping[str, Any]]
) -> Untangled:
    """All models without heads if all are tied, else all with one.

    Args:
        readers: by how the merge file refers to the models.
        configs: of the same models.
    """
    found = {model: find_tie(reader.infos, configs[model]) for model, reader in readers.items()}
    ties = {model: tie for model, tie in found.items() if tie is not None}
    tied = [model for model, tie in ties.items() if tie.is_tied]
    own_heads = [tie.head for tie in ties.values() if tie.is_stored and not tie.is_tied]
    if not tied:
        return Untangled(readers, False if own_heads else None)
    problems = [p for model in tied for p in _check(model, ties[model], readers[model])]
    if problems:
        return Untangled(readers, None, tuple(problems))
    headless = {model: without(readers[model], ties[model].head) for model in tied}
    if not own_heads:
        return Untangled({**readers, **headless}, True)
    with_heads = {
        model: with_alias(reader, own_heads[0], ties[model].embedding)
        for model, reader in headless.items()
    }
    note = (
        f"{', '.join(tied)}: the embedding is also the head; other models have heads of their own. "
        "The result has one, too, and the embedding takes part in it."
    )
    return Untangled({**readers, **with_heads}, False, notes=(note,))


def _head_for(embedding: str) -> str:
    """What the head is called beside an embedding of that name."""
    prefix = embedding.removesuffix("model.embed_tokens.weight")
    if prefix and (prefix == embedding or not prefix.endswith(".")):
        prefix = ""
    return prefix + _HEADS[0]


def _check(model: str, tie: Tie, reader: ClosableReader) -> list[Problem]:
    if not tie.is_stored:
        return []
    head, embedding = (list(reader.infos[name].shape) for name in (tie.head, tie.embedding))
    if head == embedding:
        return []
    message = f"has shape {head}, {tie.embedding} {embedding}; {TIE_KEY} says that they are one."
    return [
        Problem(
            path=f"{model}.{tie.head}",
            message=message,
            fix=f"Set {TIE_KEY} to false in its config.json if the head is its own.",
        )
    ]


def _says(settings: Mapping[str, Any]) -> bool:
    return isinstance(settings.get(TIE_KEY), bool)


def _pick(names: list[str], suffixes: tuple[str, ...]) -> str | None:
    """The one whose last parts are a suffix; of several that of the language model, or shortest."""
    for suffix in suffixes:
        found = [name for name in names if name == suffix or name.endswith(f".{suffix}")]
        if found:
            return min(found, key=lambda name: ("language" not in name, len(name), name))
    return None
