"""Extraction rules in their order, and exact match after normalisation."""

from __future__ import annotations

import pytest

from crucible_components.data.answers import normalise_answer
from crucible_components.evaluation.scoring import (
    extract_letter,
    final_message,
    right_letter,
    score,
)

OPEN = {"answer": "two"}
CHOICE = {"answer": "B", "choices": ["red", "blue", "green", "cyan"]}


@pytest.mark.parametrize("text", ["two", " Two ", "two.", '"two"', "TWO\n", "`two`", "two ."])
def test_spelling_of_a_right_answer_does_not_matter(text: str) -> None:
    assert score(text, OPEN).correct


@pytest.mark.parametrize("text", ["", "twofold", "one or two", "two two", "2", "t wo"])
def test_other_words_are_wrong(text: str) -> None:
    assert not score(text, OPEN).correct


def test_normalising_twice_changes_nothing() -> None:
    for text in ("A b", " 'x'. ", "...", "", "Yes.", "x . ."):
        assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        (r"so \boxed{B} it is, not C", "B", "boxed"),
        (r"\boxed{A} no, \boxed{(C)}", "C", "boxed"),
        (r"the answer is D but \boxed{A}", "A", "boxed"),
        ("The answer is (C).", "C", "stated"),
        ("Answer: A\nB and C are wrong", "A", "stated"),
        ("answer: **B**", "B", "stated"),
        ("Answer: Apple", "", "none"),
        ("the answer is clear", "", "none"),
        ("A looks right.\nNo, I take C", "C", "last-letter"),
        ("C\nnothing here", "", "none"),
        ("b", "B", "last-letter"),
        ("(d).", "D", "last-letter"),
        ("a dog", "", "none"),
        ("E", "", "none"),
        ("Barking", "", "none"),
        ("I'd say B's colour", "", "none"),
        ("", "", "none"),
    ],
)
def test_letters_are_found_by_the_first_rule_that_fires(text: str, letter: str, rule: str) -> None:
    assert extract_letter(text, 4) == (letter, rule)


def test_choice_is_right_by_letter_or_by_option_of_the_record() -> None:
    assert score("B", CHOICE).correct
    assert score("B", {**CHOICE, "answer": "blue"}).correct
    assert not score("A", CHOICE).correct
    assert not score("blue", CHOICE).correct
    assert right_letter("cyan", CHOICE["choices"]) == "D"


def test_options_beyond_the_given_ones_do_not_count() -> None:
    assert extract_letter("D", 3) == ("", "none")
    assert extract_letter("D", 4) == ("D", "last-letter")


def test_thoughts_are_not_answers() -> None:
    assert score("<think>one</think> two", OPEN).correct
    assert score("<think>two</think> one", OPEN).correct is False
    assert score("a</think>b</think>two", OPEN).correct
    unfinished = score("<think>it is two", OPEN)
    assert (unfinished.answer, unfinished.rule, unfinished.correct) == (
        "",
        "unfinished-thought",
        False,
    )
    assert final_message("no thought") == "no thought"
