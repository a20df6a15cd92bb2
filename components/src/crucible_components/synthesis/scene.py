"""Scene graphs: what stands in a picture, where, and how scenes are drawn at random.

A scene has a backdrop, some figures (coloured shapes), and maybe a handwritten digit or a sign with
a word. Each stands in cells of its own of a 4 x 4 grid, a sign in one cell a letter: nothing
overlaps, so every fact in the graph can be seen, and a vision tower whose patches are the cells
learns to see in minutes. Lengths are pixels; x grows to the right, y downwards.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BACKDROPS = ("sky", "night", "sand")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "pink")
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
SIZES = ("small", "large")

GRID = 4
"""Cells in a row and in a column of a picture."""
_RADIUS_IN_CELLS = {"small": 5 / 16, "large": 7 / 16}

_REPEAT_FRACTION = 0.4
"""How often a figure repeats the colour or the shape of an earlier one: counts above one."""
_DIGIT_FRACTION = 0.25
_SIGN_FRACTION = 0.25
_MAX_BESIDE_EXTRA = 2

Cell = tuple[int, int]
"""Column and row."""
Size = Literal["small", "large"]


@dataclass(frozen=True)
class World:
    """What scenes may contain."""

    size_px: int = 64
    max_figures: int = 4
    colors: tuple[str, ...] = COLORS[:6]
    shapes: tuple[str, ...] = SHAPES[:4]
    words: tuple[str, ...] = ("cat", "dog", "sun", "bus", "key", "map", "hat", "cup")

    @property
    def cell_px(self) -> int:
        """Side of a cell; the picture's side is a multiple of it."""
        return self.size_px // GRID


@dataclass(frozen=True)
class Box:
    """A half-open rectangle of pixels."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Figure:
    """A coloured shape around a centre."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    radius: int

    @property
    def box(self) -> Box:
        return Box(
            self.x - self.radius,
            self.y - self.radius,
            self.x + self.radius + 1,
            self.y + self.radius + 1,
        )


@dataclass(frozen=True)
class Digit:
    """A handwritten digit: ``sample`` names the picture in scikit-learn's digits data set."""

    value: int
    sample: int
    box: Box


@dataclass(frozen=True)
class Sign:
    """A white board with a word."""

    word: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """One picture's content."""

    width_px: int
    height_px: int
    backdrop: str
    figures: tuple[Figure, ...]
    digit: Digit | None = None
    sign: Sign | None = None

    @property
    def content(self) -> tuple[object, ...]:
        """What is shown, regardless of where: equal for two layouts of the same things."""
        return (
            self.backdrop,
            tuple(sorted((f.shape, f.color, f.size) for f in self.figures)),
            self.digit.value if self.digit else None,
            self.sign.word if self.sign else None,
        )

    @property
    def signature(self) -> tuple[object, ...]:
        """Content and the cells of everything: scenes that differ look different."""
        figures = ((f.shape, f.color, f.size, self.cell_of(f.x, f.y)) for f in self.figures)
        extras = tuple(self.cell_of(e.box.left, e.box.top) for e in (self.digit, self.sign) if e)
        return (*self.content, tuple(sorted(figures)), extras)

    def cell_of(self, x: int, y: int) -> Cell:
        """The cell in which a pixel lies."""
        return x * GRID // self.height_px, y * GRID // self.height_px


def sample_scene(world: World, digits: Sequence[tuple[int, int]], rng: random.Random) -> Scene:
    """A random scene: one to ``max_figures`` figures, or fewer beside a digit or a sign.

    Args:
        world: what may appear.
        digits: (value, sample) of the handwritten digits that may appear.
        rng: source of all choices.
    """
    free = _cells(GRID)
    extra = rng.random()
    digit = sign = None
    if extra < _DIGIT_FRACTION:
        digit = _place_digit(world, digits, free, rng)
    elif extra < _DIGIT_FRACTION + _SIGN_FRACTION:
        sign = _place_sign(world, free, rng)
    limit = min(_MAX_BESIDE_EXTRA, world.max_figures) if digit or sign else world.max_figures
    figures = _place_figures(world, _number_up_to(limit, rng), free, rng)
    backdrop = rng.choice(BACKDROPS)
    return Scene(world.size_px, world.size_px, backdrop, figures, digit, sign)


def sample_panel(world: World, max_figures: int, rng: random.Random) -> Scene:
    """A scene of half the width, for pictures of two panels side by side."""
    columns = GRID // 2
    figures = _place_figures(world, _number_up_to(max_figures, rng), _cells(columns), rng)
    return Scene(columns * world.cell_px, world.size_px, rng.choice(BACKDROPS), figures)


def _cells(columns: int) -> list[Cell]:
    return [(column, row) for row in range(GRID) for column in range(columns)]


def _place_figures(
    world: World, num_figures: int, free: list[Cell], rng: random.Random
) -> tuple[Figure, ...]:
    """Figures in free cells, each somewhere in its cell, a pixel or more from those beside it."""
    figures: list[Figure] = []
    for column, row in rng.sample(free, num_figures):
        shape = _maybe_repeat([f.shape for f in figures], world.shapes, rng)
        color = _maybe_repeat([f.color for f in figures], world.colors, rng)
        size = rng.choice(SIZES)
        radius = int(_RADIUS_IN_CELLS[size] * world.cell_px)
        room = world.cell_px - 2 * radius - 2
        x, y = (place * world.cell_px + radius + rng.randint(0, room) for place in (column, row))
        figures.append(Figure(shape, color, size, x, y, radius))
    return tuple(figures)


def _number_up_to(limit: int, rng: random.Random) -> int:
    """Higher numbers are likelier, in proportion: fuller pictures answer more questions."""
    numbers = range(1, limit + 1)
    return rng.choices(numbers, weights=numbers)[0]


def _maybe_repeat(earlier: list[str], choices: Sequence[str], rng: random.Random) -> str:
    if earlier and rng.random() < _REPEAT_FRACTION:
        return rng.choice(earlier)
    return rng.choice(choices)


def _place_digit(
    world: World, digits: Sequence[tuple[int, int]], free: list[Cell], rng: random.Random
) -> Digit:
    """A digit that fills one free cell, which is then taken."""
    value, sample = rng.choice(digits)
    column, row = free.pop(rng.randrange(len(free)))
    return Digit(value, sample, _box(world, column, row, num_columns=1))


def _place_sign(world: World, free: list[Cell], rng: random.Random) -> Sign:
    """A sign over neighbouring cells of a row, one a letter, which are then taken."""
    word = rng.choice(world.words)
    column, row = rng.randint(0, GRID - len(word)), rng.randrange(GRID)
    for offset in range(len(word)):
        free.remove((column + offset, row))
    return Sign(word, _box(world, column, row, num_columns=len(word)))


def _box(world: World, column: int, row: int, *, num_columns: int) -> Box:
    side = world.cell_px
    return Box(column * side, row * side, (column + num_columns) * side, (row + 1) * side)
