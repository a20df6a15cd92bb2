"""Pictures of a merge: heat maps of modules by layers, in SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crucible_components.reporting.elements.markup import Markup, el

_CELL, _GAP, _ROW = 13, 1, 17
_LETTER = 6.4
_FONT = 11
_TOP = 16


@dataclass(frozen=True)
class Cell:
    """One coloured field."""

    value: float | None
    """From 0 to 1; None is drawn as an outline."""
    reading: str
    """Its figures, shown by browsers over the cell and read out."""


@dataclass(frozen=True)
class Grid:
    """A heat map: labelled rows and columns, not every field of which is there."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    """By row and column."""


def heat_map(grid: Grid, *, color: str) -> Markup:
    """A figure that scrolls by itself when it is wider than the page.

    Args:
        grid: what to draw.
        color: of a full cell, a colour of the style sheet as ``series-1``.
    """
    left = 12 + _LETTER * max((len(row) for row in grid.rows), default=0)
    width_of_cell = _cell_width(grid.columns)
    width = left + len(grid.columns) * width_of_cell + 2
    height = _TOP + len(grid.rows) * _ROW + 2
    drawing = el(
        "svg",
        el("title", grid.title),
        _column_labels(grid.columns, left, width_of_cell),
        [_row(grid, index, left, width_of_cell, color) for index in range(len(grid.rows))],
        viewBox=f"0 0 {width:.0f} {height}",
        width=f"{width:.0f}",
        height=height,
        role="img",
        style="max-width:none",
    )
    holder = el("div", drawing, class_="scroll", tabindex="0", role="region", aria_label=grid.title)
    return el("figure", el("figcaption", grid.title), holder, style="margin:.4rem 0")


def _cell_width(columns: Sequence[str]) -> float:
    """Square cells under numbers, wider ones under words."""
    if all(column.isdigit() for column in columns):
        return _CELL + _GAP
    return max(_CELL, 10 + _LETTER * max(map(len, columns)))


def _column_labels(columns: Sequence[str], left: float, width: float) -> list[Markup]:
    step = 5 if len(columns) > 10 and all(map(str.isdigit, columns)) else 1
    return [
        el(
            "text",
            label,
            x=left + (index + 0.5) * width,
            y=_TOP - 5,
            class_="soft",
            font_size=_FONT,
            text_anchor="middle",
        )
        for index, label in enumerate(columns)
        if index % step == 0
    ]


def _row(grid: Grid, index: int, left: float, width: float, color: str) -> Markup:
    row, y = grid.rows[index], _TOP + index * _ROW
    label = el("text", row, x=left - 6, y=y + 12, class_="soft", font_size=_FONT, text_anchor="end")
    cells = [
        _field(grid.cells[row, column], left + place * width, y, width - _GAP, color)
        for place, column in enumerate(grid.columns)
        if (row, column) in grid.cells
    ]
    return el("g", label, cells)


def _field(cell: Cell, x: float, y: float, width: float, color: str) -> Markup:
    box = {"x": x, "y": y, "width": width, "height": _ROW - _GAP, "rx": 2}
    ground = {"fill": "none", "stroke": "var(--line)"}
    if cell.value is None:
        return el("rect", el("title", cell.reading), **box, **ground)
    return el(
        "g",
        el("title", cell.reading),
        el("rect", **box, fill="var(--raised)"),
        el("rect", **box, fill=f"var(--{color})", fill_opacity=f"{cell.value:.3f}"),
    )
