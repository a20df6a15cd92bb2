"""The vocabulary of a merge as a whole: files, sizes, readers, and every mistake at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from crucible_components.merging.recipe.schema import MergeFile
from crucible_components.merging.vocabulary import VocabularyPlan, plan_vocabulary
from crucible_components.merging.vocabulary.reader import PermutedReader
from crucible_components.merging.vocabulary.testing import (
    EMBEDDING,
    HEAD,
    MemoryFolder,
    MemoryReader,
    bpe,
    embeddings,
    folder,
)

FOLDERS = {
    "b": folder(bpe(["cat", "pear"], ["<s>", "<think>"]), eos_token="<think>"),
    "a": folder(bpe(["cat"], ["<s>"]), eos_token="<s>"),
}
NUM_TOKENS = {"a": 30, "b": 34}
READERS = {name: embeddings(40, seed=seed, head=True) for seed, name in enumerate(FOLDERS)}
CONFIGS: dict[str, dict[str, Any]] = {
    "a": {"vocab_size": 40, "eos_token_id": 29, "pad_token_id": None},
    "b": {"text_config": {"vocab_size": 40, "eos_token_id": 33, "bos_token_id": 0}},
}


def planned(
    folders: dict[str, MemoryFolder] = FOLDERS,
    readers: dict[str, MemoryReader] = READERS,
    configs: dict[str, dict[str, Any]] = CONFIGS,
    **content: Any,
) -> VocabularyPlan:
    given = {
        "merge_method": "linear",
        "base_model": "a",
        "models": [{"model": "a"}, {"model": "b"}],
        **content,
    }
    infos = {name: reader.infos for name, reader in readers.items()}
    return plan_vocabulary(MergeFile.model_validate(given), folders, infos, configs)


def messages(plan: VocabularyPlan) -> list[str]:
    return [f"{problem.path} {problem.message}" for problem in plan.problems]


def test_without_a_rule_nothing_is_touched() -> None:
    plan = planned()
    assert plan.problems == ()
    assert (plan.source, plan.files) == ("a", FOLDERS["a"].files)
    assert (plan.rows, plan.vocab_size) == (None, None)
    assert plan.readers(READERS) == READERS
    assert plan.infos == {name: reader.infos for name, reader in READERS.items()}
    assert plan.config(CONFIGS["a"]) == CONFIGS["a"]
    [difference] = plan.differences
    assert (difference.model, difference.reference) == ("b", "a")
    assert difference.roles == (("eos_token", "<s>", "<think>"),)


@pytest.mark.parametrize(
    ("content", "first"),
    [
        ({"base_model": None}, "a"),
        ({"base_model": None, "models": [{"model": "b"}, {"model": "a"}]}, "b"),
        ({"base_model": "b"}, "b"),
        (
            {"base_model": None, "models": None, "slices": [
                {"sources": [{"model": "a", "layer_range": [0, 1]}], "base_model": "b"}]},
            "b",
        ),
        (
            {"base_model": None, "models": None, "slices": [
                {"sources": [{"model": "b", "layer_range": [0, 1]}]},
                {"sources": [{"model": "a", "layer_range": [0, 1]}]}]},
            "b",
        ),
        (
            {"base_model": None, "models": None, "modules": {"text": {"models": [{"model": "b"}]}}},
            "b",
        ),
    ],
)  # fmt: skip
def test_whose_tokenizer_is_taken(content: dict[str, Any], first: str) -> None:
    assert planned(**content).files == FOLDERS[first].files


def test_a_merge_does_not_lose_its_tokenizer() -> None:
    folders = {"a": MemoryFolder({"config.json": b"{}"}), "b": FOLDERS["b"]}
    plan = planned(folders)
    assert plan.files == FOLDERS["b"].files
    assert plan.problems == ()
    assert plan.notes == ("a has no tokenizer: that of b is taken.",)
    assert planned({"a": folders["a"], "b": folders["a"]}).files == {}


def test_padded_rows_are_not_cut() -> None:
    """mergekit cuts Qwen2.5's 152064 rows to the tokens of its tokenizer (its issue 425)."""
    plan = planned(tokenizer_source="base")
    assert plan.problems == ()
    assert plan.vocab_size == 40 > NUM_TOKENS["a"]
    assert plan.files == FOLDERS["a"].files
    readers = plan.readers(READERS)
    assert readers["a"] is READERS["a"], "nothing moves in it"
    found = readers["b"].read_span(EMBEDDING, slice(0, 120)).view(40, 3)
    own = READERS["b"].tensors[EMBEDDING]
    assert torch.equal(found[:29], own[:29])
    assert torch.equal(found[29], own[32]), "<s>"
    assert torch.equal(found[30:], own[30:])


