"""Every verifiable question that a scene answers, by category, with its answer and a statement.

One wording a template and one closed answer domain a template: a word-level vocabulary of some
hundred words covers everything, and exact match scores it. A question is asked only where the
picture leaves no doubt: named figures are unique, and compared positions differ clearly.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from crucible_components.synthesis.scene import BACKDROPS, SIZES, Figure, Scene, World

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")
YES_NO = ("yes", "no")
LETTERS = ("A", "B", "C", "D")
DIGITS = tuple(str(value) for value in range(10))

_ROWS, _COLUMNS = ("top", "bottom"), ("left", "right")
_HORIZONTAL, _VERTICAL = ("left of", "right of"), ("above", "below")
_CLEAR_OFFSET_IN_CELLS = 0.5
"""How far two centres must lie apart: figures in one column are neither left nor right."""
_MAX_COUNTED = 2
"""Highest count asked of one shape or colour; higher ones are too rare to balance."""


@dataclass(frozen=True)
class Question:
    """A question with its only right answer."""

    category: str
    template: str
    text: str
    answer: str
    domain: tuple[str, ...]
    """All answers that the template can have; balanced against each other."""
    statement: str
    """The answer as a sentence."""
    fact: str
    """What it is about: two questions about one fact answer each other."""
    choices: tuple[str, ...] = ()
    """Options A, B, … where the answer is a letter."""


def color_questions(scene: Scene, world: World) -> Iterator[Question]:
    """The colour of each figure that its shape, or size and shape, names."""
    shapes = [figure.shape for figure in scene.figures]
    sized = [(figure.size, figure.shape) for figure in scene.figures]
    for figure in scene.figures:
        if shapes.count(figure.shape) == 1:
            name, template = f"the {figure.shape}", "color-of-shape"
        elif sized.count((figure.size, figure.shape)) == 1:
            name, template = f"the {figure.size} {figure.shape}", "color-of-sized"
        else:
            continue
        text, statement = f"what color is {name}?", f"{name} is {figure.color}."
        answer, fact = figure.color, f"color of {name}"
        yield Question("color", template, text, answer, world.colors, statement, fact)


def shape_questions(scene: Scene, world: World) -> Iterator[Question]:
    """The shape of each figure that has a colour of its own."""
    colors = [figure.color for figure in scene.figures]
    for figure in scene.figures:
        if colors.count(figure.color) == 1:
            text = f"which shape is {figure.color}?"
            statement = f"the {figure.shape} is {figure.color}."
            answer, fact = figure.shape, f"shape of {figure.color}"
            yield Question("shape", "shape", text, answer, world.shapes, statement, fact)


def size_questions(scene: Scene, world: World) -> Iterator[Question]:
    """Whether each figure that has a name is small or large."""
    for name, figure in _named(scene):
        text, statement = f"is {name} small or large?", f"{name} is {figure.size}."
        yield Question("size", "size", text, figure.size, SIZES, statement, f"size of {name}")


def scene_questions(scene: Scene, world: World) -> Iterator[Question]:
    """Which backdrop it is."""
    text, statement = "what is the background?", f"the background is {scene.backdrop}."
    yield Question("scene", "scene", text, scene.backdrop, BACKDROPS, statement, "background")


def count_questions(scene: Scene, world: World) -> Iterator[Question]:
    """How many figures there are, in all, of each shape, and of each colour."""
    total = NUMBER_WORDS[1 : world.max_figures + 1]
    yield _count("count-all", "shape", len(scene.figures), total)
    few = NUMBER_WORDS[: min(_MAX_COUNTED, world.max_figures) + 1]
    for shape in world.shapes:
        number = sum(figure.shape == shape for figure in scene.figures)
        if number < len(few):
            yield _count("count-shape", shape, number, few)
    for color in world.colors:
        number = sum(figure.color == color for figure in scene.figures)
        if number < len(few):
            yield _count("count-color", f"{color} shape", number, few)


def _count(template: str, noun: str, number: int, domain: tuple[str, ...]) -> Question:
    answer = NUMBER_WORDS[number]
    verb, counted = ("is", noun) if number == 1 else ("are", plural(noun))
    text, statement = f"how many {plural(noun)} are there?", f"there {verb} {answer} {counted}."
    return Question("count", template, text, answer, domain, statement, f"number of {noun}")


def existence_questions(scene: Scene, world: World) -> Iterator[Question]:
    """Asks for every pair that is there, and for absent pairs of which one half is there."""
    present = {(figure.color, figure.shape) for figure in scene.figures}
    colors, shapes = {color for color, _ in present}, {shape for _, shape in present}
    for color, shape in itertools.product(world.colors, world.shapes):
        found = (color, shape) in present
        if not found and color not in colors and shape not in shapes:
            continue
        name = f"{article(color)} {color} {shape}"
        statement = f"yes, there is {name}." if found else f"no, there is no {color} {shape}."
        text, answer = f"is there {name}?", _yes_no(found)
        yield Question("existence", "existence", text, answer, YES_NO, statement, name)


def comparison_questions(scene: Scene, world: World) -> Iterator[Question]:
    """Pairs of shapes that occur once: equal colour, and which is larger if they differ."""
    shapes = [figure.shape for figure in scene.figures]
    unique = [figure for figure in scene.figures if shapes.count(figure.shape) == 1]
    for first, second in itertools.permutations(unique, 2):
        pair = f"the {first.shape} and the {second.shape}"
        both = " and ".join(sorted((first.shape, second.shape)))
        same = first.color == second.color
        statement = (
            f"yes, {pair} are {first.color}."
            if same
            else f"no, the {first.shape} is {first.color} and the {second.shape} is {second.color}."
        )
        text, answer, fact = f"do {pair} have the same color?", _yes_no(same), f"colors of {both}"
        yield Question("comparison", "same-color", text, answer, YES_NO, statement, fact)
        if first.size != second.size:
            larger = first.size == "large"
            fact = f"the {first.shape} is {'larger' if larger else 'smaller'}"
            statement = f"{_yes_no(larger)}, {fact} than the {second.shape}."
            text = f"is the {first.shape} larger than the {second.shape}?"
            answer, fact = _yes_no(larger), f"sizes of {both}"
            yield Question("comparison", "larger", text, answer, YES_NO, statement, fact)


def position_questions(scene: Scene, world: World) -> Iterator[Question]:
    """In which half each named figure is; no cell of the grid lies across the middle."""
    for name, figure in _named(scene):
        row, column = place_of(figure, scene)
        for axis, answer, ends, asked, place in (
            ("left-right", column, _COLUMNS, "", "on"),
            ("top-bottom", row, _ROWS, "at the ", "at"),
        ):
            text = f"is {name} {asked}{' or '.join(ends)}?"
            statement, fact = f"{name} is {place} the {answer}.", f"{axis} of {name}"
            yield Question("position", axis, text, answer, ends, statement, fact)


def relation_questions(scene: Scene, world: World) -> Iterator[Question]:
    """How two named figures lie to each other, asked right and asked wrong."""
    named = _named(scene)
    for (name, first), (other, second) in itertools.permutations(named, 2):
        for relation, opposite in relations_between(first, second, world):
            axis = "horizontal" if relation in _HORIZONTAL else "vertical"
            fact = f"{axis} of {' and '.join(sorted((name, other)))}"
            for asked, holds in ((relation, True), (opposite, False)):
                text, answer = f"is {name} {asked} {other}?", _yes_no(holds)
                statement = f"{answer}, {name} is {relation} {other}."
                yield Question("relation", "relation", text, answer, YES_NO, statement, fact)


def digit_questions(scene: Scene, world: World) -> Iterator[Question]:
    """The handwritten digit, if there is one."""
    if scene.digit:
        answer = str(scene.digit.value)
        text, statement = "which digit is written?", f"the digit is {answer}."
        yield Question("digit", "digit", text, answer, DIGITS, statement, "digit")


def text_questions(scene: Scene, world: World) -> Iterator[Question]:
    """The word on the sign, if there is one."""
    if scene.sign:
        answer = scene.sign.word
        text, statement = "what does the sign say?", f"the sign says {answer}."
        yield Question("text", "text", text, answer, world.words, statement, "sign")


_OPEN: Mapping[str, Callable[[Scene, World], Iterator[Question]]] = {
    "color": color_questions,
    "shape": shape_questions,
    "size": size_questions,
    "scene": scene_questions,
    "count": count_questions,
    "existence": existence_questions,
    "comparison": comparison_questions,
    "position": position_questions,
    "relation": relation_questions,
    "digit": digit_questions,
    "text": text_questions,
}
CATEGORIES = (*_OPEN, "choice")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "attribute": ("color", "shape", "size"),
    "quantity": ("count", "existence", "comparison"),
    "space": ("position", "relation"),
    "reading": ("digit", "text", "scene"),
    "choice": ("choice",),
}
"""Categories that one conversation mixes; the group is the ``category`` of its record."""
YES_NO_CATEGORIES = ("existence", "comparison", "relation")
_MAX_CHOICE_SOURCES = 4
_CHOICE_SOURCES = ("color", "shape", "count", "digit", "text")


def questions_of(category: str, scene: Scene, world: World, rng: random.Random) -> list[Question]:
    """All questions of one category that ``scene`` answers; ``rng`` draws options of choices."""
    if category != "choice":
        return list(_OPEN[category](scene, world))
    sources = [
        question
        for source in _CHOICE_SOURCES
        for question in _OPEN[source](scene, world)
        if len(question.domain) >= len(LETTERS)
    ]
    picked = rng.sample(sources, min(_MAX_CHOICE_SOURCES, len(sources)))
    return [as_choice(question, letter, rng) for question in picked for letter in LETTERS]


def as_choice(question: Question, letter: str, rng: random.Random) -> Question:
    """``question`` with four options of which ``letter`` is the right one."""
    wrong = [answer for answer in question.domain if answer != question.answer]
    options = rng.sample(wrong, len(LETTERS) - 1)
    options.insert(LETTERS.index(letter), question.answer)
    listed = " ".join(f"{name}: {value}" for name, value in zip(LETTERS, options, strict=True))
    text = f"{question.text} {listed}"
    return Question(
        category="choice",
        template="choice",
        text=text,
        answer=letter,
        domain=LETTERS,
        statement=question.statement,
        fact=question.fact,
        choices=tuple(options),
    )


def relations_between(first: Figure, second: Figure, world: World) -> list[tuple[str, str]]:
    """(relation, opposite) that clearly hold from ``first`` to ``second``, as in "left of"."""
    margin = _CLEAR_OFFSET_IN_CELLS * world.cell_px
    found = []
    for offset, (negative, positive) in (
        (first.x - second.x, _HORIZONTAL),
        (first.y - second.y, _VERTICAL),
    ):
        if offset <= -margin:
            found.append((negative, positive))
        elif offset >= margin:
            found.append((positive, negative))
    return found


def place_of(figure: Figure, scene: Scene) -> tuple[str, str]:
    """(``top`` or ``bottom``, ``left`` or ``right``): the quarter in which a figure stands."""
    row, column = figure.y >= scene.height_px // 2, figure.x >= scene.width_px // 2
    return _ROWS[row], _COLUMNS[column]


def _named(scene: Scene) -> list[tuple[str, Figure]]:
    """Names that fit exactly one figure: by shape where that is enough, else by colour as well."""
    shapes = [figure.shape for figure in scene.figures]
    pairs = [(figure.color, figure.shape) for figure in scene.figures]
    named = []
    for figure in scene.figures:
        if shapes.count(figure.shape) == 1:
            named.append((f"the {figure.shape}", figure))
        elif pairs.count((figure.color, figure.shape)) == 1:
            named.append((f"the {figure.color} {figure.shape}", figure))
    return named


def plural(noun: str) -> str:
    """``cross`` to ``crosses``, ``red shape`` to ``red shapes``."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def article(word: str) -> str:
    """``a`` or ``an``, by spelling."""
    return "an" if word[0] in "aeiou" else "a"


def _yes_no(fact: bool) -> str:
    return "yes" if fact else "no"
