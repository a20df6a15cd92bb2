"""From a merge file to the tokenizer of its result and the rows of every model's embeddings.

Every mistake in the file is a `Problem`, and all are told together. Without a tokenizer rule the
tokenizer of the base, else of the first model, is taken as it is and no row moves; rows of
different meaning are then reported as differences, and different numbers of rows are a problem.

Source: mergekit 0.1.5, ``tokenizer``, ``tokenizer_source`` and ``chat_template``. Departs: a model
without a tokenizer is refused where rows are matched by token, instead of taken to have the base's;
without a base the first model of the file leads, not one of a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crucible.errors import Problem, UserError
from crucible.sdk.suggestion import did_you_mean
from crucible_components.merging.recipe.references import base_of, leading_model
from crucible_components.merging.recipe.schema import MergeFile, TokenizerRules
from crucible_components.merging.vocabulary.chat_templates import choose_template, with_template
from crucible_components.merging.vocabulary.differences import (
    NUM_EXAMPLES,
    VocabularyDifference,
    check_sizes,
    compare,
)
from crucible_components.merging.vocabulary.embeddings import (
    embedding_names,
    num_rows,
    vocab_sizes,
)
from crucible_components.merging.vocabulary.reader import PermutedReader, check_columns, resized
from crucible_components.merging.vocabulary.rows import RowPlans, plan_rows
from crucible_components.merging.vocabulary.rules import resolve_rules
from crucible_components.merging.vocabulary.tokens import (
    Vocabulary,
    read_vocabulary,
    tokenizer_files,
)
from crucible_components.merging.vocabulary.union import (
    changed_files,
    check_loads,
    union_of,
    with_added,
)
from crucible_components.models.weights import Reader, TensorInfo, TensorSource


@dataclass(frozen=True)
class VocabularyPlan:
    """The tokenizer of the result, and what it does to the models' embeddings."""

    source: str
    """The model whose tokenizer the result's is, or starts from."""
    files: Mapping[str, bytes]
    """All tokenizer files of the result by path; the base's (`is_tokenizer_file`) are not kept."""
    vocab_size: int | None
    """Rows of the result's embeddings; None where they stay as they are."""
    infos: Mapping[str, Mapping[str, TensorInfo]]
    """Of every model, with the rows of the result."""
    embeddings: Mapping[str, frozenset[str]]
    """Names of each model's tensors that have a row for each token."""
    rows: RowPlans | None
    """None where no row moves."""
    token_ids: Mapping[str, Any]
    """Entries of config.json, such as eos_token_id, that go with another model's tokenizer."""
    differences: tuple[VocabularyDifference, ...]
    notes: tuple[str, ...]
    """What a user may not expect, for the report."""
    problems: tuple[Problem, ...]

    def readers(self, readers: Mapping[str, Reader]) -> dict[str, Reader]:
        """The readers to merge from: wrapped for models whose rows move."""
        found = dict(readers)
        for index, model in enumerate(() if self.rows is None else self.rows.models):
            assert self.rows is not None
            count = num_rows(readers[model].infos, self.embeddings[model])
            if not self.rows.plans[index].is_own(index, count):
                found[model] = PermutedReader(
                    readers, model, rows=self.rows, tensors=self.embeddings
                )
        return found

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json with the result's vocabulary size and token ids, wherever they stand."""
        if self.vocab_size is None:
            return dict(config)
        size = next(vocab_sizes(config), None)
        return _replaced(config, size, {**self.token_ids, "vocab_size": self.vocab_size})


def plan_vocabulary(
    file: MergeFile,
    models: Mapping[str, TensorSource],
    infos: Mapping[str, Mapping[str, TensorInfo]],
    configs: Mapping[str, Mapping[str, Any]],
) -> VocabularyPlan:
    """Plan the vocabulary of a merge.

    Args:
        file: the merge.
        models: folders, by how the file refers to them.
        infos: of the models' tensors; a model that has none here gives only its tokenizer.
        configs: contents of config.json.
    """
    first = str(leading_model(file))
    order = sorted(models, key=lambda model: model != first)
    planner = _Planner(file, order, infos, {m: tokenizer_files(models[m]) for m in order})
    rules = file.tokenizer
    if file.tokenizer_source is not None:
        rules = TokenizerRules(source=file.tokenizer_source)
    planner.find_embeddings(configs)
    planner.read_vocabularies(models, needed=rules is not None)
    if rules is None:
        planner.problems += check_sizes(planner.num_rows)
    source = order[0] if rules is None else planner.source_of(rules)
    result = None if rules is None else planner.vocabulary(rules, source)
    rows = None
    if rules is not None and result is not None:
        rows = planner.rows(rules, result)
    files = planner.with_template(planner.files_of(source, result))
    return VocabularyPlan(
        source=source,
        files=files,
        vocab_size=None if rows is None else rows.num_rows,
        infos={model: planner.resized(model, rows) for model in infos},
        embeddings=planner.embeddings,
        rows=rows,
        token_ids={} if source == order[0] else _token_ids(configs.get(source, {})),
        differences=compare(planner.vocabularies),
        notes=tuple(planner.notes),
        problems=tuple(planner.problems),
    )