def test_a_union() -> None:
    plan = planned(tokenizer={"source": "union"})
    assert plan.problems == ()
    assert (plan.source, plan.vocab_size) == ("a", 40)
    definition = json.loads(plan.files["tokenizer.json"])
    ids = {e["content"]: e["id"] for e in definition["added_tokens"]}
    assert ids["<s>"] == 29
    readers = plan.readers(READERS)
    for name in (EMBEDDING, HEAD):
        a, b = (readers[m].read_span(name, slice(0, 120)).view(40, 3) for m in "ab")
        theirs = READERS["b"].tensors[name]
        assert torch.equal(a[ids["<think>"]], theirs[33])
        assert torch.equal(b[ids["<think>"]], theirs[33])
        assert torch.equal(b[29], theirs[32])
    assert isinstance(readers["b"], PermutedReader)
    assert plan.infos["b"][EMBEDDING].shape == (40, 3)
    assert plan.infos["b"]["model.norm.weight"].shape == (3,)


def test_another_models_tokenizer_brings_its_token_ids() -> None:
    plan = planned(tokenizer={"source": "b", "pad_to_multiple_of": 32})
    assert plan.problems == ()
    assert (plan.source, plan.files, plan.vocab_size) == ("b", FOLDERS["b"].files, 64)
    assert plan.config(CONFIGS["a"]) == {
        "vocab_size": 64, "eos_token_id": 33, "pad_token_id": None,
    }  # fmt: skip
    nested = {"text_config": {"vocab_size": 40, "bos_token_id": 1}, "codes": {"vocab_size": 9}}
    assert plan.config(nested) == {
        "text_config": {"vocab_size": 64, "bos_token_id": 0}, "codes": {"vocab_size": 9},
    }  # fmt: skip
    assert planned(tokenizer_source="union").config({"eos_token_id": 29}) == {"eos_token_id": 29}


def test_a_model_that_gives_only_its_tokenizer() -> None:
    folders = {**FOLDERS, "t": folder(bpe(["pear"], ["<t>"]))}
    plan = planned(folders, tokenizer={"source": "t"})
    assert plan.problems == ()
    assert plan.files == folders["t"].files
    assert plan.rows is not None
    assert plan.rows.models == ("a", "b")
    found = plan.readers(READERS)["a"].read_span(EMBEDDING, slice(81, 93)).view(4, 3)
    pear = READERS["b"].tensors[EMBEDDING][31]
    assert torch.equal(found[2], pear)
    assert torch.equal(found[3], torch.zeros(3)), "<t> is in no model"
    assert plan.notes == ("No model has a row for 1 tokens: zeros for '<t>'.",)
    rule = {"<t>": {"source": {"kind": "zero"}}}
    assert planned(folders, tokenizer={"source": "t", "tokens": rule}).notes == ()


def test_tokens_that_only_a_rule_names() -> None:
    rule = {"<new>": {"source": {"kind": "model_token", "model": "b", "token": "<think>"}}}
    plan = planned(tokenizer={"source": "base", "tokens": rule})
    assert plan.problems == ()
    entry = json.loads(plan.files["tokenizer.json"])["added_tokens"][-1]
    assert (entry["content"], entry["id"], entry["special"]) == ("<new>", 30, False)
    found = plan.readers(READERS)["a"].read_span(EMBEDDING, slice(90, 93))
    assert torch.equal(found, READERS["b"].tensors[EMBEDDING][33])


