"""Pictures with what was asked about them and what was answered."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_components.reporting.elements.markup import Markup, el


def sample_card(
    question: str, answers: Sequence[Markup], picture: Markup | None, tag: str
) -> Markup:
    """One picture, the question, and the answers to it."""
    body = [
        el("p", question, class_="asked"),
        el("p", tag, class_="note"),
        el("ul", answers),
    ]
    return el("article", picture, el("div", body, class_="body"), class_="sample")


def answer_line(text: str, *, correct: bool | None, who: str) -> Markup:
    """One answer with a mark that does not rely on colour; None marks the expected answer."""
    mark, tone, spoken = {
        True: ("✓", "good-text", "right"),
        False: ("✗", "bad-text", "wrong"),
        None: ("=", "muted", "expected"),
    }[correct]
    return el(
        "li",
        el("span", mark, class_=tone, role="img", aria_label=spoken),
        el("b", text or "(nothing)"),
        el("span", who, class_="who"),
    )
