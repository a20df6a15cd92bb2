"""What a resumed run does again: done steps are left out of the pipeline and cost no pod.

A condition on a step that is done is decided here, since KFP has nothing left to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from crucible.engines.local.schedule import condition_text, descendants_of, failed_condition
from crucible.engines.state import RunState, RunStatus
from crucible.errors import UserError
from crucible.plan.model import MetricRef, Plan, PlanStep
from crucible.sdk.suggestion import did_you_mean


@dataclass(frozen=True)
class Remainder:
    """What is left to do of a run."""

    reset: tuple[str, ...]
    """Ids of steps that run again, or for the first time."""
    fresh: frozenset[str]
    """Those of them that may use no earlier result."""
    skipped: dict[str, str]
    """Why, by step id: steps that a condition on a done step rules out, and what needs them."""
    done: frozenset[str]
    """Steps that are left out."""


def remainder(
    plan: Plan,
    state: RunState,
    *,
    from_step: str | None,
    is_whole: Callable[[Collection[str]], bool],
    read_metric: Callable[[MetricRef], float],
) -> Remainder:
    """What a run that has ended does when it is resumed.

    Args:
        plan: the run's.
        state: the run as it ended.
        from_step: run this step and all that depend on it again.
        is_whole: True if the store still has all of these artifacts.
        read_metric: a number that a done step measured.

    Raises:
        UserError: no such step, the run is running, or nothing is left to do.
    """
    _check(plan, state, from_step)
    fresh = frozenset(descendants_of(plan, from_step) if from_step else ())
    kept = {
        step.id
        for step in plan.steps
        if step.id not in fresh
        and state.steps[step.id].status.has_outputs
        and is_whole(list(state.steps[step.id].outputs.values()))
    }
    skipped: dict[str, str] = {}
    for step in plan.steps:
        if step.id not in kept:
            reason = _skip_reason(step, kept, skipped, read_metric)
            if reason:
                skipped[step.id] = reason
    left_out = kept | skipped.keys()
    exit_ids = (plan.on_exit.id,) if plan.on_exit else ()
    reset = (*(step.id for step in plan.steps if step.id not in kept), *exit_ids)
    return Remainder(reset, fresh, skipped, frozenset(left_out))


def _check(plan: Plan, state: RunState, from_step: str | None) -> None:
    known = [step.id for step in plan.steps]
    if from_step is not None and from_step not in known:
        hint = did_you_mean(from_step, known)
        raise UserError(f"run {state.run_id} has no step {from_step!r}. {hint}")
    if not state.status.is_final:
        raise UserError(
            f"run {state.run_id} is running. Follow it with platformctl watch {state.run_id}, or "
            f"end it with platformctl cancel {state.run_id} first."
        )
    if state.status is RunStatus.SUCCEEDED and not state.failed_steps and from_step is None:
        raise UserError(
            f"run {state.run_id} has succeeded. To run a step and all that depends on it again: "
            f"platformctl resume {state.run_id} --from STEP."
        )


def _skip_reason(
    step: PlanStep,
    kept: Collection[str],
    skipped: Collection[str],
    read_metric: Callable[[MetricRef], float],
) -> str:
    for other in step.after:
        if other in skipped:
            return f"{other} was skipped"
    decided = [condition for condition in step.when if condition.left.step_id in kept]
    if len(decided) < len(step.when):
        return ""  # KFP decides when the others have run
    found = failed_condition(step, read_metric)
    return condition_text(*found) if found else ""
