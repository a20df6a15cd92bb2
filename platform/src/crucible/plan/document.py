"""A plan with its cache outlook as one JSON document, for ``platformctl plan --json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from crucible.plan.model import CacheOutlook, Condition, Import, Plan, PlanStep, Release, Source

Outlook = Mapping[str, CacheOutlook]


@dataclass(frozen=True)
class Totals:
    """What the steps that are not cached need, as far as components give a formula."""

    steps: int
    cached: int
    estimated: int
    """Of the steps that will run, those with an estimate of time."""
    cpu_hours: float
    gpu_hours: float
    largest_memory_gib: float
    """The most that one of them asks for."""


def plan_document(
    plan: Plan, outlook: Outlook, *, memory_budget_gib: float | None = None
) -> dict[str, Any]:
    """Steps with inputs, resources, estimate and cache outlook; totals; warnings.

    Args:
        plan: the plan.
        outlook: by step id; steps that it lacks count as not cached.
        memory_budget_gib: what one machine has; a step that asks for more is a warning.
    """
    return {
        "name": plan.name,
        "description": plan.description,
        "digest": plan.digest,
        "params": plan.params,
        "steps": [_step(step, outlook) for step in plan.steps],
        "on_exit": None if plan.on_exit is None else _step(plan.on_exit, outlook),
        "skipped": plan.skipped,
        "release": None if plan.release is None else _release(plan.release),
        "release_skipped": plan.release_skipped,
        "totals": asdict(totals(plan, outlook)),
        "warnings": list(warnings(plan, memory_budget_gib)),
    }


def totals(plan: Plan, outlook: Outlook) -> Totals:
    """Sums over the steps that will run."""
    to_run = [step for step in plan.all_steps if not _is_cached(step, outlook)]
    timed = [
        (step, step.estimate.seconds * step.resources.nodes / 3600)
        for step in to_run
        if step.estimate is not None and step.estimate.seconds is not None
    ]
    return Totals(
        steps=len(plan.all_steps),
        cached=len(plan.all_steps) - len(to_run),
        estimated=len(timed),
        cpu_hours=sum(hours * step.resources.cpus for step, hours in timed),
        gpu_hours=sum(hours * step.resources.gpus for step, hours in timed),
        largest_memory_gib=max((step.resources.memory_gib for step in to_run), default=0.0),
    )


def warnings(plan: Plan, memory_budget_gib: float | None = None) -> Iterator[str]:
    """What will probably not fit: memory, time limits, the machine; one line a step name."""
    told: set[str] = set()
    for step in plan.all_steps:
        for warning in _misfits(step, memory_budget_gib):
            line = f"step {step.name}: {warning}"
            if line not in told:
                told.add(line)
                yield line


def _misfits(step: PlanStep, memory_budget_gib: float | None) -> Iterator[str]:
    asked_gib, estimate = step.resources.memory_gib, step.estimate
    if memory_budget_gib is not None and asked_gib > memory_budget_gib:
        yield f"asks for {asked_gib:g} GiB of memory, the machine has {memory_budget_gib:.3g} GiB."
    if estimate is None:
        return
    formula = f" ({estimate.formula})" if estimate.formula else ""
    if estimate.memory_gib is not None and estimate.memory_gib > asked_gib:
        yield (
            f"needs about {estimate.memory_gib:.3g} GiB of memory{formula} but asks for "
            f"{asked_gib:g} GiB. Raise resources.memory_gib."
        )
    if estimate.seconds is not None and step.timeout_minutes is not None:
        minutes = estimate.seconds / 60
        if minutes > step.timeout_minutes:
            yield (
                f"takes about {minutes:.3g} min{formula} but is stopped after "
                f"{step.timeout_minutes:g}. Raise timeout_minutes."
            )


def condition_text(condition: Condition) -> str:
    """``steps.evaluate.outputs.metrics.accuracy >= 0.5``."""
    ref = condition.left
    left = f"steps.{ref.step_id}.outputs.{ref.output}.{ref.metric}"
    return f"{left} {condition.op} {condition.right:g}"


def source_text(source: Source) -> str:
    """``align.model`` for an output; the uri of an import."""
    return source.uri if isinstance(source, Import) else f"{source.step_id}.{source.output}"


def _is_cached(step: PlanStep, outlook: Outlook) -> bool:
    return step.id in outlook and outlook[step.id].hit


def _step(step: PlanStep, outlook: Outlook) -> dict[str, Any]:
    found = outlook.get(step.id)
    return {
        "id": step.id,
        "name": step.name,
        "component": step.component,
        "inputs": [
            {
                "slot": slot.slot,
                "type": str(slot.type),
                "sources": [source_text(source) for source in slot.sources],
            }
            for slot in step.inputs
        ],
        "outputs": {name: str(kind) for name, kind in step.outputs.items()},
        "config": step.config,
        "metric_refs": {name: asdict(ref) for name, ref in step.metric_refs.items()},
        "after": list(step.after),
        "when": [condition_text(condition) for condition in step.when],
        "seed": step.seed,
        "resources": asdict(step.resources),
        "retry": asdict(step.retry),
        "timeout_minutes": step.timeout_minutes,
        "image": step.image,
        "fingerprint": step.fingerprint,
        "estimate": None if step.estimate is None else asdict(step.estimate),
        "cache": None if found is None else asdict(found),
    }


def _release(release: Release) -> dict[str, Any]:
    gate = release.gate
    return {
        "model": source_text(release.model),
        "register_as": release.register_as,
        "promote_to": release.promote_to,
        "gate": {
            "metrics": source_text(gate.metrics),
            "thresholds": [asdict(threshold) for threshold in gate.thresholds],
            "predictions": None if gate.predictions is None else source_text(gate.predictions),
            "max_regression": gate.max_regression,
            "confidence": gate.confidence,
        },
    }
