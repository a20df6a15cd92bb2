"""The frame of every report, and the parts that reports share: tables, tiles, pills."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from crucible_components.reporting.elements.markup import Child, Markup, el, join
from crucible_components.reporting.elements.style import style_sheet

# Nothing may be fetched and no script may run, whatever text found its way in.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A titled card of a page."""

    title: str
    body: Child
    note: Child = None
    """One line under the title: what is shown and how to read it."""

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Tile:
    """A figure at the top of a page."""

    label: str
    value: Child
    more: Child = None


def page(
    title: str,
    *,
    subtitle: Child,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    footer: Child,
) -> str:
    """A complete HTML document that needs nothing else."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", title),
        el("style", Markup(style_sheet())),
    )
    links = [el("a", section.title, href=f"#{section.anchor}") for section in sections]
    top = el(
        "header",
        el("h1", title),
        el("p", subtitle, class_="muted"),
        el("nav", links, class_="jump", aria_label="Sections"),
        class_="top",
    )
    main = el(
        "main",
        el("div", map(_tile, tiles), class_="tiles") if tiles else None,
        map(_section, sections),
        el("footer", footer),
    )
    return f'<!doctype html>\n<html lang="en">{join(head, el("body", top, main))}</html>\n'


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    caption: str,
    numbers_from: int | None = None,
) -> Markup:
    """A table that scrolls by itself when it is wider than the page.

    The first cell of a row is its header; columns from ``numbers_from`` on are set right.
    """

    def kind(column: int) -> str | None:
        return "number" if numbers_from is not None and column >= numbers_from else None

    head = [el("th", text, scope="col", class_=kind(i)) for i, text in enumerate(headers)]
    body = [
        el(
            "tr",
            el("th", row[0], scope="row"),
            [el("td", cell, class_=kind(i)) for i, cell in enumerate(row[1:], start=1)],
        )
        for row in rows
    ]
    return el(
        "div",
        el(
            "table",
            el("caption", caption, class_="note", style="text-align:left;padding:.2rem 0"),
            el("thead", el("tr", head)),
            el("tbody", body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def pill(text: str, tone: str | None = None) -> Markup:
    """A rounded label; ``tone`` is good, bad, warn or None."""
    return el("span", text, class_=f"pill {tone}" if tone else "pill")


def legend(labels: Sequence[str], indices: Sequence[int] | None = None) -> Markup:
    """Colour keys of series; ``indices`` are their places where not all are shown."""
    return el(
        "ul",
        [
            el("li", el("i", class_=f"fill-{series_color(i)}", aria_hidden="true"), label)
            for i, label in zip(indices or range(len(labels)), labels, strict=True)
        ],
        class_="legend",
    )


def series_color(index: int) -> int:
    """Number of the colour of the series at ``index``; colours repeat after six."""
    return index % 6 + 1


def picture(png: bytes, alt: str) -> Markup:
    """An image that is part of the page."""
    data = base64.b64encode(png).decode("ascii")
    return el("img", src=f"data:image/png;base64,{data}", alt=alt)


def percent(share: float) -> str:
    """``0.613`` as ``61.3 %``."""
    return f"{100 * share:.1f} %"


def percent_range(low: float, high: float) -> str:
    """``58.0–64.4 %``."""
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def signed_points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def _tile(tile: Tile) -> Markup:
    more = el("div", tile.more, class_="more") if tile.more else None
    label = el("div", tile.label, class_="label")
    return el("div", label, el("div", tile.value, class_="value"), more, class_="tile")


def _section(section: Section) -> Markup:
    note = el("p", section.note, class_="note") if section.note else None
    title = el("h2", section.title)
    return el("section", title, note, section.body, class_="card", id=section.anchor)