@dataclass
class _Planner:
    file: MergeFile
    order: list[str]
    """All models; the one whose tokenizer is taken if the file does not say another comes first."""
    infos: Mapping[str, Mapping[str, TensorInfo]]
    files: Mapping[str, Mapping[str, bytes]]
    embeddings: dict[str, frozenset[str]] = field(default_factory=dict)
    num_rows: dict[str, int] = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find_embeddings(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        for model in self.order:
            infos = self.infos.get(model, {})
            if names := embedding_names(infos, configs.get(model, {})):
                self.embeddings[model], self.num_rows[model] = names, num_rows(infos, names)

    def read_vocabularies(self, models: Mapping[str, TensorSource], *, needed: bool) -> None:
        for model in self.order:
            try:
                self.vocabularies[model] = read_vocabulary(models[model], model)
            except UserError as error:
                self.problems += error.problems if needed else ()

    def source_of(self, rules: TokenizerRules) -> str:
        """The model whose files the result starts from."""
        if isinstance(rules.source, str):
            return self.order[0]
        source = str(rules.source)
        if source in self.order:
            return source
        message = f"is {source}, no model of the merge."
        self.problems.append(Problem("tokenizer.source", message, did_you_mean(source, self.order)))
        return self.order[0]

    def vocabulary(self, rules: TokenizerRules, source: str) -> Vocabulary | None:
        """The result's; None if that of ``source`` could not be read."""
        if source not in self.vocabularies:
            return None
        result = self.vocabularies[source]
        if rules.source == "union":
            result, problems = union_of(self.vocabularies, self.num_rows)
            self.problems += problems
        result = with_added(result, [token for token in rules.tokens if token not in result.ids])
        if result is not self.vocabularies[source]:
            self.problems += check_loads(result)
        return result

    def rows(self, rules: TokenizerRules, result: Vocabulary) -> RowPlans | None:
        """Where rows come from; None where problems leave that open."""
        for model in self.infos:
            if model not in self.embeddings:
                message = "has no token embedding that is known by its name."
                fix = "Leave out tokenizer and tokenizer_source."
                self.problems.append(Problem(model, message, fix))
        owners = {m: v for m, v in self.vocabularies.items() if m in self.embeddings}
        unreadable = {model for model in self.infos if model not in owners}
        found, problems = resolve_rules(rules.tokens, owners, self.num_rows, unreadable=unreadable)
        self.problems += problems
        if self.problems or not owners:
            return None
        base = str(base_of(self.file))
        rows = plan_rows(
            result,
            owners,
            self.num_rows,
            base=base if base in owners else None,
            rules=found,
            pad_to_multiple_of=rules.pad_to_multiple_of,
        )
        self.problems += check_columns(rows, self.embeddings, self.infos)
        self._note_rows(rows, [t for t in rows.unowned(result) if t not in rules.tokens])
        return rows

    def _note_rows(self, rows: RowPlans, unowned: list[str]) -> None:
        if unowned:
            shown = ", ".join(map(repr, unowned[:NUM_EXAMPLES]))
            self.notes.append(f"No model has a row for {len(unowned)} tokens: zeros for {shown}.")
        for model in rows.models:
            if (count := self.num_rows[model]) > rows.num_rows:
                self.notes.append(f"The last {count - rows.num_rows} rows of {model} are cut off.")

    def files_of(self, source: str, result: Vocabulary | None) -> dict[str, bytes]:
        """Those of the result; where no rule asks, of the first model that has any."""
        if result is not None:
            return changed_files(self.files[source], self.vocabularies[source], result)
        if not self.files[source] and (others := [m for m in self.order if self.files[m]]):
            self.notes.append(f"{source} has no tokenizer: that of {others[0]} is taken.")
            source = others[0]
        return dict(self.files[source])

    def with_template(self, files: dict[str, bytes]) -> dict[str, bytes]:
        if self.file.chat_template is None:
            return files
        many = [self.files[model] for model in self.order]
        template, problems = choose_template(self.file.chat_template, many)
        self.problems += problems
        return files if template is None or problems else with_template(files, template)

    def resized(self, model: str, rows: RowPlans | None) -> Mapping[str, TensorInfo]:
        if rows is None or model not in self.embeddings:
            return self.infos[model]
        return resized(self.infos[model], self.embeddings[model], rows.num_rows)


def _token_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    """Entries such as eos_token_id, of nested configs where the outer one has none."""
    found: dict[str, Any] = {}
    for value in config.values():
        if isinstance(value, dict):
            found.update(_token_ids(value))
    own = {k: v for k, v in config.items() if k.endswith("_token_id") and v is not None}
    return {**found, **own}


def _replaced(
    config: Mapping[str, Any], size: int | None, values: Mapping[str, Any]
) -> dict[str, Any]:
    """``config`` with ``values`` in place of what it has; of sizes only those that are ``size``."""

    def new(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _replaced(value, size, values)
        return values.get(key, value) if key != "vocab_size" or value == size else value

    return {key: new(key, value) for key, value in config.items()}
