"""Captions of stage 1: short descriptions under the constraints of the published data engine.

Each set names one kind of fact; at most twelve words. A scene that cannot be described within a
set's limits gets no caption of that set.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping

from crucible_components.synthesis.questions import (
    NUMBER_WORDS,
    article,
    place_of,
    plural,
    relations_between,
)
from crucible_components.synthesis.scene import Figure, Scene, World

INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "SynthColor": ("describe the shapes.", "which shapes are in the picture?"),
    "SynthCount": ("count the shapes.", "how many shapes of each kind are there?"),
    "SynthSpatial": ("describe where a shape is.", "which shape is where?"),
    "SynthScene": ("describe the scene.", "what is shown and where?"),
    "SynthText": ("what is written?", "read the picture."),
}
"""What each set asks for. One text for all sets would leave the caption's kind to chance."""
MAX_WORDS = 12
_MAX_COLORS = 3
_MAX_PER_SHAPE = 3
_MAX_COUNTED = 6
_MAX_PLACED = 2
_PLACES = {"sky": "under the sky", "night": "at night", "sand": "on the sand"}


def captions(scene: Scene, world: World) -> dict[str, str]:
    """Caption by set name, for every set whose constraints the scene allows."""
    found = {name: write(scene, world) for name, write in _WRITERS.items()}
    return {name: text for name, text in found.items() if text and len(text.split()) <= MAX_WORDS}


def _color(scene: Scene, world: World) -> str | None:
    if len({figure.color for figure in scene.figures}) > _MAX_COLORS:
        return None
    return _sentence([f"{figure.size} {_name(figure)}" for figure in _reading_order(scene)])


def _count(scene: Scene, world: World) -> str | None:
    counts = Counter(figure.shape for figure in scene.figures)
    if max(counts.values()) > _MAX_PER_SHAPE or len(scene.figures) > _MAX_COUNTED:
        return None
    parts = [
        f"{NUMBER_WORDS[counts[shape]]} {plural(shape) if counts[shape] > 1 else shape}"
        for shape in world.shapes
        if counts[shape]
    ]
    return _sentence(parts)


def _spatial(scene: Scene, world: World) -> str | None:
    """Where each of one or two figures stands; of more, how two lie to each other."""
    figures = _reading_order(scene)
    if len(figures) <= _MAX_PLACED:
        return _sentence([f"{_name(each)} {' '.join(place_of(each, scene))}" for each in figures])
    for first, second in itertools.pairwise(figures):
        related = relations_between(first, second, world)
        if related:
            return f"{_figure(first)} {related[0][0]} {_figure(second)}."
    return None


def _scene(scene: Scene, world: World) -> str | None:
    number = len(scene.figures)
    what = _figure(scene.figures[0]) if number == 1 else f"{NUMBER_WORDS[number]} shapes"
    return f"{what} {_PLACES[scene.backdrop]}."


def _text(scene: Scene, world: World) -> str | None:
    if scene.sign:
        return f"a sign that says {scene.sign.word}."
    if scene.digit:
        return f"the digit {scene.digit.value}."
    return None


def _reading_order(scene: Scene) -> list[Figure]:
    """Row by row from the top, each from the left: the order of a vision tower's patches."""
    return sorted(scene.figures, key=lambda figure: scene.cell_of(figure.x, figure.y)[::-1])


def _figure(figure: Figure) -> str:
    return f"{article(figure.color)} {_name(figure)}"


def _name(figure: Figure) -> str:
    return f"{figure.color} {figure.shape}"


def _sentence(parts: list[str]) -> str:
    if len(parts) == 1:
        return f"{parts[0]}."
    return f"{', '.join(parts[:-1])} and {parts[-1]}."


_WRITERS: Mapping[str, Callable[[Scene, World], str | None]] = {
    "SynthColor": _color,
    "SynthCount": _count,
    "SynthSpatial": _spatial,
    "SynthScene": _scene,
    "SynthText": _text,
}
CAPTION_SETS = tuple(_WRITERS)
