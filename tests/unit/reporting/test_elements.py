"""Markup escapes, charts scale, tables name their headers."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_components.reporting.elements.charts import (
    Estimate,
    IntervalRow,
    Line,
    interval_plot,
    line_chart,
    nice_ticks,
    number,
)
from crucible_components.reporting.elements.markup import Markup, el, join
from crucible_components.reporting.elements.page import Section, page, signed_points, table

printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


@given(printable, printable)
def test_any_text_survives_as_text(child: str, value: str) -> None:
    element = ElementTree.fromstring(el("p", child, title=value))
    assert (element.text or "") == child
    assert element.get("title") == value
    assert len(element) == 0


def test_markup_is_kept_and_nothing_is_left_out() -> None:
    assert join("a<", el("b", 1), None, ["&", Markup("<i>")]) == "a&lt;<b>1</b>&amp;<i>"
    assert el("details", class_="x", open=True, hidden=False, id=None) == (
        '<details class="x" open></details>'
    )
    assert el("circle", stroke_width=1.5) == '<circle stroke-width="1.5"/>'
    assert el("img", alt='"') == '<img alt="&quot;">'


@given(st.floats(-1e9, 1e9, allow_nan=False), st.floats(0, 1e9, allow_nan=False), st.integers(2, 8))
def test_ticks_enclose_the_values_in_few_round_steps(
    low: float, extent: float, target: int
) -> None:
    ticks = nice_ticks(low, low + extent, target=target)
    slack = 1e-6 * max(abs(low), extent, 1e-12)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + extent - slack
    assert 2 <= len(ticks) <= 2 * target + 4
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    rounding = 8 * math.ulp(abs(low) + extent)
    assert max(steps) == pytest.approx(min(steps), rel=1e-5, abs=rounding)


def points_of(chart: str) -> list[tuple[float, float]]:
    (text,) = re.findall(r'points="([^"]+)"', chart)
    return [tuple(map(float, pair.split(","))) for pair in text.split()]  # type: ignore[misc]


def test_line_is_drawn_to_scale() -> None:
    points = points_of(line_chart("loss", [Line("loss", [(0, 0), (1, 4), (2, 8)])], x_label="step"))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y2 < y0  # larger values stand higher


def test_long_series_are_averaged_and_keep_their_mean() -> None:
    values = [(float(i), math.sin(i / 50)) for i in range(10_000)]
    points = points_of(line_chart("m", [Line("m", values)], x_label="step"))
    assert len(points) <= 160


def test_values_that_are_no_numbers_are_left_out() -> None:
    chart = line_chart("m", [Line("m", [(0, 1), (1, math.nan), (2, 3)])], x_label="step")
    assert len(points_of(chart)) == 2
    assert "nan" not in chart
    assert "no values" in line_chart("m", [Line("m", [(0, math.inf)])], x_label="step")
    constant = line_chart("m", [Line("m", [(0, 2.0), (1, 2.0)])], x_label="step")
    assert len({y for _, y in points_of(constant)}) == 1


def test_interval_plot_states_every_number() -> None:
    row = IntervalRow("color", [Estimate("a", 0.5, 0.4, 0.6), None], reference=0.25)
    plot = interval_plot("Accuracy", [row])
    assert "color, a" not in plot
    assert "color: a 50.0 % (40.0–60.0 %)" in plot
    assert 'x1="40.00%" x2="60.00%"' in plot
    assert 'cx="50.00%"' in plot
    assert plot.count("<circle") == 1


def test_tables_name_rows_and_columns_for_screen_readers() -> None:
    found = table(["Step", "Loss"], [["<a>", 1]], caption="Losses", numbers_from=1)
    assert '<th scope="col">Step</th>' in found
    assert '<th scope="row">&lt;a&gt;</th>' in found
    assert "<caption" in found
    assert 'class="number">1</td>' in found


def test_page_links_to_its_sections_and_forbids_everything_else() -> None:
    text = page("T<", subtitle="s", tiles=[], sections=[Section("By category", "body")], footer="f")
    assert "<title>T&lt;</title>" in text
    assert 'href="#by-category"' in text
    assert 'id="by-category"' in text
    assert "default-src &#x27;none&#x27;" in text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.12345, "0.123"), (1234.5, "1,234"), (1e-5, "1.0e-05"), (2.5e7, "2.5e+07")],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_differences_carry_a_sign() -> None:
    assert (signed_points(0.0312), signed_points(-0.02)) == ("+3.1", "−2.0")
