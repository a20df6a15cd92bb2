"""The pipeline as a drawing: one box a step with its state and duration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from crucible_components.reporting.elements.markup import Markup, el
from crucible_components.reporting.layout import Layout, Place, layout_graph
from crucible_components.reporting.run import StepView

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 140, 46, 12, 30, 3
_MAX_LETTERS = 17
_MAX_ITEMS_DRAWN = 4
_SMALLEST_SCALE = 0.72

# By status: mark, tone, word. Marks tell states apart without colour.
STATUS_MARKS = {
    "succeeded": ("✓", "good", "succeeded"),
    "cached": ("⟲", "good", "cached"),
    "skipped": ("–", None, "skipped"),
    "failed": ("✗", "bad", "failed"),
    "cancelled": ("✗", "warn", "cancelled"),
    "running": ("…", "warn", "running"),
    "retrying": ("…", "warn", "retrying"),
    "pending": ("○", None, "not started"),
}
_WORST_FIRST = ("failed", "cancelled", "running", "retrying", "pending", "skipped", "succeeded")


@dataclass(frozen=True)
class Node:
    """A box: one step, or all items of a large fan-out."""

    id: str
    component: str
    status: str
    seconds: float | None
    num_items: int = 1


def draw_dag(steps: Sequence[StepView]) -> Markup:
    """An SVG of the steps and their dependencies, top to bottom."""
    nodes, parents = _nodes(steps)
    layout = layout_graph(parents)
    width = layout.width * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = layout.num_layers * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN
    edges = [_edge(layout, a, b, bends, width) for a, b, bends in layout.edges]
    boxes = [_box(node, layout.places[node.id], width) for node in nodes]
    drawing = el(
        "svg",
        el("title", f"Pipeline of {len(steps)} steps"),
        el("g", edges, fill="none", stroke="var(--muted)", stroke_opacity=0.55, stroke_width=1.5),
        boxes,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        style=f"width:100%;max-width:{width:.0f}px;min-width:{_SMALLEST_SCALE * width:.0f}px;"
        "margin:0 auto",
    )
    return el("div", drawing, class_="scroll", tabindex="0", role="region", aria_label="Pipeline")


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _nodes(steps: Sequence[StepView]) -> tuple[list[Node], dict[str, list[str]]]:
    """Boxes in plan order and the parents of each; large fan-outs become one box."""
    sizes = Counter(step.name for step in steps)
    box_of = {
        step.id: step.name if sizes[step.name] > _MAX_ITEMS_DRAWN else step.id for step in steps
    }
    members: dict[str, list[StepView]] = {}
    for step in steps:
        members.setdefault(box_of[step.id], []).append(step)
    parents = {
        box: list(
            dict.fromkeys(
                box_of[parent]
                for step in found
                for parent in step.parents
                if parent in box_of and box_of[parent] != box
            )
        )
        for box, found in members.items()
    }
    return [_node(box, found) for box, found in members.items()], parents


def _node(box: str, steps: Sequence[StepView]) -> Node:
    statuses = {step.status for step in steps}
    status = next((each for each in _WORST_FIRST if each in statuses), "cached")
    seconds = [step.seconds for step in steps if step.seconds is not None]
    return Node(box, steps[0].component, status, sum(seconds) if seconds else None, len(steps))


def _corner(place: Place, width: float) -> tuple[float, float]:
    x = width / 2 + place.position * (_WIDTH + _GAP_X) - _WIDTH / 2
    return x, _MARGIN + place.layer * (_HEIGHT + _GAP_Y)


def _edge(layout: Layout, parent: str, child: str, bends: Sequence[Place], width: float) -> Markup:
    x, y = _corner(layout.places[parent], width)
    path = [f"M{x + _WIDTH / 2:.1f},{y + _HEIGHT:.1f}"]
    for place in (*bends, layout.places[child]):
        start_x, start_y = x + _WIDTH / 2, y + _HEIGHT
        x, y = _corner(place, width)
        end_x, middle = x + _WIDTH / 2, (start_y + y) / 2
        path.append(f"C{start_x:.1f},{middle:.1f} {end_x:.1f},{middle:.1f} {end_x:.1f},{y:.1f}")
        if place is not layout.places[child]:
            path.append(f"L{end_x:.1f},{y + _HEIGHT:.1f}")
    return el("path", d="".join(path))


def _box(node: Node, place: Place, width: float) -> Markup:
    x, y = _corner(place, width)
    mark, tone, word = STATUS_MARKS.get(node.status, ("?", None, node.status))
    color = f"var(--{tone})" if tone else "var(--muted)"
    took = word if node.status != "succeeded" else duration(node.seconds)
    count = f" × {node.num_items}" if node.num_items > 1 else ""
    spoken = f"{node.id}{count}: {node.component}, {word}, {duration(node.seconds)}"
    return el(
        "g",
        el("title", spoken),
        el(
            "rect",
            x=x,
            y=y,
            width=_WIDTH,
            height=_HEIGHT,
            rx=9,
            fill=f"var(--{tone}-ground)" if tone else "var(--raised)",
            stroke=color,
            stroke_width=1.4,
        ),
        el("text", _short(node.id + count), x=x + 11, y=y + 19, font_size=12.5, font_weight=650),
        el("text", f"{mark} {took}", x=x + 11, y=y + 36, font_size=11.5, style=f"fill:{color}"),
    )


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LETTERS else f"{text[: _MAX_LETTERS - 1]}…"
