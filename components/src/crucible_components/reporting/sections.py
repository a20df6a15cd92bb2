"""The sections of a run's page, each from data to markup."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from crucible_components.reporting.dag import STATUS_MARKS, draw_dag, duration
from crucible_components.reporting.elements.charts import (
    Line,
    line_chart,
    number,
)
from crucible_components.reporting.elements.markup import Child, Markup, el
from crucible_components.reporting.elements.page import (
    Section,
    percent,
    pill,
    signed_points,
    table,
)
from crucible_components.reporting.run import RunView, Series, StepView

_TELLING = frozenset({"loss", "reward", "kl", "entropy", "length", "accuracy"})
_MIN_POINTS = 2


def pipeline_section(run: RunView) -> Section:
    """The drawing, and a table with the time each step took."""
    body = el("div", draw_dag(run.steps), _step_table(run), class_="flow wide")
    note = "Needs that follow from others are not drawn. ⟲ marks a result taken from the cache."
    return Section("Pipeline", body, note=note)


def failure_section(run: RunView) -> list[Section]:
    """What went wrong, if anything did."""
    failed = [step for step in run.steps if step.failure]
    parts: list[Markup] = []
    for step in failed:
        failure = step.failure or {}
        parts += [
            el("h3", f"{step.id}: {failure.get('cause', 'failed')}"),
            el("p", failure.get("message", "")),
            el("p", failure.get("fix", ""), class_="muted"),
        ]
        if failure.get("log_tail"):
            parts.append(el("pre", "\n".join(failure["log_tail"])))
    parts += [el("p", warning) for warning in run.warnings]
    return [Section("What to know", parts)] if parts else []


def release_section(run: RunView) -> list[Section]:
    """The gate's decision and every number that it rests on."""
    release = run.release
    if not release:
        return []
    decision = release.get("decision") or {}
    reasons = [*decision.get("reasons", ()), *decision.get("notes", ())]
    comparison, thresholds = decision.get("comparison"), decision.get("thresholds")
    told = el(
        "div",
        el("p", _outcome(release), " ", release.get("summary", "")),
        el("ul", [el("li", reason) for reason in reasons]) if reasons else None,
        _comparison_facts(comparison) if comparison else None,
    )
    shown = _threshold_table(thresholds) if thresholds else None
    parts = el("div", told, shown, class_="flow wide")
    return [Section("Release", parts, note="Version, alias, and why the gate decided so.")]


def curve_section(run: RunView) -> list[Section]:
    """Everything that was logged more than once, the telling metrics first."""
    main: list[Markup] = []
    rest: list[Markup] = []
    for step in run.steps:
        for name, lines in _families(step.series).items():
            chart = line_chart(f"{step.id}: {name}", lines, x_label="step")
            (main if _is_telling(name) else rest).append(chart)
    if not main and not rest:
        return []
    body: list[Child] = [el("div", main, class_="charts")] if main else []
    if rest:
        label = f"{len(rest)} more charts" if main else f"{len(rest)} charts"
        grid = el("div", rest, class_="charts")
        body.append(el("details", el("summary", label), grid, open=not main))
    note = "As logged while training; long series are averaged in bins."
    return [Section("Curves", body, note=note)]


def lineage_section(run: RunView) -> Section:
    """Where every artifact came from, and what the run was asked to do."""
    rows: list[list[Child]] = []
    for step in run.steps:
        sources = [
            el("div", f"{slot}: ", el("code", ", ".join(found)))
            for slot, found in step.inputs.items()
        ]
        outputs = [
            el("div", f"{name}: ", el("code", _short_digest(digest), title=digest))
            for name, digest in step.outputs.items()
        ]
        mark = el("code", _short_digest(step.fingerprint), title=step.fingerprint)
        rows.append([step.id, step.component, sources or "–", outputs or "–", mark])
    headers = ["Step", "Component", "Inputs", "Outputs", "Fingerprint"]
    digests = "\n".join(
        f"{digest}  {step.id}.{name}" for step in run.steps for name, digest in step.outputs.items()
    )
    settings = {step.id: dict(step.config) for step in run.steps}
    body: list[Child] = [
        table(headers, rows, caption="Artifacts by step, named by the digest of their manifest"),
        _details("Full digests", digests),
        _details("Settings of each step", json.dumps(settings, indent=1)),
        _details("Pipeline file", run.spec_text),
    ]
    return Section("Lineage", body)


def parameter_section(run: RunView) -> list[Section]:
    """What the pipeline was started with."""
    if not run.params:
        return []
    facts = [
        part
        for name, value in run.params.items()
        for part in (el("dt", name), el("dd", json.dumps(value, ensure_ascii=False)))
    ]
    return [Section("Parameters", el("dl", facts, class_="facts"))]


