"""From a model's text to a verdict: what counts as its answer, and whether that is right.

Open questions are scored by exact match after normalisation. Questions with options are scored by
the letter, found by the first of these rules that fires: a boxed letter; "answer is (X)" or
"answer: X"; the last standalone option letter of the final line. The rule is kept with every
prediction. The first letter or number of a text is never taken as its answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crucible_components.data.answers import normalise_answer

Rule = Literal["text", "boxed", "stated", "last-letter", "none", "unfinished-thought"]

_THOUGHT_OPENED, _THOUGHT_CLOSED = "<think>", "</think>"


@dataclass(frozen=True)
class Verdict:
    """The answer that was read from a text, by which rule, and whether it is right."""

    answer: str
    """Empty if none was found."""
    rule: Rule
    correct: bool


def score(text: str, question: dict[str, Any]) -> Verdict:
    """The verdict on ``text`` as the model's whole output to a record of schema Questions."""
    final = final_message(text)
    if final is None:
        return Verdict("", "unfinished-thought", False)
    choices = question.get("choices")
    if not choices:
        answer = final.strip()
        correct = normalise_answer(answer) == normalise_answer(question["answer"])
        return Verdict(answer, "text", correct)
    letter, rule = extract_letter(final, len(choices))
    return Verdict(letter, rule, letter == right_letter(question["answer"], choices))


def final_message(text: str) -> str | None:
    """What follows the last closed thought; None if a thought was opened and never closed."""
    rest = text.rpartition(_THOUGHT_CLOSED)[2]
    return None if _THOUGHT_OPENED in rest else rest


def extract_letter(text: str, num_choices: int) -> tuple[str, Rule]:
    """The option letter that ``text`` settles on, and the rule that found it; else empty."""
    letters = option_letters(num_choices)
    for rule, find in _LETTER_RULES:
        letter = find(text, letters)
        if letter:
            return letter, rule
    return "", "none"


def option_letters(num_choices: int) -> str:
    """``ABCD`` for four options."""
    return "".join(chr(ord("A") + index) for index in range(num_choices))


def right_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter of the right option, whether the record gives the letter or the option."""
    letters = option_letters(len(choices))
    return answer if answer in tuple(letters) else letters[list(choices).index(answer)]


def _boxed(text: str, letters: str) -> str:
    found = re.findall(rf"\\boxed\{{\s*\(?([{letters}])\)?\s*\}}", text)
    return found[-1] if found else ""


def _stated(text: str, letters: str) -> str:
    pattern = rf"(?i:answer)(?:\s+is)?\s*:?\s*[*(]*([{letters}])(?![A-Za-z0-9])"
    found = re.findall(pattern, text)
    return found[-1] if found else ""


def _last_letter(text: str, letters: str) -> str:
    lines = text.strip().splitlines()
    if not lines:
        return ""
    alone = normalise_answer(lines[-1]).strip("()").upper()
    if len(alone) == 1 and alone in letters:
        return alone
    found = re.findall(rf"(?<![A-Za-z0-9'])([{letters}])(?![A-Za-z0-9'])", lines[-1])
    return found[-1] if found else ""


_LETTER_RULES: tuple[tuple[Rule, Callable[[str, str], str]], ...] = (
    ("boxed", _boxed),
    ("stated", _stated),
    ("last-letter", _last_letter),
)
