"""Heads that are embeddings: left out where all are, written where one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crucible_components.merging.sources.locating import LocalFolder
from crucible_components.merging.sources.testing import small_config, small_tensors, write_folder
from crucible_components.merging.sources.ties import find_tie, untangle
from crucible_components.models.weights import TensorReader

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


def reader(folder: Path, **content: Any) -> TensorReader:
    tensors = small_tensors(**content)
    return TensorReader(LocalFolder(write_folder(folder, tensors, small_config())))


@pytest.mark.parametrize(
    ("config", "has_head", "is_tied"),
    [
        (TIED, True, True),
        (UNTIED, True, False),
        (UNTIED, False, False),
        ({}, True, False),
        ({}, False, True),
        ({"text_config": TIED}, True, True),
        ({"text_config": {}, **TIED}, True, True),
        ({"text_config": TIED, **UNTIED}, True, False),
        ({"text_config": TIED, **UNTIED}, False, True),
        ({"text_config": UNTIED, **UNTIED}, True, False),
    ],
)
def test_what_settings_and_tensors_say(
    config: dict[str, Any], has_head: bool, is_tied: bool
) -> None:
    names = [EMBEDDING, "model.layers.0.attention.output.weight", *([HEAD] if has_head else [])]
    tie = find_tie(names, config)
    assert tie is not None
    assert (tie.embedding, tie.head) == (EMBEDDING, HEAD)
    assert (tie.is_stored, tie.is_tied) == (has_head, is_tied)


@pytest.mark.parametrize(
    ("names", "embedding", "head"),
    [
        (["transformer.wte.weight"], "transformer.wte.weight", HEAD),
        (["model.language_model.embed_tokens.weight"], None, HEAD),
        (["language_model.model.embed_tokens.weight"], None, "language_model.lm_head.weight"),
        (["gpt_neox.embed_in.weight", "embed_out.weight"], None, "embed_out.weight"),
        (
            ["audio.embed_tokens.weight", "model.language_model.embed_tokens.weight"],
            "model.language_model.embed_tokens.weight",
            HEAD,
        ),
    ],
)
def test_names(names: list[str], embedding: str | None, head: str) -> None:
    tie = find_tie(names, {})
    assert tie is not None
    assert (tie.embedding, tie.head) == (embedding or names[0], head)


def test_no_embedding_no_tie() -> None:
    assert find_tie(["encoder.0.weight", "lm_head.weight"], TIED) is None


def test_tied_models_have_no_head(tmp_path: Path) -> None:
    with reader(tmp_path / "a") as a, reader(tmp_path / "b", has_head=False) as b:
        found = untangle({"a": a, "b": b}, {"a": TIED, "b": TIED})
        assert (found.is_tied, found.problems, found.notes) == (True, (), ())
        names = small_tensors(has_head=False).keys()
        assert [each.infos.keys() for each in found.readers.values()] == [names, names]
        values = found.readers["a"].read_span(EMBEDDING, slice(3, 9))
        assert torch.equal(values, small_tensors()[EMBEDDING].flatten()[3:9])


def test_untied_models_stay_as_they_are(tmp_path: Path) -> None:
    with reader(tmp_path / "a") as a, reader(tmp_path / "b", has_head=False) as b:
        found = untangle({"a": a, "b": a}, {"a": UNTIED, "b": {}})
        assert (found.is_tied, dict(found.readers)) == (False, {"a": a, "b": a})
        found = untangle({"b": b}, {"b": UNTIED})
        assert (found.is_tied, dict(found.readers)) == (None, {"b": b})


@pytest.mark.parametrize("has_head", [True, False])
def test_where_models_disagree_the_embedding_is_the_head(tmp_path: Path, has_head: bool) -> None:
    """Also where a tied checkpoint needlessly stores one."""
    with reader(tmp_path / "a", seed=1) as a, reader(tmp_path / "b", has_head=has_head) as b:
        found = untangle({"a": a, "b": b}, {"a": UNTIED, "b": TIED})
        assert (found.is_tied, found.problems) == (False, ())
        [note] = found.notes
        assert note.startswith("b: the embedding is also the head")
        assert found.readers["a"] is a
        tied = found.readers["b"]
        assert tied.infos.keys() == small_tensors().keys()
        assert tied.infos[HEAD].name == HEAD
        assert tied.infos[HEAD].shape == (6, 4)
        expected = small_tensors(has_head=has_head)[EMBEDDING].flatten()
        assert torch.equal(tied.read_span(HEAD, slice(0, 24)), expected)


def test_a_tied_head_of_another_shape_is_told(tmp_path: Path) -> None:
    tensors = {**small_tensors(), HEAD: torch.zeros(8, 4)}
    with TensorReader(LocalFolder(write_folder(tmp_path, tensors, small_config()))) as a:
        found = untangle({"a": a}, {"a": TIED})
        [problem] = found.problems
        assert problem.path == f"a.{HEAD}"
        assert "has shape [8, 4], model.embed_tokens.weight [6, 4]" in problem.message
        assert untangle({"a": a}, {"a": UNTIED}).problems == ()
