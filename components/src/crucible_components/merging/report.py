"""The merge's figures: by module for the HTML report, over the whole model for the metrics."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from crucible_components.merging.apply import MergedTensor
from crucible_components.merging.divergence import Divergence

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bar:#3b82f6;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}tr.all{font-weight:600;background:var(--soft)}
td.share{background:linear-gradient(var(--bar),var(--bar)) left bottom/var(--part) 3px no-repeat}
"""


@dataclass(frozen=True)
class ModuleShare:
    """One row of the report: a module, or the whole model."""

    name: str
    weights: tuple[float, ...]
    """Share of each source, mean over the module's elements."""
    divergence: Divergence


def shares_by_module(records: Sequence[MergedTensor]) -> list[ModuleShare]:
    """Group tensors into modules, in order of first appearance by name."""
    groups: dict[str, list[MergedTensor]] = {}
    for record in sorted(records, key=lambda r: _natural_key(r.name)):
        groups.setdefault(module_of(record.name), []).append(record)
    return [pool(name, group) for name, group in groups.items()]


def pool(name: str, records: Sequence[MergedTensor]) -> ModuleShare:
    """The row of all ``records`` together."""
    total = max(1, sum(record.num_elements for record in records))
    weights = tuple(
        sum(record.weights[source] * record.num_elements for record in records) / total
        for source in range(len(records[0].weights))
    )
    divergence = records[0].divergence
    for record in records[1:]:
        divergence = divergence + record.divergence
    return ModuleShare(name, weights, divergence)


def module_of(tensor_name: str) -> str:
    """The tensor's module: up to the first number in its name, else its first two parts."""
    parents = tensor_name.split(".")[:-1] or [tensor_name]
    for position, part in enumerate(parents):
        if part.isdigit():
            return ".".join(parents[: position + 1])
    return ".".join(parents[:2])


def summary_metrics(records: Sequence[MergedTensor]) -> dict[str, float]:
    """Whole-model figures, named by source in the order of ``models``, counted from 1."""
    whole = pool("all", records)
    metrics = {
        "num_tensors": float(len(records)),
        "num_parameters": float(whole.divergence.num_elements),
        "cosine/mean": whole.divergence.mean_cosine(),
        "sign_conflict_fraction": whole.divergence.conflict_fraction,
    }
    for source, weight in enumerate(whole.weights):
        metrics[f"share/source_{source + 1}"] = weight
        change = whole.divergence.relative_change(source)
        metrics[f"relative_change/source_{source + 1}"] = change
    return metrics


def render_report(records: Sequence[MergedTensor], *, method: str) -> str:
    """One self-contained HTML page; ``method`` is the method and its parameters in words."""
    rows = [pool("all", records), *shares_by_module(records)]
    num_sources = len(rows[0].weights)
    heads = ["module", "parameters"]
    heads += [f"share of {i}" for i in range(1, num_sources + 1)]
    heads += [f"change of {i}" for i in range(1, num_sources + 1)]
    heads += ["cosine", "sign conflicts"]
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "\n".join(_row(row, is_total=position == 0) for position, row in enumerate(rows))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Merge report</title><style>{_STYLE}</style><h1>Merge report</h1>"
        f"<p>{html.escape(method)}. Sources are numbered in the order of <code>models</code>.</p>"
        "<p>Share: weight of a source in the merged change, mean over the module's parameters. "
        "Change: norm of the source's change over the norm of the base. "
        "Cosine: between the changes of two sources, mean over pairs. "
        "Sign conflicts: parameters that some sources raise and others lower.</p>"
        f'<div class="wide"><table><tr>{head}</tr>\n{body}\n</table></div></html>\n'
    )


def _row(row: ModuleShare, *, is_total: bool) -> str:
    divergence = row.divergence
    cells = [f"<td>{html.escape(row.name)}</td>", f"<td>{divergence.num_elements:,}</td>"]
    cells += [
        f'<td class="share" style="--part:{weight:.1%}">{weight:.3f}</td>' for weight in row.weights
    ]
    cells += [
        f"<td>{divergence.relative_change(source):.2%}</td>" for source in range(len(row.weights))
    ]
    cells += [
        f"<td>{divergence.mean_cosine():.3f}</td>",
        f"<td>{divergence.conflict_fraction:.1%}</td>",
    ]
    mark = ' class="all"' if is_total else ""
    return f"<tr{mark}>{''.join(cells)}</tr>"


def _natural_key(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in name.split(".")]
