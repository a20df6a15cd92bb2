"""What a report says of tokenizers that differ."""

from __future__ import annotations

from typing import Any

from crucible_components.merging.vocabulary.differences import (
    NUM_EXAMPLES,
    OtherToken,
    check_sizes,
    compare,
)
from crucible_components.merging.vocabulary.testing import bpe, folder
from crucible_components.merging.vocabulary.tokens import Vocabulary, read_vocabulary


def vocabulary(definition: dict[str, Any], **config: Any) -> Vocabulary:
    return read_vocabulary(folder(definition, **config), "m")


def test_like_tokenizers_do_not_differ() -> None:
    many = {name: vocabulary(bpe(["cat"], ["<s>"]), eos_token="<s>") for name in "abc"}
    assert compare(many) == ()
    assert compare({}) == ()


def test_ids_roles_and_flags() -> None:
    first = vocabulary(bpe(["cat"], ["<s>", "</s>"]), eos_token="</s>", bos_token="<s>")
    definition = bpe(["cat"], ["</s>", "<s>", "<t>"])
    definition["added_tokens"][0]["special"] = False
    second = vocabulary(definition, eos_token="<t>", bos_token="<s>")
    [found] = compare({"a": first, "same": first, "b": second})
    assert (found.model, found.reference) == ("b", "a")
    assert (found.num_tokens, found.num_reference_tokens) == (32, 31)
    assert found.num_other_ids == 3
    assert found.examples == (
        OtherToken(29, "<s>", "</s>"), OtherToken(30, "</s>", "<s>"), OtherToken(31, None, "<t>"),
    )  # fmt: skip
    assert found.num_moved_tokens == 2
    assert found.roles == (("eos_token", "</s>", "<t>"),)
    assert found.other_flags == ("</s>",)
    assert found.lines == [
        "b and a differ in the tokens of 3 ids "
        "(29: '</s>' and '<s>', 30: '<s>' and '</s>', 31: '<t>' and None).",
        "b and a share 2 tokens under different ids.",
        "b and a have as eos_token '<t>' and '</s>'.",
        "b and a treat 1 tokens differently: '</s>'.",
    ]


def test_a_token_that_is_added_in_one_only() -> None:
    definition = bpe(["cat"])
    definition["added_tokens"] = [{"id": 28, "content": "cat", "special": True}]
    [found] = compare({"a": vocabulary(bpe(["cat"])), "b": vocabulary(definition)})
    assert found.other_flags == ("cat",)
    assert (found.num_other_ids, found.num_moved_tokens) == (0, 0)


def test_tokens_that_one_lacks_have_neither_moved_nor_other_flags() -> None:
    many = {"a": vocabulary(bpe([], ["<s>", "<t>"])), "b": vocabulary(bpe([], ["<s>"]))}
    [found] = compare(many)
    assert found.examples == (OtherToken(28, "<t>", None),)
    assert (found.num_other_ids, found.num_moved_tokens, found.other_flags) == (1, 0, ())
    [reverse] = compare(dict(reversed(many.items())))
    assert reverse.examples == (OtherToken(28, None, "<t>"),)
    assert (reverse.num_other_ids, reverse.num_moved_tokens, reverse.other_flags) == (1, 0, ())


def test_texts_split_in_another_way() -> None:
    first = vocabulary(bpe(["cat"]))
    definition = bpe(["cat"])
    definition["model"]["merges"].reverse()
    [found] = compare({"a": first, "b": vocabulary({**definition, "normalizer": {"type": "NFC"}})})
    assert found.other_parts == ("merges", "normalizer")
    assert found.lines == ["b and a do not have the same merges, normalizer."]
    words = {**bpe(["cat"]), "model": {"type": "WordLevel", "vocab": dict(first.ids)}}
    [found] = compare({"a": first, "b": vocabulary(words)})
    assert found.other_parts == ("type (WordLevel and BPE)",)


def test_examples_are_few() -> None:
    backwards = bpe([], letters="zyxwvutsrqponmlkjihgfedcba")
    [found] = compare({"a": vocabulary(bpe([])), "b": vocabulary(backwards)})
    assert found.num_other_ids == found.num_moved_tokens == 26
    assert len(found.examples) == NUM_EXAMPLES


def test_embeddings_of_different_sizes() -> None:
    assert check_sizes({"a": 8, "b": 8}) == []
    assert check_sizes({}) == []
    [problem] = check_sizes({"a": 8, "b": 9})
    assert problem.path == "tokenizer_source"
    assert "a has 8, b has 9" in problem.message
    assert "tokenizer_source: base, or union" in problem.fix
