"""What a merge file says of single tokens, resolved to rows of models."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from crucible.errors import Problem
from crucible.sdk.suggestion import did_you_mean
from crucible_components.merging.recipe.schema import (
    ModelReference,
    ModelToken,
    TokenRule,
    ZeroToken,
)
from crucible_components.merging.vocabulary.rows import ZEROS, Rule
from crucible_components.merging.vocabulary.tokens import Vocabulary


def resolve_rules(
    rules: Mapping[str, TokenRule],
    vocabularies: Mapping[str, Vocabulary],
    num_rows: Mapping[str, int],
    *,
    unreadable: Collection[str] = (),
) -> tuple[list[Rule], list[Problem]]:
    """Where the rows of single tokens come from, and which rules cannot be followed.

    Args:
        rules: by token.
        vocabularies: of the models that have embeddings; `Rule.donor` counts them.
        num_rows: of their embeddings.
        unreadable: models that are in the merge, but their problems are told elsewhere.
    """
    found, problems = [], []
    for token, rule in rules.items():
        where = f"tokenizer.tokens.{token}"
        resolved = _resolve(token, rule, where, vocabularies, num_rows)
        if isinstance(resolved, Rule):
            found.append(resolved)
        elif resolved is not None and _model(rule) not in unreadable:
            problems.append(resolved)
    return found, problems


def _resolve(
    token: str,
    rule: TokenRule,
    where: str,
    vocabularies: Mapping[str, Vocabulary],
    num_rows: Mapping[str, int],
) -> Rule | Problem | None:
    source, model = rule.source, _model(rule)
    if source is None:
        fix = "Say where its row comes from."
        return Problem(where, "has force, but no source.", fix) if rule.force else None
    if isinstance(source, ZeroToken):
        return Rule(token, ZEROS, 0, rule.force)
    if model is None or model not in vocabularies:
        fix = did_you_mean(str(model), vocabularies)
        return Problem(f"{where}.source", f"is {model}, no model that has embeddings.", fix)
    row = _row(token, source, vocabularies[model])
    if row is None or row >= num_rows[model]:
        wanted = source.token if isinstance(source, ModelToken) else token
        shown = f"row {row}" if wanted is None else f"token {wanted!r}"
        message = f"asks for {shown}, which the embedding of {model} does not have."
        return Problem(f"{where}.source", message, "Choose one that it has, or another model.")
    return Rule(token, list(vocabularies).index(model), row, rule.force)


def _model(rule: TokenRule) -> str | None:
    source = rule.source
    if isinstance(source, ModelReference):
        return str(source)
    return str(source.model) if isinstance(source, ModelToken) else None


def _row(token: str, source: ModelReference | ModelToken, vocabulary: Vocabulary) -> int | None:
    if isinstance(source, ModelReference):
        return vocabulary.ids.get(token)
    return source.token_id if source.token is None else vocabulary.ids.get(source.token)
