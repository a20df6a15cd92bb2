"""Unions and rows against mergekit's, on folders that both read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_components.merging.recipe.schema import MergeFile
from crucible_components.merging.vocabulary import VocabularyPlan, plan_vocabulary
from crucible_components.merging.vocabulary.testing import (
    EMBEDDING,
    MemoryFolder,
    MemoryReader,
    bpe,
    embeddings,
    folder,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of mergekit's own use of what it imports

COMMON = ["the", "cat", "dogs"]


class Case:
    """Models, in mergekit's order: the base first."""

    def __init__(self, path: Path, **definitions: dict[str, Any]) -> None:
        self.path = path
        self.folders: dict[str, MemoryFolder] = {}
        self.readers: dict[str, MemoryReader] = {}
        for seed, (name, definition) in enumerate(definitions.items()):
            count = len(definition["model"]["vocab"].keys() | {
                entry["content"] for entry in definition["added_tokens"]})  # fmt: skip
            self.folders[name] = folder(definition)
            self.readers[name] = embeddings(count, seed=seed)
            target = path / name
            target.mkdir()
            for file, data in self.folders[name].files.items():
                (target / file).write_bytes(data)
            config = {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "vocab_size": count,
            }
            (target / "config.json").write_text(json.dumps(config))

    def ours(self, base: str | None, **tokenizer: Any) -> VocabularyPlan:
        file = MergeFile.model_validate({
            "merge_method": "linear",
            "models": [{"model": name} for name in self.folders],
            "base_model": base,
            "tokenizer": tokenizer,
        })  # fmt: skip
        infos = {name: reader.infos for name, reader in self.readers.items()}
        plan = plan_vocabulary(file, self.folders, infos, {})
        assert plan.problems == ()
        return plan

    def theirs(
        self, base: str | None, *, source: str, tokens: Mapping[str, Any] | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> tuple[dict[str, int], dict[str, Tensor]]:  # fmt: skip
        """The vocabulary, and the permuted embeddings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mergekit.common import ModelReference
            from mergekit.tokenizer.build import build_tokenizer
            from mergekit.tokenizer.config import TokenEmbeddingConfig
            from mergekit.tokenizer.embed import PermutedVocabulary

            def path(value: Any) -> Any:
                if isinstance(value, dict):
                    return {key: path(each) for key, each in value.items()}
                return str(self.path / value) if value in self.folders else value

            names = {name: ModelReference.parse(str(self.path / name)) for name in self.folders}
            known = source in self.folders
            info = build_tokenizer(
                base_model=names.get(base or ""),
                referenced_models=list(names.values()),
                tokenizer_source=names[source] if known else source,
                trust_remote_code=False,
                add_tokens=list(tokens or ()),
            )
            task = PermutedVocabulary.model_construct(
                tokens={t: TokenEmbeddingConfig.model_validate(path(rule))
                        for t, rule in (tokens or {}).items()},
                pad_to_multiple_of=pad_to_multiple_of,
                base_model=names.get(base or ""),
                vocabulary_axis=0,
            )  # fmt: skip
            tensors = {names[n]: r.tensors[EMBEDDING] for n, r in self.readers.items()}
            permuted = task.execute(info, tensors)
        return info.tokenizer.get_vocab(), {n: permuted[ref] for n, ref in names.items()}


def check(case: Case, base: str | None, **tokenizer: Any) -> VocabularyPlan:
    """Same tokens, the first model's ids, and for every token the same row in every model."""
    plan = case.ours(base, **tokenizer)
    their_ids, their_rows = case.theirs(base, **tokenizer)
    model = json.loads(plan.files["tokenizer.json"])
    our_ids = {e["content"]: e["id"] for e in model["added_tokens"]} | model["model"]["vocab"]
    assert our_ids.keys() == their_ids.keys()
    source = (
        tokenizer["source"] if tokenizer["source"] in case.folders else next(iter(case.folders))
    )
    kept = json.loads(case.folders[source].files["tokenizer.json"])["model"]["vocab"]
    assert {t: our_ids[t] for t in kept} == {t: their_ids[t] for t in kept} == kept
    for name, reader in plan.readers(case.readers).items():
        count = plan.vocab_size
        assert count == len(their_rows[name])
        ours = reader.read_span(EMBEDDING, slice(0, count * 3)).view(count, 3)
        order = sorted(our_ids)
        torch.testing.assert_close(
            ours[[our_ids[t] for t in order]], their_rows[name][[their_ids[t] for t in order]]
        )
        torch.testing.assert_close(ours[len(our_ids) :], their_rows[name][len(our_ids) :])
    return plan


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(
        tmp_path,
        first=bpe([*COMMON, "apple"], ["<s>", "</s>"]),
        second=bpe([*COMMON, "pear", "plum"], ["<s>", "</s>", "<think>", "</think>"]),
        third=bpe([*COMMON, "plum", "fig"], ["<s>", "<tool>", "</think>"]),
    )


@pytest.mark.parametrize("base", ["first", None])
def test_unions(case: Case, base: str | None) -> None:
    plan = check(case, base, source="union")
    assert plan.files["tokenizer.json"] != case.folders["first"].files["tokenizer.json"]


@pytest.mark.parametrize("source", ["base", "second"])
def test_one_models_tokenizer(case: Case, source: str) -> None:
    plan = check(case, "first", source=source)
    assert plan.files == case.folders["first" if source == "base" else source].files


def test_rules_of_tokens(case: Case) -> None:
    rules = {
        "<think>": {"source": "second", "force": True},
        "plum": {"source": "third"},
        "<tool>": {"source": {"kind": "zero"}, "force": True},
        "cat": {"source": {"kind": "model_token", "model": "third", "token": "fig"}, "force": True},
        "fig": {"source": {"kind": "model_token", "model": "first", "token_id": 3}},
        "<new>": {"source": {"kind": "model_token", "model": "second", "token": "<think>"}},
    }
    check(case, "first", source="union", tokens=rules)


def test_padding_with_the_mean(case: Case) -> None:
    plan = check(case, "first", source="union", pad_to_multiple_of=16)
    assert plan.vocab_size is not None
    assert plan.vocab_size % 16 == 0
    assert plan.rows is not None
    assert plan.vocab_size > plan.rows.num_ids


def test_added_tokens_alone_get_mergekits_ids(tmp_path: Path) -> None:
    case = Case(
        tmp_path,
        first=bpe(COMMON, ["<s>", "</s>"]),
        second=bpe(COMMON, ["<s>", "</s>", "<think>", "</think>"]),
    )
    check(case, "first", source="union")
    ids, _ = case.theirs("first", source="union")
    result = json.loads(case.ours("first", source="union").files["tokenizer.json"])
    assert {e["content"]: e["id"] for e in result["added_tokens"]} == {
        token: ids[token] for token in ("<s>", "</s>", "<think>", "</think>")
    }
