"""The merge on one HTML page that needs nothing else: by source, by layer, by module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from crucible_components.merging.reporting.checks import check_merge
from crucible_components.merging.reporting.figures import TensorFigures
from crucible_components.merging.reporting.modules import KINDS, Place
from crucible_components.merging.reporting.pictures import Cell, Grid, heat_map
from crucible_components.merging.reporting.shares import (
    Pool,
    pool,
    pool_by_layer,
    pool_by_module,
)
from crucible_components.reporting.elements.charts import Line, line_chart, number
from crucible_components.reporting.elements.markup import Child, Markup, el
from crucible_components.reporting.elements.page import (
    Section,
    Tile,
    page,
    percent,
    pill,
    series_color,
    table,
)


@dataclass(frozen=True)
class MergeReport:
    """What a page is made of."""

    figures: Sequence[TensorFigures]
    method: str
    parameters: Mapping[str, str]
    """Of the recipe: of the method, types; by name, as they are to be shown."""
    sources: tuple[str, ...]
    """All models without the base; a tensor may be made of some of them."""
    base: str | None
    notes: Sequence[str] = ()
    """Tensors that were copied or skipped, and why."""
    tokenizer_differences: Sequence[str] = ()

    @cached_property
    def whole(self) -> Pool:
        return pool("whole model", self.figures, self.sources)

    @cached_property
    def modules(self) -> dict[Place, Pool]:
        return pool_by_module(self.figures, self.sources)

    @cached_property
    def layers(self) -> dict[Place, Pool]:
        return pool_by_layer(self.figures, self.sources)


def render_report(report: MergeReport) -> str:
    """A complete HTML document; all names in it are escaped."""
    origin = f"changes are relative to {report.base}" if report.base else "there is no base"
    sections = [
        Section("Soundness", _warnings(report)),
        Section("Recipe", _recipe(report)),
        Section("Sources", _sources(report), _EXPLANATION),
        Section("Shares by layer", _share_maps(report), "Full colour is 100 %."),
    ]
    if report.whole.has_base:
        sections.append(Section("Sign conflicts", _conflict_maps(report), _CONFLICTS))
    sections += [
        Section("Change by layer", _change_lines(report), "Norm of the change over the origin's."),
        Section("Modules", _modules(report)),
        Section("Copied and skipped", _listed(report.notes, "Every tensor was merged.")),
        Section("Tokenizers", _listed(report.tokenizer_differences, "No differences.")),
    ]
    return page(
        "Merge report",
        subtitle=f"{report.method} of {len(report.sources)} models; {origin}.",
        tiles=_tiles(report.whole),
        sections=sections,
        footer="Made while the result was written; every element counts.",
    )


_EXPLANATION = (
    "Share: the size of a source's part when the merged change is written as a sum of the "
    "sources' changes. What no such sum explains (rounding, elements dropped or elected one by "
    "one) is the rest to 100 %. Change: its norm over the origin's, which is the base or, without "
    "one, the mean of the models. Cosine: 1 for the same direction, 0 for unrelated changes."
)
_CONFLICTS = "Elements that some sources raise and others lower. Full colour is the most of all."


def _tiles(whole: Pool) -> list[Tile]:
    copied = f"{whole.num_copied:,} copied" if whole.num_copied else None
    tiles = [
        Tile("Parameters", _count(whole.num_elements)),
        Tile("Tensors", f"{whole.num_tensors:,}", copied),
        Tile("Explained by the sources", percent(whole.explained)),
    ]
    if whole.has_base:
        tiles += [
            Tile("Changed elements", percent(whole.changed_fraction)),
            Tile("Mean cosine of sources", _cosine(whole.mean_cosine())),
            Tile("Sign conflicts", percent(whole.conflict_fraction)),
        ]
    return tiles


def _warnings(report: MergeReport) -> Child:
    warnings = check_merge(report.figures, report.whole, report.modules)
    if not warnings:
        return el("p", pill("sound", "good"), " Nothing about the merge looks doubtful.")
    return el("ul", [el("li", pill("check", "warn"), " ", text) for text in warnings])


def _recipe(report: MergeReport) -> Markup:
    facts = {"method": report.method, "base": report.base or "none", **report.parameters}
    facts |= {f"source {i}": source for i, source in enumerate(report.sources, start=1)}
    return el(
        "dl", [[el("dt", name), el("dd", value)] for name, value in facts.items()], class_="facts"
    )


def _sources(report: MergeReport) -> Child:
    whole = report.whole
    rows = [
        _source_row(source, whole.shares[i], whole.relative_change(i), _cosines(whole, i))
        for i, source in enumerate(whole.sources)
    ]
    empty = [""] * (1 + len(whole.sources)) if whole.has_base else []
    rows.append(_source_row("merged", whole.explained, whole.relative_change(-1), empty))
    heads = ["source", "share", "change"]
    if whole.has_base:
        heads += ["cosine with merged", *(f"with {i + 1}" for i in range(len(whole.sources)))]
    return table(heads, rows, caption="Over the whole model", numbers_from=1)


def _source_row(name: str, share: float, change: float, cosines: list[str]) -> list[str]:
    return [name, percent(share), _small_percent(change), *cosines]


def _cosines(whole: Pool, source: int) -> list[str]:
    if not whole.has_base:
        return []
    others = [
        "" if other == source else _cosine(whole.cosine(source, other))
        for other in range(len(whole.sources))
    ]
    return [_cosine(whole.cosine(source)), *others]


def _share_maps(report: MergeReport) -> list[Child]:
    found: list[Child] = []
    for i, source in enumerate(report.sources):

        def cell(name: str, each: Pool, i: int = i) -> Cell:
            if each.is_changed:
                return Cell(each.shares[i], f"{name}: {percent(each.shares[i])}")
            return Cell(None, f"{name}: {'not finite' if each.num_broken else 'unchanged'}")

        grids = _grids(report.modules, cell)
        color = f"series-{series_color(i)}"
        found += [el("h3", source), _side_by_side(heat_map(grid, color=color) for grid in grids)]
    return found


def _conflict_maps(report: MergeReport) -> Markup:
    most = max((each.conflict_fraction for each in report.modules.values()), default=0.0)

    def cell(name: str, each: Pool) -> Cell:
        value = each.conflict_fraction
        return Cell(value / most if most else 0.0, f"{name}: {percent(value)}")

    return _side_by_side(heat_map(grid, color="bad") for grid in _grids(report.modules, cell))


def _side_by_side(maps: Iterable[Markup]) -> Markup:
    return el("div", maps, style="display:flex;flex-wrap:wrap;gap:.2rem 1.6rem")


def _grids(modules: Mapping[Place, Pool], cell: Callable[[str, Pool], Cell]) -> list[Grid]:
    """One grid a stack of layers, one for what is outside of layers."""
    stacks = dict.fromkeys(place.stack for place in modules if place.layer is not None)
    grids = []
    for stack in stacks:
        cells = {
            (place.kind, str(place.layer)): cell(f"{place.layer_name}.{place.kind}", each)
            for place, each in modules.items()
            if place.layer is not None and place.stack == stack
        }
        columns = sorted({column for _, column in cells}, key=int)
        grids.append(Grid(stack or "layers", _kinds(row for row, _ in cells), columns, cells))
    outside = {
        (place.tower, place.kind): cell(f"{place.tower} {place.kind}", each)
        for place, each in modules.items()
        if place.layer is None
    }
    if outside:
        towers = list(dict.fromkeys(tower for tower, _ in outside))
        columns = _kinds(column for _, column in outside)
        grids.append(Grid("outside of layers", towers, columns, outside))
    return grids


def _change_lines(report: MergeReport) -> Child:
    stacks = dict.fromkeys(place.stack for place in report.layers if place.layer is not None)
    charts = []
    for stack in stacks:
        layers = [
            (float(place.layer), each)
            for place, each in report.layers.items()
            if place.layer is not None and place.stack == stack
        ]
        lines = [
            Line(source, [(x, 100 * each.relative_change(i)) for x, each in layers])
            for i, source in enumerate(report.sources)
        ]
        merged = Line("merged", [(x, 100 * each.relative_change(-1)) for x, each in layers], True)
        title = f"Relative change in {stack or 'layers'}, %"
        charts.append(line_chart(title, [*lines, merged], x_label="layer"))
    return el("div", charts, class_="charts") if charts else el("p", "There are no layers.")


def _modules(report: MergeReport) -> list[Markup]:
    """Folded by stack, then by layer."""
    stacks: dict[str, list[Place]] = defaultdict(list)
    for place in report.layers:
        stacks["outside of layers" if place.layer is None else place.stack or "layers"].append(
            place
        )
    return [
        el("details", el("summary", name), [_layer(report, place) for place in places])
        for name, places in stacks.items()
    ]


def _layer(report: MergeReport, place: Place) -> Markup:
    layer = report.layers[place]
    modules = [each for at, each in report.modules.items() if at.whole_layer == place]
    summary = f"{layer.name} · {_count(layer.num_elements)} parameters"
    return el("details", el("summary", summary), _module_table(layer, modules), class_="layer")


def _module_table(layer: Pool, modules: Sequence[Pool]) -> Markup:
    numbers = range(1, len(layer.sources) + 1)
    heads = ["module", "parameters", *(f"share of {n}" for n in numbers)]
    heads += [*(f"change of {n}" for n in numbers), "merged change"]
    if layer.has_base:
        heads += ["mean cosine", "sign conflicts"]
    rows = [_module_row(each, layer) for each in modules]
    return table(heads, rows, caption=layer.name, numbers_from=1)


def _module_row(each: Pool, layer: Pool) -> list[str]:
    changes = [*range(len(each.sources)), -1]
    row = [each.name, f"{each.num_elements:,}", *map(percent, each.shares)]
    row += [_small_percent(each.relative_change(change)) for change in changes]
    if layer.has_base:
        row += [_cosine(each.mean_cosine()), percent(each.conflict_fraction)]
    return row


def _listed(lines: Sequence[str], otherwise: str) -> Markup:
    if not lines:
        return el("p", otherwise, class_="muted")
    return el("ul", [el("li", line) for line in lines])


def _kinds(found: Iterable[str]) -> list[str]:
    return sorted(set(found), key=KINDS.index)


def _cosine(value: float | None) -> str:
    """``-0.0004`` as ``0.000``: rounded to zero there is no sign."""
    return "–" if value is None else f"{round(value, 3) + 0.0:.3f}".replace("-", "−")


def _small_percent(value: float) -> str:
    """Light fine-tuning changes weights by less than a percent."""
    return f"{100 * value:.3f} %"


def _count(value: int) -> str:
    """``7_241_000_000`` as ``7.24 B``."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{number(value / unit)} {name}"
    return str(value)
