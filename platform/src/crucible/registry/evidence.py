"""What a decision rests on, read from the artifact store by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crucible.errors import ArtifactNotFound, UserError
from crucible.registry.paired import ScoredAnswer

if TYPE_CHECKING:
    from crucible.artifacts.store import Store


def read_metrics(store: Store, digest: str) -> dict[str, float]:
    """The numbers of a Metrics artifact.

    Raises:
        UserError: it is not a flat object of numbers.
    """
    with store.reader(digest).open("metrics.json") as stream:
        values = _parsed(stream.read())
    if not isinstance(values, dict) or not all(map(_is_number, values.values())):
        raise UserError(
            f"metrics {digest}: metrics.json is not a flat object of numbers. "
            "Write it with Metrics.write."
        )
    return {name: float(value) for name, value in values.items()}


def read_answers(store: Store, digest: str) -> dict[str, ScoredAnswer]:
    """The scored answers of a Dataset[predictions] artifact by record id.

    Raises:
        UserError: records without id or score, or an id twice; names the first few.
    """
    answers: dict[str, ScoredAnswer] = {}
    problems: list[str] = []
    with store.reader(digest).open("records.jsonl") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            record = _parsed(line)
            problem = _problem(record, answers)
            if problem:
                problems.append(f"line {number}: {problem}")
            else:
                answers[str(record["id"])] = _answer(record)
    if problems:
        listed = "; ".join(problems[:5])
        raise UserError(
            f"predictions {digest}: {len(problems)} bad records: {listed}. "
            "Each needs a unique id and correct (true, false or a mean from 0 to 1)."
        )
    return answers


def read_champion_answers(store: Store, digest: str | None) -> Mapping[str, ScoredAnswer]:
    """As `read_answers`; empty if the champion left none or they are no longer in the store."""
    if digest is None:
        return {}
    try:
        return read_answers(store, digest)
    except ArtifactNotFound:
        return {}


def _parsed(text: bytes) -> Any:
    """The JSON value, or None: both callers refuse what is no object."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _problem(record: Any, seen: Mapping[str, ScoredAnswer]) -> str | None:
    if not isinstance(record, dict):
        return "not a JSON object"
    if "id" not in record:
        return "no id"
    if str(record["id"]) in seen:
        return f"id {record['id']!r} twice"
    score = record.get("correct")
    if not isinstance(score, (bool, int, float)) or not 0 <= score <= 1:
        return f"correct is {score!r}"
    return None


def _answer(record: Mapping[str, Any]) -> ScoredAnswer:
    asked = json.dumps([record.get("question"), record.get("answer")], sort_keys=True)
    return ScoredAnswer(
        score=float(record["correct"]),
        category=str(record.get("category", "")),
        cluster=str(record.get("image") or ""),
        task=hashlib.sha256(asked.encode()).hexdigest(),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
