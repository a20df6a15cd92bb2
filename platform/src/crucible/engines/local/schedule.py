"""What may run next. Pure: a plan, a history and what runs go in, decisions come out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from crucible.engines.events import History
from crucible.engines.local.machine import Machine
from crucible.engines.state import StepStatus
from crucible.plan.model import Condition, Import, MetricRef, Plan, PlanStep

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def skip_reason(step: PlanStep, history: History) -> str | None:
    """Why ``step`` cannot run any more because of another step, or None."""
    for upstream_id in step.after:
        upstream = history.state.steps[upstream_id]
        if upstream.status.is_final and not upstream.status.has_outputs:
            return f"{upstream_id} {_ENDED_WORDS[upstream.status]}"
    return None


def waiting_steps(plan: Plan, history: History, now: float) -> Iterator[PlanStep]:
    """Steps that only wait for room: all they need has ended well and no backoff holds them."""
    for step in plan.steps:
        state = history.state.steps[step.id]
        if state.status is StepStatus.RETRYING:
            if history.retry_at[step.id] <= now:
                yield step
        elif state.status is StepStatus.PENDING and _is_fed(step, history):
            yield step


def steps_with_room(
    candidates: Iterable[PlanStep], running: Collection[PlanStep], machine: Machine
) -> list[PlanStep]:
    """Which of ``candidates`` to start now, in their order.

    A step that asks for more than the machine has starts when nothing else runs, and runs alone.
    """
    chosen: list[PlanStep] = []
    for step in candidates:
        busy = [other.resources for other in (*running, *chosen)]
        if machine.has_room(step.resources, busy) or not busy:
            chosen.append(step)
    return chosen


def next_retry_at(history: History, now: float) -> float | None:
    """When the next backoff ends, in seconds since the epoch; what is due waits for room."""
    return min((moment for moment in history.retry_at.values() if moment > now), default=None)


def condition_text(condition: Condition, left: float) -> str:
    """E.g. ``evaluate.metrics.accuracy is 0.41, not >= 0.5``."""
    ref = condition.left
    name = f"{ref.step_id}.{ref.output}.{ref.metric}"
    return f"{name} is {left:g}, not {condition.op} {condition.right:g}"


def failed_condition(
    step: PlanStep, metric: Callable[[MetricRef], float]
) -> tuple[Condition, float] | None:
    """The first condition of ``step`` that does not hold, and its left side."""
    for condition in step.when:
        left = metric(condition.left)
        if not _OPERATORS[condition.op](left, condition.right):
            return condition, left
    return None


def imports_of(step: PlanStep) -> list[Import]:
    """What ``step`` takes from outside the plan."""
    sources = (source for slot in step.inputs for source in slot.sources)
    return [source for source in sources if isinstance(source, Import)]


def descendants_of(plan: Plan, step_id: str) -> set[str]:
    """``step_id`` and every step that needs it, directly or not."""
    found = {step_id}
    for step in plan.steps:
        if found.intersection(step.after):
            found.add(step.id)
    return found


def _is_fed(step: PlanStep, history: History) -> bool:
    return all(history.state.steps[other].status.has_outputs for other in step.after) and all(
        source.uri in history.imports for source in imports_of(step)
    )


_ENDED_WORDS: Mapping[StepStatus, str] = {
    StepStatus.SKIPPED: "was skipped",
    StepStatus.FAILED: "failed",
    StepStatus.CANCELLED: "was cancelled",
}
