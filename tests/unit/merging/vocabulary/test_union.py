"""Tokenizers that no model has: what they hold, how they encode, and when there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from crucible_components.merging.vocabulary.testing import bpe, folder
from crucible_components.merging.vocabulary.tokens import Vocabulary, read_vocabulary
from crucible_components.merging.vocabulary.union import (
    changed_files,
    check_loads,
    union_of,
    with_added,
)


def vocabulary(definition: dict[str, Any], **config: Any) -> Vocabulary:
    return read_vocabulary(folder(definition, **config), "m")


def loaded(result: Vocabulary) -> Tokenizer:
    assert check_loads(result) == []
    tokenizer = Tokenizer.from_str(json.dumps(result.definition))
    assert tokenizer.get_vocab(with_added_tokens=True) == result.ids
    return tokenizer


def test_words_of_both_are_single_tokens_and_special_tokens_keep_their_ids() -> None:
    first = vocabulary(bpe(["cat", "dog"], ["<s>", "</s>"]))
    second = vocabulary(bpe(["dog", "pear"], ["<s>", "<think>"]))
    result, problems = union_of({"a": first, "b": second}, {})
    assert problems == []
    assert result.ids.keys() == first.ids.keys() | second.ids.keys()
    assert {token: result.ids[token] for token in first.ids} == first.ids
    assert sorted(result.ids.values()) == list(range(len(result.ids)))
    encoded = loaded(result).encode("<s>cat<think>dogpear</s>")
    assert encoded.tokens == ["<s>", "cat", "<think>", "dog", "pear", "</s>"]
    assert result.added["<think>"]["special"]
    assert "pear" not in result.added, "mergekit would cut it out of spear"
    assert loaded(result).encode("spear").tokens == ["s", "pear"]
    assert loaded(result).decode(encoded.ids, skip_special_tokens=True) == "catdogpear"


def test_texts_of_known_words_are_encoded_as_before() -> None:
    first = vocabulary(bpe(["cat", "dog", "hotdog"]))
    second = vocabulary(bpe(["ho", "hop", "pear", "og"]))
    result, _ = union_of({"a": first, "b": second}, {})
    for text in ("cat", "hotdog", "dog", "hot"):
        assert loaded(result).encode(text).ids == loaded(first).encode(text).ids


def test_like_tokenizers_are_not_touched() -> None:
    first, second = (vocabulary(bpe(["cat"], ["<s>"])) for _ in range(2))
    result, problems = union_of({"a": first, "b": second}, {})
    assert result is first
    assert problems == []
    assert with_added(first, ["<s>"]) is first
    assert changed_files({"tokenizer.json": b"kept"}, first, result) == {"tokenizer.json": b"kept"}


def test_tokens_without_a_row_are_left_out() -> None:
    first = vocabulary(bpe(["cat"], ["<s>"]))
    second = vocabulary(bpe(["cat", "pear"], ["<s>", "<a>", "<b>"]))
    rows = second.ids["<b>"]
    result, _ = union_of({"a": first, "b": second}, {"a": 100, "b": rows})
    assert second.ids.keys() - result.ids.keys() == {"<b>"}
    rows = second.ids["pear"]
    result, _ = union_of({"a": first, "b": second}, {"a": 100, "b": rows})
    assert second.ids.keys() - result.ids.keys() == {"pear", "<a>", "<b>"}
    loaded(result)


def test_a_word_of_one_is_an_added_token_of_the_other() -> None:
    first = vocabulary(bpe(["cat"]))
    second = vocabulary(bpe([], ["cat", "<s>"]))
    result, _ = union_of({"a": first, "b": second}, {})
    assert result.ids["cat"] == first.ids["cat"]
    assert result.added["cat"]["special"]
    reverse, _ = union_of({"b": second, "a": first}, {})
    assert reverse.ids["cat"] == second.ids["cat"]
    assert loaded(reverse).encode("acat").tokens == ["a", "cat"]
    words = vocabulary({**bpe([]), "model": {"type": "WordLevel", "vocab": {"cat": 0, "a": 1}}})
    plain = vocabulary(bpe([]))
    result, problems = union_of({"a": plain, "b": words, "c": second}, {})
    assert problems == [], "no model's splitting makes an added token"
    assert result.ids["cat"] == plain.num_ids


def test_the_first_flags_are_kept() -> None:
    definition = bpe(["cat"], ["<s>"])
    definition["added_tokens"][0] |= {"special": False, "lstrip": True}
    first, second = vocabulary(definition), vocabulary(bpe(["cat"], ["<s>", "<t>"]))
    result, _ = union_of({"a": first, "b": second}, {})
    assert result.added["<s>"]["lstrip"]
    assert not result.added["<s>"]["special"]


def test_holes_in_the_ids_stay() -> None:
    definition = bpe(["cat"])
    definition["model"]["vocab"]["zz"] = 40
    first, second = vocabulary(definition), vocabulary(bpe(["cat"], ["<s>"]))
    result, _ = union_of({"a": first, "b": second}, {})
    assert result.ids["<s>"] == 41
    loaded(result)


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece"])
def test_tokenizers_of_words(kind: str) -> None:
    def definition(words: str) -> dict[str, Any]:
        vocab = {word: index for index, word in enumerate(["[UNK]", *words.split()])}
        model: dict[str, Any] = {"type": kind, "unk_token": "[UNK]", "vocab": vocab}
        if kind == "WordPiece":
            model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 9}
        return {**bpe([]), "model": model, "pre_tokenizer": {"type": "Whitespace"},
                "decoder": None, "added_tokens": []}  # fmt: skip

    first, second = vocabulary(definition("cat dog")), vocabulary(definition("pear cat"))
    result, problems = union_of({"a": first, "b": second}, {})
    assert problems == []
    assert dict(result.ids) == {"[UNK]": 0, "cat": 1, "dog": 2, "pear": 3}
    assert loaded(result).encode("pear dog").ids == [3, 2]


def pieces(*words: str) -> dict[str, Any]:
    vocab = [["<unk>", 0.0], *([word, -1.0] for word in words)]
    return {**bpe([]), "model": {"type": "Unigram", "vocab": vocab, "unk_id": 0}}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (pieces("x"), "b is of type Unigram, not BPE as a's, and has other tokens."),
        (
            {**bpe(["pear"]), "pre_tokenizer": None, "decoder": {"type": "Metaspace",
             "replacement": "▁", "prepend_scheme": "always", "split": True}},
            "b spells spaces as ▁, not bytes as letters as a's, and has other tokens.",
        ),
        (
            {**bpe(["pear"]), "model": {**bpe(["pear"])["model"], "byte_fallback": True}},
            "b has another byte_fallback than a's, and has other tokens.",
        ),
    ],
)  # fmt: skip
def test_no_sound_union(other: dict[str, Any], message: str) -> None:
    first = vocabulary(bpe(["cat"]))
    result, [problem] = union_of({"a": first, "b": vocabulary(other)}, {})
    assert problem.message == f"has no sound union: {message}"
    assert problem.path == "tokenizer.source"
    assert result is first


def test_scores_are_not_mixed_but_added_tokens_are() -> None:
    first, second = vocabulary(pieces("x")), vocabulary(pieces("x", "y"))
    _, [problem] = union_of({"a": first, "b": second}, {})
    assert "scores cannot be compared" in problem.message
    result = with_added(first, ["<t>"])
    assert result.ids["<t>"] == 2
    loaded(result)


def test_ids_that_the_library_would_move_are_a_problem() -> None:
    definition = pieces("x")
    definition["added_tokens"] = [{"id": 9, "content": "<s>", "special": True}]
    [problem] = check_loads(with_added(vocabulary(definition), ["<t>"]))
    assert "would move 2 tokens to other ids, such as '<s>'" in problem.message
    first = vocabulary(bpe(["cat"]))
    first.definition["model"]["merges"].append(["no", "such"])
    [problem] = check_loads(first)
    assert "is refused" in problem.message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_transformers_loads_the_files(tmp_path: Path, tokenizer_class: str) -> None:
    from transformers import AutoTokenizer

    decoder = {"35": {"content": "<s>", "special": True}}
    definition = bpe(["cat"], ["<s>", "<|endoftext|>"])
    decoder = {
        str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in definition["added_tokens"]
    }
    slow = {"vocab.json": "{}", "merges.txt": "", "added_tokens.json": '{"<s>": 29}'}
    given = folder(
        definition, files=slow, tokenizer_class=tokenizer_class, added_tokens_decoder=decoder,
        unk_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    first = read_vocabulary(given, "a")
    second = vocabulary(bpe(["cat", "pear"], ["<s>", "<think>"]))
    result, _ = union_of({"a": first, "b": second}, {})
    files = changed_files(given.files, first, result)
    assert files.keys() == {"tokenizer.json", "tokenizer_config.json", "added_tokens.json"}
    assert json.loads(files["added_tokens.json"])["<think>"] == result.ids["<think>"]
    for path, data in files.items():
        (tmp_path / path).write_bytes(data)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == result.ids
    assert tokenizer.tokenize("<s>cat<think>pear") == ["<s>", "cat", "<think>", "pear"]
    for token in ("<s>", "<think>"):
        assert tokenizer.added_tokens_decoder[result.ids[token]].special


def test_python_tokenizers_files_stay_while_they_hold() -> None:
    files = {"vocab.json": "{}", "merges.txt": ""}
    given = folder(bpe(["cat"]), files=files)
    first = read_vocabulary(given, "a")
    changed = changed_files(given.files, first, with_added(first, ["<t>"]))
    assert changed.keys() == given.files.keys()
    assert changed["tokenizer.json"] != given.files["tokenizer.json"]
    assert changed["tokenizer_config.json"] == given.files["tokenizer_config.json"]
