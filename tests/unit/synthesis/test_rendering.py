"""Pictures measured pixel by pixel answer every question as the scene graph does.

The measuring code below shares nothing with the package but the palette: it finds figures as
connected regions of one colour, and tells shapes by how they fill their bounding box.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from crucible_components.synthesis import sampling
from crucible_components.synthesis.balance import Balancer
from crucible_components.synthesis.captions import captions
from crucible_components.synthesis.contrast import contrast_questions
from crucible_components.synthesis.digits import digit_images, digit_pool
from crucible_components.synthesis.questions import CATEGORIES, Question, questions_of
from crucible_components.synthesis.rendering import (
    BACKDROP_RGB,
    COLOR_RGB,
    INK_RGB,
    render,
    render_pair,
    word_mask,
)
from crucible_components.synthesis.sampling import SceneSampler, is_held_out
from crucible_components.synthesis.scene import COLORS, SHAPES, Scene, World, sample_scene

WORLD = World(colors=COLORS, shapes=SHAPES, max_figures=5)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


@dataclass
class Region:
    color: str
    shape: str
    side: int
    x: float
    y: float

    @property
    def size(self) -> str:
        # A star's points are thinner than a pixel, so they never show the pure colour.
        return "small" if self.side < (9 if self.shape == "star" else 12) else "large"


def scenes(number: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(WORLD, digit_pool(held_out=False), rng) for _ in range(number)]


def measure(pixels: np.ndarray) -> list[Region]:
    """The figures of a picture: every region whose pixels are exactly one palette colour."""
    regions = []
    for color, rgb in COLOR_RGB.items():
        labels, _ = ndimage.label(np.all(pixels == rgb, axis=-1), structure=np.ones((3, 3)))
        for index, box in enumerate(ndimage.find_objects(labels), start=1):
            mask = labels[box] == index
            if mask.sum() < 12:
                continue
            y, x = ((each.start + each.stop - 1) / 2 for each in box)
            regions.append(Region(color, shape_of(mask), max(mask.shape), x, y))
    return regions


def shape_of(mask: np.ndarray) -> str:
    """The shape whose formula, scaled to the mask's box, agrees with it in most pixels."""
    return max(FORMULAS, key=lambda shape: float(np.mean(formula_mask(shape, mask.shape) == mask)))


def formula_mask(shape: str, size: tuple[int, int]) -> np.ndarray:
    """Pixels of ``size`` whose centre, with the box mapped to [-1, 1], satisfies the formula."""
    y, x = (np.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in size)
    return FORMULAS[shape](*np.meshgrid(x, y))


def in_star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Inside a pentagram's outline: of its five edge lines, at most one is crossed."""
    height, top = 1 + np.cos(np.pi / 5), (y + 1) / 2
    y = top * height - 1  # the box of a star with radius 1 reaches from -1 to cos(36 degrees)
    x = x * np.sin(2 * np.pi / 5)
    angles = -np.pi / 2 + 2 * np.pi * np.arange(5) / 5
    beyond = [x * np.cos(a) + y * np.sin(a) > 0.34 for a in angles]
    return np.sum(beyond, axis=0) <= 1


FORMULAS = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.48**2),
    "square": lambda x, y: np.full(x.shape, True),
    "triangle": lambda x, y: np.abs(x) <= (y + 1) / 2,
    "cross": lambda x, y: (np.abs(x) <= 1 / 3) | (np.abs(y) <= 1 / 3),
    "star": in_star,
}


def backdrop_of(pixels: np.ndarray) -> str:
    """The backdrop whose gradient from top to bottom most pixels follow."""
    down = np.linspace(0, 1, len(pixels))[:, None, None]
    return max(
        BACKDROP_RGB,
        key=lambda name: np.mean(
            np.abs(pixels - (1 - down) * BACKDROP_RGB[name][0] - down * BACKDROP_RGB[name][1]) < 2
        ),
    )


def answer(question: Question, regions: list[Region], pixels: np.ndarray) -> str:
    """The question answered from measured regions alone, by reading its words."""
    text = question.text.split("? ")[0].rstrip("?")
    verdict = open_answer(text, regions, pixels)
    if question.choices:
        return "ABCD"[question.choices.index(verdict)]
    return verdict


def open_answer(text: str, regions: list[Region], pixels: np.ndarray) -> str:
    for pattern, measure_answer in READINGS.items():
        if match := re.fullmatch(pattern, text):
            return measure_answer(regions, pixels, *match.groups())
    raise AssertionError(text)


def counted(regions: list[Region], pixels: np.ndarray, color: str | None, noun: str) -> str:
    found = [r for r in regions if singular(noun) in ("shape", r.shape)]
    return NUMBERS[len([r for r in found if not color or r.color == color.strip()])]


