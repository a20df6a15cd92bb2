"""What a plan would find in the cache, and why the rest must run. Pure over a lookup."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from crucible.plan.changes import part_changes
from crucible.plan.model import CacheOutlook, Plan, PlanStep, StepOutput


class CacheHit(Protocol):
    """What the store knows about a fingerprint."""

    @property
    def run_id(self) -> str:
        """The run that did the work."""
        ...


Lookup = Callable[[str], CacheHit | None]


def cache_outlook(plan: Plan, lookup: Lookup, last: Plan | None) -> dict[str, CacheOutlook]:
    """By step id, whether its outputs are known, and if not, why not.

    Args:
        plan: what would run.
        lookup: the cache entry of a fingerprint.
        last: the pipeline's newest plan, which misses are explained against.
    """
    earlier = {} if last is None else {step.id: step for step in last.all_steps}
    outlook: dict[str, CacheOutlook] = {}
    for step in plan.all_steps:
        if not step.cache_enabled:
            outlook[step.id] = CacheOutlook(False, "runs each time")
        elif (hit := lookup(step.fingerprint)) is not None:
            outlook[step.id] = CacheOutlook(True, f"run {hit.run_id}")
        elif step.id in earlier:
            outlook[step.id] = CacheOutlook(False, _reason(step, earlier[step.id], outlook))
        else:
            outlook[step.id] = CacheOutlook(False, "no earlier run" if last is None else "new step")
    return outlook


def _reason(step: PlanStep, earlier: PlanStep, upstream: Mapping[str, CacheOutlook]) -> str:
    running = _running_producers(step, upstream)
    causes = [
        f"{part.replace('.', ' ', 1)}: {running[part]} will run" if part in running else change
        for part, change in part_changes(step, earlier)
    ]
    return "; ".join(causes) or "not in the cache"


def _running_producers(step: PlanStep, upstream: Mapping[str, CacheOutlook]) -> dict[str, str]:
    """By fingerprint part, a step that gives an input or a metric and is not cached itself."""
    producers = [
        (f"input.{slot.slot}", source.step_id)
        for slot in step.inputs
        for source in slot.sources
        if isinstance(source, StepOutput)
    ]
    producers += [(f"metric.{name}", ref.step_id) for name, ref in step.metric_refs.items()]
    found: dict[str, str] = {}
    for part, step_id in producers:
        if not upstream[step_id].hit:
            found.setdefault(part, step_id)
    return found
