"""Inline SVG charts that follow the page's colours and stay legible from phone to wide screen.

Text is hardly scaled: line charts are drawn at about the width of their column, interval plots
place everything by percentages of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crucible_components.reporting.elements.markup import Markup, el
from crucible_components.reporting.elements.page import (
    legend,
    percent,
    percent_range,
    series_color,
)

Point = tuple[float, float]

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 26
_MAX_POINTS = 160
_LANE, _LANE_MARGIN = 14, 7
_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Line:
    """One curve of a chart."""

    label: str
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True)
class Estimate:
    """One marker with its interval in an interval plot."""

    label: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalRow:
    """One category of an interval plot."""

    name: str
    estimates: Sequence[Estimate | None]
    """One a series, None where a series has no answers of this category."""
    reference: float | None = None
    """Drawn as a tick: what needs no model."""


def line_chart(
    title: str, lines: Sequence[Line], *, x_label: str, unit_square: bool = False
) -> Markup:
    """A figure with one or more curves over a common x axis; empty lines are left out.

    Args:
        title: above the chart, and read out by screen readers.
        lines: curves; more than 160 points are averaged in equal bins.
        x_label: name of the x axis.
        unit_square: both axes run from 0 to 1.
    """
    finite = [(i, line, [p for p in line.points if _finite(p)]) for i, line in enumerate(lines)]
    xs = [x for _, _, points in finite for x, _ in points]
    shown = [(i, line, _thinned(points)) for i, line, points in finite if points]
    if not shown:
        return el("figure", el("figcaption", f"{title}: no values"))
    ys = [y for _, _, points in shown for _, y in points]
    x_range = (0.0, 1.0) if unit_square else _widened(min(xs), max(xs))
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if unit_square else nice_ticks(min(ys), max(ys))
    y_range = _widened(y_ticks[0], y_ticks[-1])
    curves = [
        el(
            "polyline",
            points=" ".join(f"{_x(x, x_range):.1f},{_y(y, y_range):.1f}" for x, y in points),
            class_=f"line-{series_color(i)}",
            stroke_width="1.8",
            stroke_linejoin="round",
            stroke_dasharray="4 4" if line.dashed else None,
        )
        for i, line, points in shown
    ]
    last = {line.label: points[-1][1] for _, line, points in shown}
    ends = ", ".join(f"{label} ends at {number(value)}" for label, value in last.items())
    drawing = el(
        "svg",
        el("title", f"{title} over {x_label}: {ends}"),
        [_y_tick(tick, y_range) for tick in y_ticks],
        _x_axis(x_range, x_label),
        curves,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        width="100%",
    )
    if len(shown) > 1:
        return el("figure", el("figcaption", el("b", title)), drawing, _keys(shown))
    value = number(next(iter(last.values())))
    return el("figure", el("figcaption", el("b", title), f" · last {value}"), drawing)


def interval_plot(title: str, rows: Sequence[IntervalRow]) -> Markup:
    """Shares with intervals: a row a category, a marker a series, the axis from 0 to 100 %."""
    lines = [
        el("div", el("div", row.name, class_="name"), _track(row), class_="row") for row in rows
    ]
    axis = el("div", el("div", class_="name"), _percent_axis(), class_="row")
    return el("div", lines, axis, class_="intervals", role="group", aria_label=title)


def number(value: float) -> str:
    """A short reading of a number: three significant digits, no exponent where avoidable."""
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:.1e}"


def nice_ticks(low: float, high: float, *, target: int = 4) -> list[float]:
    """Round values that enclose [low, high], about ``target`` steps apart."""
    low, high = _widened(low, high)
    raw = (high - low) / target
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - 1e-9)) * magnitude
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _keys(shown: Sequence[tuple[int, Line, list[Point]]]) -> Markup:
    return legend([line.label for _, line, _ in shown], [index for index, _, _ in shown])


def _thinned(points: list[Point]) -> list[Point]:
    """Means over equal bins of neighbours, at most `_MAX_POINTS` of them."""
    size = -(-len(points) // _MAX_POINTS)
    if size <= 1:
        return points
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in each) / len(each), sum(y for _, y in each) / len(each)) for each in bins
    ]


def _finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _widened(low: float, high: float) -> tuple[float, float]:
    if high - low > 1e-12 * max(abs(low), abs(high), 1e-300):
        return low, high
    margin = abs(low) * 0.1 or 1.0
    return low - margin, high + margin


def _x(value: float, span: tuple[float, float]) -> float:
    return _LEFT + (value - span[0]) / (span[1] - span[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, span: tuple[float, float]) -> float:
    return _HEIGHT - _BOTTOM - (value - span[0]) / (span[1] - span[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _y_tick(tick: float, span: tuple[float, float]) -> list[Markup]:
    y = _y(tick, span)
    return [
        el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, stroke="var(--line)"),
        el(
            "text",
            number(tick),
            x=_LEFT - 6,
            y=y + 4,
            class_="soft",
            font_size=11,
            text_anchor="end",
        ),
    ]


def _x_axis(span: tuple[float, float], label: str) -> list[Markup]:
    y = _HEIGHT - 8
    marks = [(span[0], "start", _LEFT), (span[1], "end", _WIDTH - _RIGHT)]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [
        *(
            el("text", number(value), x=x, y=y, class_="soft", font_size=11, text_anchor=anchor)
            for value, anchor, x in marks
        ),
        el("text", label, x=middle, y=y, class_="soft", font_size=11, text_anchor="middle"),
    ]


def _track(row: IntervalRow) -> Markup:
    height = 2 * _LANE_MARGIN + _LANE * len(row.estimates)
    grid = [
        el("line", x1=_across(x), x2=_across(x), y1=0, y2=height, stroke="var(--line)")
        for x in _GRID
    ]
    markers = [
        _marker(row.name, estimate, _LANE_MARGIN + _LANE * (series + 0.5), series)
        for series, estimate in enumerate(row.estimates)
        if estimate is not None
    ]
    reference = None if row.reference is None else _reference(row.reference, height)
    spoken = ", ".join(_reading(each) for each in row.estimates if each is not None)
    return el(
        "svg",
        el("title", f"{row.name}: {spoken}"),
        grid,
        reference,
        markers,
        width="100%",
        height=height,
        role="img",
    )


def _percent_axis() -> Markup:
    labels = []
    for x in _GRID:
        anchor = {0.0: "start", 1.0: "end"}.get(x, "middle")
        text = f"{round(100 * x)} %"
        labels.append(
            el("text", text, x=_across(x), y=13, class_="soft", font_size=11, text_anchor=anchor)
        )
    return el("svg", labels, width="100%", height=18, aria_hidden="true")


def _across(share: float) -> str:
    return f"{100 * share:.2f}%"


def _reference(share: float, height: float) -> Markup:
    x = _across(share)
    return el(
        "g",
        el("title", f"commonest answer: {percent(share)}"),
        el(
            "line",
            x1=x,
            x2=x,
            y1=_LANE_MARGIN - 2,
            y2=height - _LANE_MARGIN + 2,
            stroke="var(--muted)",
            stroke_width=2,
            stroke_dasharray="2 2",
        ),
    )


def _reading(estimate: Estimate) -> str:
    return (
        f"{estimate.label} {percent(estimate.mean)} ({percent_range(estimate.low, estimate.high)})"
    )


def _marker(row: str, estimate: Estimate, y: float, series: int) -> Markup:
    color = series_color(series)
    return el(
        "g",
        el("title", f"{row}: {_reading(estimate)}"),
        el(
            "line",
            x1=_across(estimate.low),
            x2=_across(estimate.high),
            y1=y,
            y2=y,
            class_=f"line-{color}",
            stroke_width=5,
            stroke_opacity=0.35,
            stroke_linecap="round",
        ),
        el("circle", cx=_across(estimate.mean), cy=y, r=4.5, class_=f"fill-{color}"),
    )
