"""Tokenizers of the result that no model has: unions, and tokens that only the merge file names.

The first tokenizer keeps its ids. What others have more is appended: their ordinary tokens to the
vocabulary, with the merges that make them behind all merges there are, then their added tokens.

Source: mergekit 0.1.5, ``tokenizer.source: union``. Departs: ordinary tokens become ordinary ones,
not added ones that would be cut out of texts before those are split into words; ids do not vary
from run to run; tokens of the first tokenizer for which its model has no row are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from crucible.errors import Problem
from crucible_components.merging.vocabulary.tokens import (
    ADDED_FILE,
    CONFIG_FILE,
    SLOW_FILES,
    TOKENIZER_FILE,
    Vocabulary,
    model_ids,
    with_flags,
)

_BPE_SETTINGS = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")

_FIX = "Set tokenizer.source to base or to one of the models."


def union_of(
    vocabularies: Mapping[str, Vocabulary], num_rows: Mapping[str, int]
) -> tuple[Vocabulary, list[Problem]]:
    """The union, and why there is no sound one.

    Args:
        vocabularies: by model; the first keeps its ids.
        num_rows: of the models' embeddings; tokens that have no row are left out.
    """
    first, *others = vocabularies
    result, problems = vocabularies[first], []
    added = {
        model: {
            t: each.added[t] for t in each.added_by_id if _has_row(each, t, num_rows.get(model))
        }
        for model, each in vocabularies.items()
    }
    any_added = {token for each in added.values() for token in each}
    for model in others:
        each = vocabularies[model]
        kept = [t for t in each.ordinary if _has_row(each, t, num_rows.get(model))]
        new = [token for token in kept if token not in result.ids and token not in any_added]
        if not new:
            continue
        found = _why_not(result, each)
        if found:
            message = f"has no sound union: {model} {found} {first}'s, and has other tokens."
            problems.append(Problem("tokenizer.source", message, _FIX))
        else:
            result = _with_ordinary(result, each, new)
    for model in others:
        result = with_added(result, added[model])
    return result, problems


def with_added(
    vocabulary: Vocabulary, tokens: Iterable[str] | Mapping[str, Mapping[str, bool]]
) -> Vocabulary:
    """``vocabulary`` and added tokens; those that it has as added tokens stay as they are."""
    flags = tokens if isinstance(tokens, Mapping) else {t: with_flags({}) for t in tokens}
    ids, added = dict(vocabulary.ids), dict(vocabulary.added)
    following = vocabulary.num_ids
    for token, each in flags.items():
        if token not in ids:
            ids[token] = following
            following += 1
        added.setdefault(token, each)
    if len(added) == len(vocabulary.added):
        return vocabulary
    definition = {**vocabulary.definition, "added_tokens": _entries(ids, added)}
    return replace(vocabulary, ids=ids, added=added, definition=_pinned(definition))


def check_loads(vocabulary: Vocabulary) -> list[Problem]:
    """What is wrong with a tokenizer that was changed, as the tokenizers library sees it."""
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(json.dumps(vocabulary.definition))
    except Exception as cause:  # the library raises nothing more special
        return [Problem("tokenizer.source", f"gives a tokenizer that is refused: {cause}.", _FIX)]
    ids = loaded.get_vocab(with_added_tokens=True)
    wrong = sorted(t for t in ids.keys() | vocabulary.ids.keys()
                   if ids.get(t) != vocabulary.ids.get(t))  # fmt: skip
    if not wrong:
        return []
    message = f"would move {len(wrong)} tokens to other ids, such as {wrong[0]!r}."
    return [Problem("tokenizer.source", message, _FIX)]


def changed_files(
    files: Mapping[str, bytes], before: Vocabulary, after: Vocabulary
) -> dict[str, bytes]:
    """The files of ``before``, changed so that they hold ``after``."""
    if after is before:
        return dict(files)
    changed = {**files, TOKENIZER_FILE: _encoded(after.definition, indent=None)}
    entries = {str(e["id"]): _without_id(e) for e in after.definition["added_tokens"]}
    config = json.loads(files.get(CONFIG_FILE, b"{}"))
    if "added_tokens_decoder" in config:
        changed[CONFIG_FILE] = _encoded({**config, "added_tokens_decoder": entries})
    if ADDED_FILE in files:
        listed = json.loads(files[ADDED_FILE])
        new = {token: after.ids[token] for token in after.added if token not in before.added}
        changed[ADDED_FILE] = _encoded({**listed, **new})
    if any(token not in before.ids for token in after.ordinary):
        for path in SLOW_FILES:
            changed.pop(path, None)
    return changed


def _has_row(vocabulary: Vocabulary, token: str, num_rows: int | None) -> bool:
    return num_rows is None or vocabulary.ids[token] < num_rows


def _with_ordinary(result: Vocabulary, other: Vocabulary, new: list[str]) -> Vocabulary:
    ids = {**result.ids, **{token: n for n, token in enumerate(new, result.num_ids)}}
    model = dict(result.definition["model"])
    model["vocab"] = {**model["vocab"], **{token: ids[token] for token in new}}
    if result.kind == "BPE":
        model["merges"] = [*model["merges"], *_merges(model, other.definition["model"], set(new))]
    definition = {**result.definition, "model": model,
                  "added_tokens": _entries(ids, result.added)}  # fmt: skip
    return replace(result, ids=ids, definition=_pinned(definition))


def _merges(model: Mapping[str, Any], other: Mapping[str, Any], new: set[str]) -> list[Any]:
    """Merges of ``other`` that make the new tokens, spelled as those of ``model`` are."""
    prefix = model.get("continuing_subword_prefix") or ""
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    found: list[Any] = []
    for merge in other["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made = left + right.removeprefix(prefix)
        if made in new and left in model["vocab"] and right in model["vocab"]:
            found.append(f"{left} {right}" if as_text else [left, right])
    return found


def _why_not(first: Vocabulary, other: Vocabulary) -> str | None:
    """In what two tokenizers differ whose ordinary tokens cannot be mixed."""
    if first.kind != other.kind:
        return f"is of type {other.kind}, not {first.kind} as"
    if first.kind not in ("BPE", "WordLevel", "WordPiece"):
        return f"is of type {other.kind}, whose scores cannot be compared with"
    ours, theirs = _spelling(first.definition), _spelling(other.definition)
    if ours != theirs:
        return f"spells {theirs}, not {ours} as"
    models = first.definition["model"], other.definition["model"]
    for key in _BPE_SETTINGS:
        if (models[0].get(key) or None) != (models[1].get(key) or None):
            return f"has another {key} than"
    return None


def _spelling(definition: Mapping[str, Any]) -> str:
    steps = [definition.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
    text = json.dumps(steps, ensure_ascii=False)
    if '"ByteLevel"' in text:
        return "bytes as letters"
    return "spaces as ▁" if "▁" in text else "plain text"


def _pinned(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition, with added tokens also in the model's vocabulary where that fixes their ids.

    The tokenizers library numbers added tokens that the model lacks from the model's number of
    tokens on and does not look at their ids.
    """
    model = definition["model"]
    own = model_ids(model)
    outside = [e for e in definition["added_tokens"] if e["content"] not in own]
    if [e["id"] for e in outside] == list(range(len(own), len(own) + len(outside))):
        return dict(definition)
    if isinstance(model["vocab"], list):
        return dict(definition)  # check_loads says so
    vocab = {**model["vocab"], **{e["content"]: e["id"] for e in outside}}
    return {**definition, "model": {**model, "vocab": vocab}}


def _entries(
    ids: Mapping[str, int], added: Mapping[str, Mapping[str, bool]]
) -> list[dict[str, Any]]:
    ordered = sorted(added, key=ids.__getitem__)
    return [{"id": ids[token], "content": token, **added[token]} for token in ordered]


def _without_id(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "id"}


def _encoded(value: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """As JSON; indented it takes ten times as long."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()