def test_different_sizes_need_a_rule() -> None:
    readers = {"a": embeddings(30), "b": embeddings(34)}
    plan = planned(readers=readers)
    assert messages(plan) == ["tokenizer_source is not set, but the models' embeddings differ in "
                              "their rows: a has 30, b has 34."]  # fmt: skip
    for source, size in (("base", 30), ("union", 34)):
        plan = planned(readers=readers, tokenizer_source=source)
        assert plan.problems == ()
        assert plan.vocab_size == size
        cut = ("The last 4 rows of b are cut off.",) if size == 30 else ()
        assert plan.notes == cut


def test_all_mistakes_are_told_at_once() -> None:
    folders = {**FOLDERS, "c": MemoryFolder({})}
    readers = {"a": READERS["a"], "b": READERS["b"], "c": MemoryReader({"x": torch.ones(2)})}
    tokens = {
        "cat": {"source": "nobody"},
        "pear": {"source": "a"},
        "<s>": {"force": True},
        "<think>": {"source": "c"},
    }
    plan = planned(
        folders, readers, tokenizer={"source": "bb", "tokens": tokens}, chat_template="chatlm"
    )
    assert messages(plan) == [
        "c.tokenizer.json is missing: the rows of the embedding cannot be told apart without it.",
        "tokenizer.source is bb, no model of the merge.",
        "c has no token embedding that is known by its name.",
        "tokenizer.tokens.cat.source is nobody, no model that has embeddings.",
        "tokenizer.tokens.pear.source asks for token 'pear', which the embedding of a does not "
        "have.",
        "tokenizer.tokens.<s> has force, but no source.",
        "chat_template is 'chatlm': neither a known template nor Jinja text.",
    ]
    assert all(problem.fix for problem in plan.problems)
    assert (plan.rows, plan.vocab_size) == (None, None)
    assert plan.readers(readers) == readers


def test_no_tokenizer_to_start_from() -> None:
    plan = planned({"a": MemoryFolder({}), "b": FOLDERS["b"]}, tokenizer_source="union")
    [problem] = plan.problems
    assert problem.path == "a.tokenizer.json"
    assert plan.rows is None


def test_rows_of_different_widths() -> None:
    readers = {"a": embeddings(30), "b": embeddings(34, num_columns=4)}
    plan = planned(readers=readers, tokenizer_source="union")
    assert messages(plan) == [f"b.{EMBEDDING} has rows of 4 elements; a takes rows of 3 from it."]


def test_unions_that_do_not_exist() -> None:
    pieces = {**bpe([]), "model": {"type": "Unigram", "vocab": [["<unk>", 0.0]], "unk_id": 0}}
    plan = planned({"a": FOLDERS["a"], "b": folder(pieces)}, tokenizer_source="union")
    assert len(plan.problems) == 1
    assert "has no sound union" in plan.problems[0].message
    assert planned({"a": FOLDERS["a"], "b": folder(pieces)}, tokenizer_source="base").problems == ()
    late = {**pieces, "added_tokens": [{"id": 9, "content": "<s>", "special": True}]}
    more = {**pieces, "added_tokens": [{"id": 1, "content": "<t>", "special": True}]}
    [problem] = planned({"a": folder(late), "b": folder(more)}, tokenizer_source="union").problems
    assert "would move" in problem.message


def test_chat_templates() -> None:
    folders = {"a": FOLDERS["a"], "b": folder(bpe([]), chat_template="from b {{ x }}")}
    assert planned(folders, chat_template="auto").files["chat_template.jinja"] == b"from b {{ x }}"
    assert planned(chat_template="auto").files == FOLDERS["a"].files
    plan = planned(chat_template="chatml", tokenizer_source="union")
    assert b"<|im_start|>" in plan.files["chat_template.jinja"]
    assert plan.problems == ()
    assert "pear" in json.loads(plan.files["tokenizer.json"])["model"]["vocab"]
