"""A plan as text: one line a step, fan-outs as one line, totals, warnings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from crucible.plan.document import condition_text, source_text, totals, warnings
from crucible.plan.model import CacheOutlook, Plan, PlanStep
from crucible.sdk.component import Estimate, Resources
from crucible.specs.document import shown

_HEADERS = ("STEP", "USES", "INPUTS", "RESOURCES", "ESTIMATE", "CACHE")
_MAX_INPUTS_CHARS = 44
_MAX_REASON_CHARS = 60


def render_plan(
    plan: Plan,
    outlook: Mapping[str, CacheOutlook],
    *,
    memory_budget_gib: float | None = None,
) -> str:
    """The plan for a terminal, without a final newline; see `plan_document` for the arguments."""
    return "\n".join(_lines(plan, outlook, memory_budget_gib))


def _lines(
    plan: Plan, outlook: Mapping[str, CacheOutlook], memory_budget_gib: float | None
) -> Iterator[str]:
    yield f"{plan.name}  {plan.digest[:19]}"
    if plan.params:
        yield "params: " + ", ".join(
            f"{name}={shown(value)}" for name, value in plan.params.items()
        )
    yield ""
    grouped = itertools.groupby(plan.all_steps, key=lambda step: step.name)
    yield from _table(_HEADERS, [_row(list(steps), outlook) for _, steps in grouped])
    yield ""
    for step in plan.all_steps:
        for condition in step.when:
            yield f"{step.id}: only if {condition_text(condition)}"
    for name, reason in plan.skipped.items():
        yield f"{name}: skipped, {reason}"
    if plan.release is not None:
        release = plan.release
        what = f"{source_text(release.model)} as {release.register_as}"
        yield f"release: {what}, promoted to {release.promote_to} if it passes the gate"
    elif plan.release_skipped:
        yield f"release: none, {plan.release_skipped}"
    yield _totals_line(plan, outlook)
    for warning in warnings(plan, memory_budget_gib):
        yield f"warning: {warning}"


def _row(steps: Sequence[PlanStep], outlook: Mapping[str, CacheOutlook]) -> tuple[str, ...]:
    """One line for a step, or for all items of a fan-out."""
    first = steps[0]
    is_fan = len(steps) > 1
    inputs = ", ".join(
        f"{slot.slot}={source_text(slot.sources[0])}"
        + (f" +{len(slot.sources) - 1}" if len(slot.sources) > 1 else "")
        for slot in first.inputs
    )
    return (
        f"{first.name}[0..{len(steps) - 1}]" if is_fan else first.id,
        first.component.rpartition(":")[2],
        _cut(inputs, _MAX_INPUTS_CHARS) or "-",
        _resources(first.resources) + (" each" if is_fan else ""),
        _estimate(first.estimate),
        _cut(_cache(steps, outlook), _MAX_REASON_CHARS),
    )


def _cache(steps: Sequence[PlanStep], outlook: Mapping[str, CacheOutlook]) -> str:
    found = [outlook[step.id] for step in steps if step.id in outlook]
    if not found:
        return "-"
    missed = [entry for entry in found if not entry.hit]
    if len(found) == 1 or not missed:
        return ("run: " if missed else "cached: ") + (missed or found)[0].reason
    return f"{len(found) - len(missed)} cached, {len(missed)} run: {missed[0].reason}"


def _resources(resources: Resources) -> str:
    parts = [f"{resources.cpus:g} cpu", f"{resources.memory_gib:g} GiB"]
    if resources.gpus:
        parts.append(f"{resources.gpus} gpu")
    if resources.nodes > 1:
        parts.append(f"x{resources.nodes} nodes")
    if resources.pool != Resources.pool:
        parts.append(resources.pool)
    return " ".join(parts)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    parts = []
    if estimate.memory_gib is not None:
        parts.append(f"{estimate.memory_gib:.3g} GiB")
    if estimate.seconds is not None:
        parts.append(_duration(estimate.seconds))
    return ", ".join(parts) or "-"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def _totals_line(plan: Plan, outlook: Mapping[str, CacheOutlook]) -> str:
    found = totals(plan, outlook)
    to_run = found.steps - found.cached
    line = f"total: {found.steps} steps, {found.cached} cached, {to_run} to run"
    if found.estimated:
        line += f"; {found.cpu_hours:.3g} CPU-hours"
        if found.gpu_hours:
            line += f", {found.gpu_hours:.3g} GPU-hours"
        if found.estimated < to_run:
            line += f" for the {found.estimated} with an estimate"
    return line


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _cut(text: str, num_chars: int) -> str:
    return text if len(text) <= num_chars else f"{text[: num_chars - 1]}…"
