"""From which row of which model each row of a model's embedding in the result comes.

A token's row is, in this order: the model's own; what the merge file says of the token (first of
all if ``force``); the base's; that of the only model that has the token; the mean of those that
have it. A token nobody has is a row of zeros.

Source: mergekit 0.1.5, `PermutedVocabulary`. Departs: it cuts the result to the tokenizer's
vocabulary. Here rows that belong to no token (padding, such as Qwen's 152064 rows for 151665
tokens) are kept from each model as far as all models have them, unless ``pad_to_multiple_of`` says
how many rows there are. With that, rows beyond the tokens are the mean of the others, as there.
Tokens may be in any model of the merge, also in one whose embedding is not merged.

Legend: M models, V rows of the result, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crucible_components.merging.vocabulary.tokens import Vocabulary

ZEROS, AVERAGE, MEAN = -1, -2, -3
"""In place of a donor: a row of zeros, the mean of the owners' rows, that of all tokens' rows."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """The row of one token by the merge file."""

    token: str
    donor: int
    """Index of a model, or `ZEROS`."""
    row: int
    force: bool


@dataclass(frozen=True)
class Run:
    """Neighbouring rows of the result that are neighbours where they come from."""

    start: int
    stop: int
    donor: int
    row: int
    """Of ``start`` in the donor."""


@dataclass(frozen=True, eq=False)
class RowPlan:
    """The rows of one model."""

    donors_V: Indices
    """Indices of models, or `ZEROS`, `AVERAGE`, `MEAN`."""
    rows_V: Indices
    breaks_V: NDArray[np.bool_]
    """True where a row does not follow the one before in the donor."""

    @cached_property
    def _starts(self) -> Indices:
        return np.append(np.flatnonzero(self.breaks_V), len(self.donors_V))

    def runs(self, first: int, last: int) -> Iterator[Run]:
        """The runs of rows ``first`` to ``last``, which is not one of them."""
        index = int(np.searchsorted(self._starts, first, side="right"))
        while first < last:
            stop = min(last, int(self._starts[index]))
            yield Run(first, stop, int(self.donors_V[first]), int(self.rows_V[first]))
            first, index = stop, index + 1

    def is_own(self, model: int, num_rows: int) -> bool:
        """True if nothing changes for the model with that index and number of rows."""
        return (
            len(self.donors_V) == num_rows
            and bool((self.donors_V == model).all())
            and bool((self.rows_V == np.arange(num_rows)).all())
        )


@dataclass(frozen=True, eq=False)
class RowPlans:
    """The rows of all models."""

    models: tuple[str, ...]
    plans: tuple[RowPlan, ...]
    owned_MV: Indices
    """The row of each token in each model; -1 where a model has none."""
    num_ids: int
    """Rows from here on belong to no token."""

    @property
    def num_rows(self) -> int:
        return int(self.owned_MV.shape[1])

    def index(self, model: str) -> int:
        return self.models.index(model)

    def unowned(self, result: Vocabulary) -> list[str]:
        """Tokens of the result for which no model has a row."""
        best_V = self.owned_MV.max(axis=0)
        return [token for token, number in result.ids.items() if best_V[number] < 0]


def plan_rows(
    result: Vocabulary,
    vocabularies: Mapping[str, Vocabulary],
    num_rows: Mapping[str, int],
    *,
    base: str | None = None,
    rules: Sequence[Rule] = (),
    pad_to_multiple_of: int | None = None,
) -> RowPlans:
    """Where the rows come from.

    Args:
        result: the vocabulary that the rows are for.
        vocabularies: of the models that have embeddings.
        num_rows: of each of them.
        base: the model whose row a token has in models that lack it.
        rules: donors are in the order of ``vocabularies``.
        pad_to_multiple_of: rows are added until their number is a multiple.
    """
    models = tuple(vocabularies)
    size = max(result.num_ids, min(num_rows[model] for model in models))
    if pad_to_multiple_of is not None:
        size = -(-result.num_ids // pad_to_multiple_of) * pad_to_multiple_of
    owned_MV = np.stack([_owned(result, vocabularies[m], num_rows[m], size) for m in models])
    donors_V, rows_V = _defaults(owned_MV, None if base is None else models.index(base))
    forced_V = np.zeros(size, dtype=bool)
    for rule in rules:
        at = result.ids[rule.token]
        donors_V[at], rows_V[at], forced_V[at] = rule.donor, rule.row, rule.force
    is_token_V = np.zeros(size, dtype=bool)
    is_token_V[np.fromiter(result.ids.values(), np.int64, len(result.ids))] = True
    plans = []
    for model, owned_V in enumerate(owned_MV):
        own_V = (owned_V >= 0) & ~forced_V
        donors, rows = np.where(own_V, model, donors_V), np.where(own_V, owned_V, rows_V)
        _fill_rest(donors, rows, is_token_V, model, [num_rows[m] for m in models])
        if pad_to_multiple_of is not None:
            donors[result.num_ids :], rows[result.num_ids :] = MEAN, 0
        plans.append(RowPlan(donors, rows, _breaks(donors, rows, owned_MV)))
    return RowPlans(models, tuple(plans), owned_MV, result.num_ids)


def _owned(result: Vocabulary, vocabulary: Vocabulary, num_rows: int, size: int) -> Indices:
    ids = vocabulary.ids
    ids_T = np.fromiter(result.ids.values(), np.int64, len(result.ids))
    rows_T = np.fromiter((ids.get(token, -1) for token in result.ids), np.int64, len(ids_T))
    owned_V = np.full(size, -1, dtype=np.int64)
    owned_V[ids_T] = np.where(rows_T < num_rows, rows_T, -1)
    return owned_V


def _defaults(owned_MV: Indices, base: int | None) -> tuple[Indices, Indices]:
    """Donors and rows of tokens for models that lack them."""
    has_MV = owned_MV >= 0
    counts_V = has_MV.sum(axis=0)
    donors_V: Indices = np.where(counts_V > 1, AVERAGE, ZEROS).astype(np.int64)
    donors_V = np.where(counts_V == 1, has_MV.argmax(axis=0), donors_V)
    if base is not None:
        donors_V = np.where(has_MV[base], base, donors_V)
    rows_V = np.take_along_axis(owned_MV, np.maximum(donors_V, 0)[None], axis=0)[0]
    return donors_V, np.where(donors_V >= 0, rows_V, 0)


def _fill_rest(
    donors: Indices, rows: Indices, is_token_V: NDArray[Any], model: int, num_rows: Sequence[int]
) -> None:
    """Rows of no token: at the same place in the model, else in the first that has such a row."""
    places = np.flatnonzero(~is_token_V)
    for each in (*reversed(range(len(num_rows))), model):
        inside = places[places < num_rows[each]]
        donors[inside], rows[inside] = each, inside


def _breaks(donors: Indices, rows: Indices, owned_MV: Indices) -> NDArray[np.bool_]:
    before, after = owned_MV[:, :-1], owned_MV[:, 1:]
    moves_MV = ((before >= 0) & (after == before + 1)) | ((before < 0) & (after < 0))
    follows = np.where(donors[1:] >= 0, rows[1:] == rows[:-1] + 1, True)
    follows = np.where(donors[1:] == AVERAGE, moves_MV.all(axis=0), follows)
    breaks = np.ones(len(donors), dtype=bool)
    breaks[1:] = (donors[1:] != donors[:-1]) | ~follows
    return breaks
