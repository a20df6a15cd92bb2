"""What one record of each dataset schema must look like, and every rule that a record breaks.

The schemas are those of `crucible.sdk.types`; conversations follow the LLaVA form, so public
instruction data enters unchanged. Fields beyond the schema are allowed and left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crucible.errors import Problem

SPEAKERS = ("human", "gpt")

Record = dict[str, Any]
"""One JSON object of ``records.jsonl``, valid under its dataset's schema."""


def record_problems(record: object, variant: str) -> list[Problem]:
    """Every rule of schema ``variant`` that ``record`` breaks; empty for a valid record."""
    if not isinstance(record, dict):
        return [Problem("", f"a line holds a {type(record).__name__}.", "Write one JSON object.")]
    return _RULES.get(variant, _any_problems)(record)


def _any_problems(record: Mapping[str, object]) -> list[Problem]:
    return []


def _conversation_problems(record: Mapping[str, object]) -> list[Problem]:
    problems = _text_problems(record, ("id",))
    problems += _optional_text_problems(record, ("image", "category"))
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        found = f"a list of {len(turns)}" if isinstance(turns, list) else repr(turns)
        rule = f"is {found}; it must hold pairs of a human and a gpt turn."
        return [*problems, Problem("conversations", rule, "Give every question its answer.")]
    for index, turn in enumerate(turns):
        problems += _turn_problems(turn, index)
    return problems


def _turn_problems(turn: object, index: int) -> list[Problem]:
    where, speaker = f"conversations[{index}]", SPEAKERS[index % 2]
    if not isinstance(turn, dict):
        return [Problem(where, f"is {turn!r}, not an object.", 'Write {"from": …, "value": …}.')]
    problems = []
    if turn.get("from") != speaker:
        rule = f"is {turn.get('from')!r}; turns alternate and a human begins."
        problems.append(Problem(f"{where}.from", rule, f"Here {speaker!r} speaks."))
    if not isinstance(turn.get("value"), str) or not turn["value"].strip():
        problems.append(Problem(f"{where}.value", "is not a non-empty string.", "Write the text."))
    return problems


def _question_problems(record: Mapping[str, object]) -> list[Problem]:
    problems = _text_problems(record, ("id", "category", "question", "answer"))
    problems += _optional_text_problems(record, ("image",))
    choices = record.get("choices")
    if choices is not None and not (
        isinstance(choices, list)
        and len(choices) > 1
        and all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        rule = f"is {choices!r}; it must list at least two non-empty strings."
        problems.append(Problem("choices", rule, "Leave it out for open questions."))
    return problems


def _prediction_problems(record: Mapping[str, object]) -> list[Problem]:
    problems = _text_problems(record, ("id", "category", "question", "answer"))
    if not isinstance(record.get("prediction"), str):
        problems.append(Problem("prediction", "is not a string.", "Write the model's text."))
    if not isinstance(record.get("correct"), bool):
        problems.append(
            Problem("correct", f"is {record.get('correct')!r}.", "Write true or false.")
        )
    return problems


def _text_problems(record: Mapping[str, object], names: tuple[str, ...]) -> list[Problem]:
    problems = []
    for name in names:
        value = record.get(name)
        if name not in record:
            problems.append(Problem(name, "is missing.", "Add it."))
        elif not isinstance(value, str) or not value.strip():
            problems.append(Problem(name, f"is {value!r}, not a non-empty string.", "Write text."))
    return problems


def _optional_text_problems(record: Mapping[str, object], names: tuple[str, ...]) -> list[Problem]:
    return _text_problems(record, tuple(name for name in names if record.get(name) is not None))


_RULES: Mapping[str, Callable[[Mapping[str, object]], list[Problem]]] = {
    "conversations": _conversation_problems,
    "questions": _question_problems,
    "predictions": _prediction_problems,
}