def related(regions: list[Region], pixels: np.ndarray, name: str, relation: str, other: str) -> str:
    return yes_no(HOLDS[relation](one(name, regions), one(other, regions)))


def singular(noun: str) -> str:
    return re.sub(r"(?<=s)es$|(?<!s)s$", "", noun)


HOLDS: dict[str, Callable[[Region, Region], bool]] = {
    "left of": lambda a, b: a.x < b.x,
    "right of": lambda a, b: a.x > b.x,
    "above": lambda a, b: a.y < b.y,
    "below": lambda a, b: a.y > b.y,
}
READINGS: dict[str, Callable[..., str]] = {
    r"what is the background": lambda rs, p: backdrop_of(p),
    r"how many (\w+ )?(\w+) are there": counted,
    r"what color is (the .+)": lambda rs, p, name: one(name, rs).color,
    r"which shape is (\w+)": lambda rs, p, color: one(f"the {color} shape", rs).shape,
    r"is there an? (\w+) (\w+)": lambda rs, p, *pair: yes_no(
        any((r.color, r.shape) == pair for r in rs)
    ),
    r"is (.+) small or large": lambda rs, p, name: one(name, rs).size,
    r"is (.+) left or right": lambda rs, p, name: "left" if one(name, rs).x < 32 else "right",
    r"is (.+) at the top or bottom": lambda rs, p, name: (
        "top" if one(name, rs).y < 32 else "bottom"
    ),
    r"do (.+) and (.+) have the same color": lambda rs, p, a, b: yes_no(
        one(a, rs).color == one(b, rs).color
    ),
    r"is (.+) larger than (.+)": lambda rs, p, a, b: yes_no(one(a, rs).size == "large"),
    r"is (.+) (left of|right of|above|below) (.+)": related,
}


def one(name: str, regions: list[Region]) -> Region:
    """The only region that fits ``the [size] [colour] shape``; more than one is ambiguous."""
    *marks, noun = name.removeprefix("the ").split()
    found = [
        r
        for r in regions
        if noun in ("shape", r.shape) and all(mark in (r.color, r.size) for mark in marks)
    ]
    assert len(found) == 1, (name, regions)
    return found[0]


def yes_no(fact: bool) -> str:
    return "yes" if fact else "no"


def test_measured_figures_are_those_of_the_scene_graph() -> None:
    for scene in scenes(400):
        measured = measure(np.asarray(render(scene)))
        assert sorted((r.color, r.shape, r.size) for r in measured) == sorted(
            (f.color, f.shape, f.size) for f in scene.figures
        ), scene


def test_every_question_is_answered_by_the_pixels() -> None:
    rng = random.Random(1)
    asked: Counter[str] = Counter()
    for scene in scenes(250, seed=1):
        pixels = np.asarray(render(scene))
        regions = measure(pixels)
        for category in CATEGORIES:
            for question in questions_of(category, scene, WORLD, rng):
                if any(word in question.text for word in ("digit", "sign")):
                    continue  # read by the two tests below
                asked[category] += 1
                assert answer(question, regions, pixels) == question.answer, (question, scene)
    assert set(asked) == set(CATEGORIES) - {"digit", "text"}
    assert min(asked.values()) > 200


def test_signs_are_read_back_by_matching_letters() -> None:
    read = 0
    for scene in scenes(300, seed=2):
        if not scene.sign:
            continue
        box = scene.sign.box
        board = np.asarray(render(scene))[box.top : box.bottom, box.left : box.right, 0] < 128
        matches = {
            word: np.mean(board == (np.asarray(word_mask(word, 16)) > 128))
            for word in WORLD.words
            if len(word) * 16 == board.shape[1]
        }
        assert max(matches, key=matches.__getitem__) == scene.sign.word
        read += 1
    assert read > 40


def test_every_letter_of_a_sign_stands_complete_in_its_cell() -> None:
    for word in ("gymp", "jazz", "wimp", "fish"):
        mask = np.asarray(word_mask(word, 32)) > 0
        assert mask.shape == (32, 4 * 32)
        for index in range(4):
            rows, columns = (
                np.flatnonzero(mask[:, 32 * index : 32 * (index + 1)].any(axis=axis))
                for axis in (1, 0)
            )
            assert min(rows[0], columns[0]) >= 1
            assert max(rows[-1], columns[-1]) <= 30
            assert rows[-1] - rows[0] + 1 >= 10  # five rows of the font at twice their size


