"""Scenes to pictures. Shapes are drawn once at eight times the size, shrunk, and kept as masks."""

from __future__ import annotations

import math
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from crucible_components.synthesis.digits import digit_images
from crucible_components.synthesis.scene import Digit, Scene, Sign

Rgb = tuple[int, int, int]

COLOR_RGB: dict[str, Rgb] = {
    "red": (222, 38, 46),
    "green": (30, 158, 66),
    "blue": (44, 84, 226),
    "yellow": (250, 212, 38),
    "purple": (150, 56, 190),
    "cyan": (40, 204, 214),
    "orange": (244, 132, 28),
    "pink": (248, 132, 188),
}
BACKDROP_RGB: dict[str, tuple[Rgb, Rgb]] = {
    "sky": ((238, 243, 248), (210, 222, 234)),
    "night": ((12, 14, 26), (36, 38, 58)),
    "sand": ((214, 194, 158), (190, 166, 126)),
}
"""Colour at the top and at the bottom of the picture."""
INK_RGB: dict[str, Rgb] = {"sky": (16, 16, 20), "night": (246, 246, 240), "sand": (16, 16, 20)}
"""Colour of handwriting on each backdrop."""
BOARD_RGB: Rgb = (255, 255, 255)
LETTER_RGB: Rgb = (0, 0, 0)

_OVERSAMPLING = 8
_DIVIDER_RGB: Rgb = (128, 128, 128)


def render(scene: Scene) -> Image.Image:
    """The RGB picture of ``scene``."""
    picture = _backdrop(scene.backdrop, scene.width_px, scene.height_px).copy()
    for figure in scene.figures:
        mask = shape_mask(figure.shape, figure.radius)
        picture.paste(COLOR_RGB[figure.color], (figure.box.left, figure.box.top), mask)
    if scene.digit:
        _paste_digit(picture, scene.digit, INK_RGB[scene.backdrop])
    if scene.sign:
        _paste_sign(picture, scene.sign)
    return picture


def render_pair(left: Scene, right: Scene) -> Image.Image:
    """Two half-width scenes side by side with a grey line between them."""
    picture = Image.new("RGB", (left.width_px + right.width_px, left.height_px), _DIVIDER_RGB)
    picture.paste(render(left), (0, 0))
    picture.paste(render(right), (left.width_px, 0))
    line = ImageDraw.Draw(picture)
    line.line([(left.width_px, 0), (left.width_px, left.height_px)], fill=_DIVIDER_RGB)
    return picture


@cache
def shape_mask(shape: str, radius: int) -> Image.Image:
    """Coverage (0-255) of ``shape`` in a square of side 2 radius + 1, edges smoothed."""
    side = 2 * radius + 1
    large = Image.new("L", (side * _OVERSAMPLING, side * _OVERSAMPLING), 0)
    _draw_shape(ImageDraw.Draw(large), shape, side * _OVERSAMPLING)
    return large.reduce(_OVERSAMPLING)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, side: int) -> None:
    last, third, half = side - 1, round(side / 3), (side - 1) / 2
    match shape:
        case "circle":
            draw.ellipse([0, 0, last, last], fill=255)
        case "ring":
            draw.ellipse([0, 0, last, last], fill=255)
            band = round(side * 0.26)
            draw.ellipse([band, band, last - band, last - band], fill=0)
        case "square":
            draw.rectangle(
                [_OVERSAMPLING, _OVERSAMPLING, last - _OVERSAMPLING, last - _OVERSAMPLING], fill=255
            )
        case "triangle":
            draw.polygon([(half, 0), (last, last), (0, last)], fill=255)
        case "cross":
            draw.rectangle([third, 0, last - third, last], fill=255)
            draw.rectangle([0, third, last, last - third], fill=255)
        case "star":
            draw.polygon(_star_points(half), fill=255)
        case _:
            raise ValueError(f"unknown shape {shape!r}. Use one of the world's shapes.")


def _star_points(half: float) -> list[tuple[float, float]]:
    inner = half * 0.42
    return [
        (
            half + (half if corner % 2 == 0 else inner) * math.sin(math.pi * corner / 5),
            half - (half if corner % 2 == 0 else inner) * math.cos(math.pi * corner / 5),
        )
        for corner in range(10)
    ]


@cache
def _backdrop(name: str, width_px: int, height_px: int) -> Image.Image:
    top, bottom = BACKDROP_RGB[name]
    column = Image.new("RGB", (1, height_px))
    for y in range(height_px):
        share = y / max(1, height_px - 1)
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        column.putpixel((0, y), (red, green, blue))
    return column.resize((width_px, height_px))


def _paste_digit(picture: Image.Image, digit: Digit, ink: Rgb) -> None:
    side = digit.box.right - digit.box.left
    mask = Image.fromarray(digit_images()[digit.sample]).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    picture.paste(ink, (digit.box.left, digit.box.top), mask)


def _paste_sign(picture: Image.Image, sign: Sign) -> None:
    box = sign.box
    picture.paste(BOARD_RGB, (box.left, box.top, box.right, box.bottom))
    mask = word_mask(sign.word, box.bottom - box.top)
    picture.paste(LETTER_RGB, (box.left, box.top), mask)


@cache
def word_mask(word: str, cell_px: int) -> Image.Image:
    """``word`` in Pillow's bitmap font, enlarged by whole pixels, each letter amid its own cell."""
    mask = Image.new("L", (len(word) * cell_px, cell_px), 0)
    for index, letter in enumerate(map(_letter, word)):
        scale = max(1, min((cell_px - 2) // letter.width, (cell_px - 2) // letter.height))
        large = letter.resize(
            (letter.width * scale, letter.height * scale), Image.Resampling.NEAREST
        )
        left = index * cell_px + (cell_px - large.width) // 2
        mask.paste(large, (left, (cell_px - large.height) // 2))
    return mask


@cache
def _letter(letter: str) -> Image.Image:
    """The ink of one letter at the font's own size."""
    font = ImageFont.load_default_imagefont()
    _, _, width, height = (round(side) for side in font.getbbox(letter))
    cell = Image.new("L", (width, height), 0)
    ImageDraw.Draw(cell).text((0, 0), letter, fill=255, font=font)
    return cell.crop(cell.getbbox())
