"""Rules of single tokens, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from crucible.errors import Problem
from crucible_components.merging.recipe.schema import TokenRule
from crucible_components.merging.vocabulary.rows import ZEROS, Rule
from crucible_components.merging.vocabulary.rules import resolve_rules
from crucible_components.merging.vocabulary.testing import bpe, folder
from crucible_components.merging.vocabulary.tokens import read_vocabulary

VOCABULARIES = {
    "first": read_vocabulary(folder(bpe([])), "first"),
    "second": read_vocabulary(folder(bpe(["cat"], ["<s>"])), "second"),
}
ROWS = {"first": 27, "second": 29}  # none for <s>


def resolved(token: str, **rule: Any) -> tuple[list[Rule], list[Problem]]:
    rules = {token: TokenRule.model_validate(rule)}
    return resolve_rules(rules, VOCABULARIES, ROWS, unreadable={"third"})


@pytest.mark.parametrize(
    ("source", "donor", "row"),
    [
        ("second", 1, 28),
        ({"kind": "zero"}, ZEROS, 0),
        ({"kind": "model_token", "model": "first", "token": "c"}, 0, 2),
        ({"kind": "model_token", "model": "second", "token_id": 28}, 1, 28),
    ],
)
@pytest.mark.parametrize("force", [True, False])
def test_sources(source: Any, donor: int, row: int, force: bool) -> None:
    assert resolved("cat", source=source, force=force) == ([Rule("cat", donor, row, force)], [])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("first", "asks for token 'cat', which the embedding of first does not have."),
        ("secnd", "is secnd, no model that has embeddings."),
        (
            {"kind": "model_token", "model": "second", "token": "<s>"},
            "asks for token '<s>', which the embedding of second does not have.",
        ),
        (
            {"kind": "model_token", "model": "second", "token_id": 29},
            "asks for row 29, which the embedding of second does not have.",
        ),
    ],
)
def test_what_cannot_be_followed(source: Any, message: str) -> None:
    found, [problem] = resolved("cat", source=source)
    assert found == []
    assert problem.path == "tokenizer.tokens.cat.source"
    assert problem.message == message
    assert problem.fix
    if source == "secnd":
        assert "'second'" in problem.fix


def test_rules_that_say_nothing() -> None:
    assert resolved("cat") == ([], [])
    _, [problem] = resolved("cat", force=True)
    assert problem.message == "has force, but no source."
    assert resolved("cat", source="third") == ([], []), "told elsewhere"