def test_digits_are_the_data_sets_own_strokes() -> None:
    read = 0
    for scene in scenes(300, seed=3):
        if not scene.digit:
            continue
        box = scene.digit.box
        pixels = np.asarray(render(scene)).astype(float)[box.top : box.bottom, box.left : box.right]
        ink = np.asarray(INK_RGB[scene.backdrop], float)
        ground = np.mean(BACKDROP_RGB[scene.backdrop], axis=0)
        share = ((pixels - ground) @ (ink - ground)) / np.sum((ink - ground) ** 2)
        small = share.reshape(8, 2, 8, 2).mean(axis=(1, 3)).ravel()
        correlations = [
            np.corrcoef(small, image.ravel())[0, 1] for image in digit_images().astype(float)
        ]
        assert int(np.argmax(correlations)) == scene.digit.sample
        read += 1
    assert read > 40


def test_panels_are_compared_as_measured() -> None:
    rng, sampler, balancer = random.Random(4), SceneSampler(WORLD, random.Random(4)), Balancer()
    asked: Counter[str] = Counter()
    for _ in range(150):
        left, right = sampler.panels()
        pixels = np.asarray(render_pair(left, right))
        sides = {"left": measure(pixels[:, :32]), "right": measure(pixels[:, 33:])}
        for question in contrast_questions(left, right, WORLD, limit=7, balancer=balancer, rng=rng):
            asked[question.template] += 1
            assert side_answer(question.text, sides, pixels) == question.answer, question
    assert set(asked) == {"which-has", "which-more", "same-background", "color-of-side"}


def side_answer(text: str, sides: dict[str, list[Region]], pixels: np.ndarray) -> str:
    if match := re.fullmatch(r"which side has an? (\w+) (\w+)\?", text):
        (side,) = (
            name
            for name, regions in sides.items()
            if any((r.color, r.shape) == match.groups() for r in regions)
        )
        return side
    if text == "which side has more shapes?":
        return max(sides, key=lambda name: len(sides[name]))
    if match := re.fullmatch(r"what color is the (left|right) shape\?", text):
        (region,) = sides[match[1]]
        return region.color
    return yes_no(backdrop_of(pixels[:, :32]) == backdrop_of(pixels[:, 33:]))


def test_captions_name_what_is_measured() -> None:
    written: Counter[str] = Counter()
    for scene in scenes(250, seed=5):
        pixels = np.asarray(render(scene))
        regions = measure(pixels)
        for name, caption in captions(scene, WORLD).items():
            written[name] += 1
            words = caption.rstrip(".").replace(",", "").split()
            check_caption(name, words, regions, pixels)
    assert len(written) == 5


def check_caption(name: str, words: list[str], regions: list[Region], pixels: np.ndarray) -> None:
    named = [
        (color, shape)
        for color, shape in itertools.pairwise(words)
        if color in COLORS and shape in SHAPES
    ]
    measured = Counter((r.color, r.shape) for r in regions)
    match name:
        case "SynthColor":
            assert Counter(named) == measured
        case "SynthCount":
            stated = {
                singular(noun): NUMBERS.index(number)
                for number, noun in itertools.pairwise(words)
                if number in NUMBERS
            }
            assert stated == Counter(r.shape for r in regions)
        case "SynthSpatial" if len(regions) <= 2:
            placed = Counter(
                tuple(words[at - 1 : at + 3]) for at in range(len(words)) if words[at] in SHAPES
            )
            assert placed == Counter(
                (r.color, r.shape, "bottom" if r.y > 32 else "top", "right" if r.x > 32 else "left")
                for r in regions
            )
        case "SynthSpatial":
            holds = next(test for relation, test in HOLDS.items() if relation in " ".join(words))
            firsts, seconds = ([r for r in regions if (r.color, r.shape) == n] for n in named)
            assert any(holds(a, b) for a in firsts for b in seconds if a is not b)
        case "SynthScene":
            assert backdrop_of(pixels) in words
            stated = NUMBERS.index(words[0]) if words[0] in NUMBERS else 1
            assert stated == len(regions)


def test_split_of_contents_is_a_fifth_and_ignores_layout() -> None:
    drawn = scenes(2000, seed=6)
    share = np.mean([is_held_out(scene) for scene in drawn])
    assert 0.17 < share < 0.23
    sides: dict[object, bool] = {}
    for scene in drawn:
        assert sides.setdefault(scene.content, is_held_out(scene)) == is_held_out(scene)


def test_sampler_gives_no_scene_twice_and_refuses_when_none_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = SceneSampler(World(max_figures=1), random.Random(0))
    drawn = [sampler.scene().signature for _ in range(1500)]
    assert len(set(drawn)) == len(drawn)

    only = next(scene for scene in scenes(20) if not is_held_out(scene))
    monkeypatch.setattr(sampling, "sample_scene", lambda *_: only)
    last = SceneSampler(WORLD, random.Random(0))
    last.scene()
    with pytest.raises(sampling.UserError, match="after 1 scenes"):
        last.scene()
