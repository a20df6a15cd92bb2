"""The vocabulary of a model folder, as transformers sees it once it has loaded the tokenizer.

Most tokens are in tokenizer.json. Others are known to tokenizer_config.json or to older files
alone; transformers appends those when it loads the folder, so they count here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

from crucible.errors import Problem, UserError
from crucible_components.models.weights import TensorSource

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
SLOW_FILES = (
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""The same vocabulary for tokenizers written in Python; not read where tokenizer.json exists."""
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))

_FILES = (TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE, ADDED_FILE, *SLOW_FILES, *TEMPLATE_FILES)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of one model."""

    ids: Mapping[str, int]
    """Of every token."""
    added: Mapping[str, Mapping[str, bool]]
    """Tokens that are cut out of a text before anything else, with their `FLAGS`."""
    roles: Mapping[str, str]
    """Tokens by what they are used for, e.g. ``eos_token``."""
    definition: Mapping[str, Any]
    """Content of tokenizer.json."""

    @cached_property
    def num_ids(self) -> int:
        """One more than the largest id; ids may have holes."""
        return max(self.ids.values(), default=-1) + 1

    @property
    def kind(self) -> str:
        """Such as ``BPE``; tokenizer.json of old versions does not say."""
        model = self.definition["model"]
        guess = "BPE" if "merges" in model else "WordLevel"
        return str(model.get("type") or ("Unigram" if isinstance(model["vocab"], list) else guess))

    @property
    def ordinary(self) -> Iterator[str]:
        """Tokens that are not added, by id."""
        by_id = sorted(self.ids, key=self.ids.__getitem__)
        return (token for token in by_id if token not in self.added)

    @property
    def added_by_id(self) -> list[str]:
        return sorted(self.added, key=self.ids.__getitem__)


def is_tokenizer_file(path: str) -> bool:
    """True for what `VocabularyPlan.files` replaces: such a file is not copied from the base."""
    return any(fnmatch(path, pattern) for pattern in _FILES)


def tokenizer_files(folder: TensorSource) -> dict[str, bytes]:
    """Contents of all tokenizer files of a folder."""
    return {path: _content(folder, path) for path in folder.paths() if is_tokenizer_file(path)}


def read_vocabulary(folder: TensorSource, model: str) -> Vocabulary:
    """The vocabulary of ``folder``.

    Args:
        folder: of a model.
        model: how the merge file refers to it, for messages.

    Raises:
        UserError: there is no tokenizer.json, or a tokenizer file is malformed.
    """
    if TOKENIZER_FILE not in folder.paths():
        raise _error(
            f"{model}.{TOKENIZER_FILE}",
            "is missing: the rows of the embedding cannot be told apart without it.",
            "Save the tokenizer with transformers (AutoTokenizer, then save_pretrained), or copy "
            "it from the model that this one was fine-tuned from.",
        )
    definition, config, special, old = (
        _json(folder, path, model)
        for path in (TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE, ADDED_FILE)
    )
    try:
        if "added_tokens_decoder" in config:
            special, old = {}, {}  # transformers does not read them either
        return _vocabulary(definition, {**config, **special}, old)
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise _error(
            f"{model}.{TOKENIZER_FILE}",
            f"is malformed: {type(cause).__name__}: {cause}.",
            "Save the tokenizer anew with transformers.",
        ) from cause


def with_flags(given: Mapping[str, Any]) -> dict[str, bool]:
    """All `FLAGS`, as the tokenizers library completes them."""
    special = bool(given.get("special", False))
    unset = {"special": special, "normalized": not special}
    return {flag: bool(given.get(flag, unset.get(flag, False))) for flag in FLAGS}


def model_ids(model: Mapping[str, Any]) -> dict[str, int]:
    """Ids in the ``model`` of a tokenizer.json; of Unigram they are places in a list."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return {entry[0]: index for index, entry in enumerate(vocab)}
    return {str(token): int(number) for token, number in vocab.items()}


def _listed(definition: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, dict[str, bool]]]:
    ids, added = model_ids(definition["model"]), {}
    for entry in definition.get("added_tokens") or ():
        ids.setdefault(entry["content"], int(entry["id"]))
        added[entry["content"]] = with_flags(entry)
    return ids, added


def _vocabulary(
    definition: Mapping[str, Any], settings: Mapping[str, Any], old: Mapping[str, int]
) -> Vocabulary:
    ids, added = _listed(definition)
    unlisted = dict(_decoder(settings))
    unlisted |= {token: {} for token in sorted(old, key=old.__getitem__)}
    unlisted |= {t: {"special": True} for t in _named(settings) if t not in unlisted}
    for token, flags in unlisted.items():
        if token not in ids:
            ids[token] = max(ids.values(), default=-1) + 1
            added[token] = with_flags(flags)
    roles = {role: _text(settings[role]) for role in ROLES if settings.get(role)}
    return Vocabulary(ids, added, roles, definition)


def _decoder(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    entries = config.get("added_tokens_decoder", {})
    for number in sorted(entries, key=int):
        yield entries[number]["content"], entries[number]


def _named(settings: Mapping[str, Any]) -> Iterator[str]:
    for role in ROLES:
        if settings.get(role):
            yield _text(settings[role])
    for key in ("additional_special_tokens", "extra_special_tokens"):
        many: Iterable[Any] = settings.get(key) or ()
        for token in many.values() if isinstance(many, dict) else many:
            yield _text(token)


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _content(folder: TensorSource, path: str) -> bytes:
    with folder.open(path) as stream:
        return stream.read()


def _json(folder: TensorSource, path: str, model: str) -> dict[str, Any]:
    """The file's object; empty if there is no such file."""
    if path not in folder.paths():
        return {}
    try:
        value = json.loads(_content(folder, path))
    except ValueError as cause:
        raise _error(f"{model}.{path}", f"is not JSON: {cause}.", "Save it anew.") from cause
    if not isinstance(value, dict):
        raise _error(f"{model}.{path}", "is not a JSON object.", "Save it anew.")
    return value


def _error(path: str, message: str, fix: str) -> UserError:
    problem = Problem(path=path, message=message, fix=fix)
    return UserError(str(problem), [problem])