def _step_table(run: RunView) -> Markup:
    total = run.seconds or 0.0
    rows: list[list[Child]] = []
    for step in run.steps:
        mark, tone, word = STATUS_MARKS.get(step.status, ("?", None, step.status))
        state = [pill(f"{mark} {word}", tone)]
        if step.attempt > 1:
            state.append(el("span", f" {step.attempt} tries", class_="note"))
        memory = "–" if step.peak_memory_gib is None else f"{step.peak_memory_gib:.1f} GiB"
        name = [step.id, el("div", step.component, class_="note", style="font-weight:400")]
        rows.append([name, state, _bar(step, run, total), duration(step.seconds), memory])
    headers = ["Step", "State", "When", "Duration", "Memory"]
    return el("div", table(headers, rows, caption="Steps in the order of the plan"), class_="steps")


def _bar(step: StepView, run: RunView, total: float) -> Markup | None:
    if step.seconds is None or step.started_at is None or run.started_at is None or total <= 0:
        return None
    start = 100 * max(0.0, step.started_at - run.started_at) / total
    length = max(0.8, 100 * step.seconds / total)
    tone = STATUS_MARKS.get(step.status, ("", None, ""))[1]
    bar = el(
        "rect",
        x=f"{min(start, 99.2):.2f}%",
        y=3,
        width=f"{length:.2f}%",
        height=12,
        rx=3,
        fill=f"var(--{tone})" if tone else "var(--muted)",
    )
    track = el("rect", x=0, y=3, width="100%", height=12, rx=3, fill="var(--raised)")
    spoken = f"{step.id} began after {duration(step.started_at - run.started_at)}"
    title = el("title", f"{spoken} and took {duration(step.seconds)}")
    return el("svg", title, track, bar, width="100%", height=18, role="img", style="min-width:6rem")


def _outcome(release: Mapping[str, Any]) -> Markup:
    outcome = str(release.get("outcome", ""))
    tone = {"promoted": "good", "unchanged": "good", "refused": "bad"}.get(outcome, "warn")
    mark = {"good": "✓", "bad": "✗", "warn": "!"}[tone]
    return pill(f"{mark} {outcome}", tone)


def _threshold_table(thresholds: Sequence[Mapping[str, Any]]) -> Markup:
    rows: list[list[Child]] = []
    for each in thresholds:
        bound, value = each["bound"], each.get("value")
        limits = [
            f"{sign} {number(bound[end])}"
            for end, sign in (("min", "≥"), ("max", "≤"))
            if bound.get(end) is not None
        ]
        shown = "missing" if value is None else number(value)
        verdict = pill("✓ holds", "good") if each["passed"] else pill("✗ fails", "bad")
        rows.append([bound["metric"], " and ".join(limits), shown, verdict])
    return table(["Metric", "Bound", "Reached", "Verdict"], rows, caption="Thresholds of the gate")


def _comparison_facts(found: Mapping[str, Any]) -> Markup:
    interval = (
        f"{signed_points(found['difference_low'])} to {signed_points(found['difference_high'])} "
        f"points at {100 * found['confidence']:g} %"
    )
    facts: list[tuple[str, str]] = [
        ("Candidate", percent(found["candidate_mean"])),
        ("Champion", percent(found["champion_mean"])),
        ("Difference", f"{signed_points(found['difference_mean'])} points ({interval})"),
        ("Questions", str(found["num_pairs"])),
    ]
    if found.get("mcnemar_p_value") is not None:
        facts.append(("McNemar p", f"{found['mcnemar_p_value']:.2g}"))
    parts = [part for name, value in facts for part in (el("dt", name), el("dd", value))]
    return el("dl", parts, class_="facts")


def _families(series: Mapping[str, Series]) -> dict[str, list[Line]]:
    """The curves of each chart: ``loss/total`` and ``loss/answer`` share one named ``loss``."""
    families: dict[str, list[Line]] = {}
    for name, points in series.items():
        if len(points) >= _MIN_POINTS:
            head, _, tail = name.partition("/")
            shared = bool(tail) and head in _TELLING
            families.setdefault(head if shared else name, []).append(
                Line(tail if shared else name, points)
            )
    return families


def _is_telling(metric: str) -> bool:
    """True for metrics that say how training went; speed and the like are not among them."""
    return not _TELLING.isdisjoint(re.split(r"\W|_", metric.lower()))


def _short_digest(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _details(label: str, text: str) -> Markup | None:
    if not text.strip():
        return None
    return el("details", el("summary", label), el("pre", text))
