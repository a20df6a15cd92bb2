"""Vocabularies of folders, as transformers loads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crucible.errors import UserError
from crucible_components.merging.vocabulary.testing import MemoryFolder, bpe, folder
from crucible_components.merging.vocabulary.tokens import (
    is_tokenizer_file,
    read_vocabulary,
    tokenizer_files,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("files", "config"),
    [
        ({}, {}),
        ({}, {"pad_token": "[PAD]", "eos_token": "<s>", "additional_special_tokens": ["<x>"]}),
        ({}, {"added_tokens_decoder": {"30": {"content": "<s>", "special": True},
                                       "41": {"content": "<late>", "special": False}}}),
        ({"special_tokens_map.json": json.dumps({"pad_token": {"content": "<pad>"}})}, {}),
        ({"special_tokens_map.json": json.dumps({"pad_token": "<pad>"})},
         {"added_tokens_decoder": {"27": {"content": "<s>", "special": True}}}),
    ],
)  # fmt: skip
def test_the_vocabulary_is_transformers(
    tmp_path: Path, files: dict[str, str], config: dict[str, object]
) -> None:
    from transformers import PreTrainedTokenizerFast

    given = folder(bpe(["cat"], ["<s>"]), files=files, **config)
    for path, data in given.files.items():
        (tmp_path / path).write_bytes(data)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    vocabulary = read_vocabulary(given, "a")
    assert vocabulary.ids == loaded.get_vocab()
    assert vocabulary.num_ids == len(loaded)
    decoder = loaded.added_tokens_decoder
    assert {vocabulary.ids[t]: t for t in vocabulary.added} == {
        number: token.content for number, token in decoder.items()
    }
    for number, token in decoder.items():
        flags = vocabulary.added[token.content]
        assert flags == {flag: getattr(token, flag) for flag in flags}, number


def test_roles_and_kinds() -> None:
    vocabulary = read_vocabulary(
        folder(bpe([], ["<s>"]), bos_token="<s>", eos_token={"content": "<s>"}, pad_token=None), "a"
    )
    assert vocabulary.roles == {"bos_token": "<s>", "eos_token": "<s>"}
    assert vocabulary.kind == "BPE"
    assert [*vocabulary.ordinary][:2] == ["a", "b"]
    old = {"model": {"vocab": {"x": 0}, "unk_token": "x"}, "added_tokens": None}
    assert read_vocabulary(folder(old), "a").kind == "WordLevel"
    pieces = {"model": {"vocab": [["<unk>", 0.0], ["▁a", -1.5]]}}
    unigram = read_vocabulary(folder(pieces), "a")
    assert (unigram.kind, unigram.ids) == ("Unigram", {"<unk>": 0, "▁a": 1})


def test_old_added_tokens() -> None:
    files = {"added_tokens.json": json.dumps({"<b>": 41, "<a>": 40})}
    ids = read_vocabulary(folder(bpe([]), files=files), "a").ids
    assert (ids["<a>"], ids["<b>"]) == (27, 28)


@pytest.mark.parametrize(
    ("files", "where", "message"),
    [
        ({"tokenizer.model": b""}, "a.tokenizer.json", "is missing"),
        ({"tokenizer.json": b"{"}, "a.tokenizer.json", "is not JSON"),
        ({"tokenizer.json": b"[]"}, "a.tokenizer.json", "is not a JSON object"),
        ({"tokenizer.json": b"{}"}, "a.tokenizer.json", "is malformed: KeyError: 'model'"),
        ({"tokenizer.json": b'{"model": {"vocab": {"a": "x"}}}'}, "a.tokenizer.json", "malformed"),
        (
            {"tokenizer.json": b'{"model": {"vocab": {}}}', "tokenizer_config.json": b"x"},
            "a.tokenizer_config.json",
            "is not JSON",
        ),
    ],
)
def test_unreadable_tokenizers(files: dict[str, bytes], where: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_vocabulary(MemoryFolder(files), "a")
    [problem] = raised.value.problems
    assert problem.path == where
    assert problem.fix


def test_which_files_belong_to_a_tokenizer() -> None:
    names = ["tokenizer.json", "merges.txt", "special_tokens_map.json", "chat_template.jinja"]
    names += ["additional_chat_templates/tools.jinja"]
    others = ["config.json", "generation_config.json", "model.safetensors"]
    others += ["preprocessor_config.json"]
    given = MemoryFolder({name: name.encode() for name in [*names, *others]})
    assert tokenizer_files(given) == {name: name.encode() for name in names}
    assert not any(map(is_tokenizer_file, others))
