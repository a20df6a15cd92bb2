"""Scene graphs: what stands in a picture, where, and how scenes are drawn at random.

A scene has a backdrop, some figures (coloured shapes), and maybe a handwritten digit or a sign with
a word. Nothing overlaps, so every fact in the graph can be seen. Lengths are pixels; x grows to the
right, y downwards.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crucible.errors import UserError

BACKDROPS = ("sky", "night", "sand")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "pink")
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
SIZES = ("small", "large")

REFERENCE_SIZE_PX = 64
"""Picture side for which the lengths below are given; others scale with it."""
_RADII = {"small": (6, 7), "large": (10, 11, 12)}
_DIGIT_SIDE = 24
_SIGN_HEIGHT = 22
_SIGN_WIDTH_PER_LETTER = 14
_SIGN_MARGIN = 4
_GAP = 2

_REPEAT_FRACTION = 0.4
"""How often a figure repeats the colour or the shape of an earlier one: counts above one."""
_DIGIT_FRACTION = 0.25
_SIGN_FRACTION = 0.25
_MAX_BESIDE_EXTRA = 2
_MAX_PLACEMENTS = 40
_MAX_LAYOUTS = 50

Size = Literal["small", "large"]


@dataclass(frozen=True)
class World:
    """What scenes may contain."""

    size_px: int = REFERENCE_SIZE_PX
    max_figures: int = 4
    colors: tuple[str, ...] = COLORS[:6]
    shapes: tuple[str, ...] = SHAPES[:4]
    words: tuple[str, ...] = ("cat", "dog", "sun", "bus", "key", "map", "hat", "cup")

    def scaled(self, length_px: int) -> int:
        """A length given for a 64-pixel picture, in pixels of this world's pictures."""
        return round(length_px * self.size_px / REFERENCE_SIZE_PX)


@dataclass(frozen=True)
class Box:
    """A half-open rectangle of pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: Box, gap: int) -> bool:
        """True unless at least ``gap`` pixels lie between the two."""
        return (
            self.left < other.right + gap
            and other.left < self.right + gap
            and self.top < other.bottom + gap
            and other.top < self.bottom + gap
        )


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
        """Content and rough layout (an 8 x 8 raster): scenes that differ look different."""
        figures = (
            (f.shape, f.color, f.size, f.x * 8 // self.width_px, f.y * 8 // self.height_px)
            for f in self.figures
        )
        extras = tuple(
            (e.box.left * 8 // self.width_px, e.box.top * 8 // self.height_px)
            for e in (self.digit, self.sign)
            if e
        )
        return (*self.content, tuple(sorted(figures)), extras)


def sample_scene(world: World, digits: Sequence[tuple[int, int]], rng: random.Random) -> Scene:
    """A random scene: one to ``max_figures`` figures, or fewer beside a digit or a sign.

    Args:
        world: what may appear.
        digits: (value, sample) of the handwritten digits that may appear.
        rng: source of all choices.

    Raises:
        UserError: the figures do not fit into the picture.
    """
    extra = rng.random()
    for _ in range(_MAX_LAYOUTS):
        taken: list[Box] = []
        digit = sign = None
        if extra < _DIGIT_FRACTION:
            digit = _place_digit(world, digits, rng)
            taken.append(digit.box)
        elif extra < _DIGIT_FRACTION + _SIGN_FRACTION:
            sign = _place_sign(world, rng)
            taken.append(sign.box)
        limit = min(_MAX_BESIDE_EXTRA, world.max_figures) if taken else world.max_figures
        figures = _place_figures(world, _number_up_to(limit, rng), taken, rng)
        if figures is not None:
            backdrop = rng.choice(BACKDROPS)
            return Scene(world.size_px, world.size_px, backdrop, figures, digit, sign)
    raise UserError(
        f"max_objects: {world.max_figures} figures find no room in {world.size_px} px. Lower it."
    )


def sample_panel(world: World, max_figures: int, rng: random.Random) -> Scene:
    """A scene of half the width, for pictures of two panels side by side."""
    for _ in range(_MAX_LAYOUTS):
        figures = _place_figures(
            world, _number_up_to(max_figures, rng), [], rng, width_px=world.size_px // 2
        )
        if figures is not None:
            return Scene(world.size_px // 2, world.size_px, rng.choice(BACKDROPS), figures)
    raise UserError(f"{max_figures} figures do not fit into half a picture of {world.size_px} px.")


def _place_figures(
    world: World,
    num_figures: int,
    taken: list[Box],
    rng: random.Random,
    *,
    width_px: int | None = None,
) -> tuple[Figure, ...] | None:
    """Figures that keep clear of ``taken`` and of each other, or None if they found no room."""
    width = width_px or world.size_px
    boxes = list(taken)
    figures: list[Figure] = []
    for _ in range(num_figures):
        shape = _maybe_repeat([f.shape for f in figures], world.shapes, rng)
        color = _maybe_repeat([f.color for f in figures], world.colors, rng)
        size = rng.choice(SIZES)
        radius = world.scaled(rng.choice(_RADII[size]))
        for _ in range(_MAX_PLACEMENTS):
            x = rng.randint(radius + 1, width - radius - 2)
            y = rng.randint(radius + 1, world.size_px - radius - 2)
            figure = Figure(shape, color, size, x, y, radius)
            if not any(figure.box.overlaps(box, world.scaled(_GAP)) for box in boxes):
                break
        else:
            return None
        boxes.append(figure.box)
        figures.append(figure)
    return tuple(figures)


def _number_up_to(limit: int, rng: random.Random) -> int:
    """Higher numbers are likelier, in proportion: fuller pictures answer more questions."""
    numbers = range(1, limit + 1)
    return rng.choices(numbers, weights=numbers)[0]


def _maybe_repeat(earlier: list[str], choices: Sequence[str], rng: random.Random) -> str:
    if earlier and rng.random() < _REPEAT_FRACTION:
        return rng.choice(earlier)
    return rng.choice(choices)


def _place_digit(world: World, digits: Sequence[tuple[int, int]], rng: random.Random) -> Digit:
    value, sample = rng.choice(digits)
    side = world.scaled(_DIGIT_SIDE)
    left = rng.randint(1, world.size_px - side - 1)
    top = rng.randint(1, world.size_px - side - 1)
    return Digit(value, sample, Box(left, top, left + side, top + side))


def _place_sign(world: World, rng: random.Random) -> Sign:
    """A sign at the top or the bottom edge, so that figures keep room beside it."""
    word = rng.choice(world.words)
    width = world.scaled(_SIGN_WIDTH_PER_LETTER * len(word) + _SIGN_MARGIN)
    height = world.scaled(_SIGN_HEIGHT)
    left = rng.randint(1, world.size_px - width - 1)
    top = rng.choice((2, world.size_px - height - 2))
    return Sign(word, Box(left, top, left + width, top + height))
