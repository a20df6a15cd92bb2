"""Questions about the differences of two panels in one picture (set SynthContrastShort)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from crucible_components.synthesis.balance import Balancer
from crucible_components.synthesis.questions import YES_NO, Question, article
from crucible_components.synthesis.scene import Scene, World

SIDES = ("left", "right")


def contrast_questions(
    left: Scene,
    right: Scene,
    world: World,
    *,
    limit: int,
    balancer: Balancer,
    rng: random.Random,
) -> list[Question]:
    """Up to ``limit`` different questions that need both panels, answers in balance."""
    candidates = list(_candidates(left, right, world))
    picked: list[Question] = []
    while len(picked) < limit:
        known = {question.fact for question in picked}
        question = balancer.take([each for each in candidates if each.fact not in known], rng)
        if question is None:
            break
        picked.append(question)
    return picked


def _candidates(left: Scene, right: Scene, world: World) -> Iterator[Question]:
    contents = [{(f.color, f.shape) for f in panel.figures} for panel in (left, right)]
    for color, shape in itertools.product(world.colors, world.shapes):
        found = [(color, shape) in content for content in contents]
        if found[0] != found[1]:
            name = f"{article(color)} {color} {shape}"
            yield _side("which-has", f"which side has {name}?", found[0], f"has {name}")
    numbers = [len(panel.figures) for panel in (left, right)]
    if numbers[0] != numbers[1]:
        text = "which side has more shapes?"
        yield _side("which-more", text, numbers[0] > numbers[1], "has more shapes")
    same = left.backdrop == right.backdrop
    answer, verb = ("yes", "have") if same else ("no", "do not have")
    yield Question(
        "contrast",
        "same-background",
        "do both sides have the same background?",
        answer,
        YES_NO,
        f"{answer}, the sides {verb} the same background.",
        "backgrounds",
    )
    for side, panel in zip(SIDES, (left, right), strict=True):
        if len(panel.figures) == 1:
            figure = panel.figures[0]
            yield Question(
                "contrast",
                "color-of-side",
                f"what color is the {side} shape?",
                figure.color,
                world.colors,
                f"the {side} shape is {figure.color}.",
                f"color of {side}",
            )


def _side(template: str, text: str, is_left: bool, fact: str) -> Question:
    answer = SIDES[0] if is_left else SIDES[1]
    return Question("contrast", template, text, answer, SIDES, f"the {answer} side {fact}.", fact)
