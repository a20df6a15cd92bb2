"""The state of a run, from the two who know of it: its journal and KFP.

The journal knows what steps wrote, why they failed and how far they are. KFP knows what its pods
cannot tell: that a run was ended, that a pod never started, that a condition did not hold. Where
both speak the journal counts for a step and KFP for the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from crucible.engines.events import Event
from crucible.engines.kfp.api import KfpRun
from crucible.engines.kfp.mirror import fold, release_failure
from crucible.engines.kfp.names import EXIT_TASK, RELEASE_ID
from crucible.engines.state import (
    Failure,
    FailureCause,
    RunState,
    RunStatus,
    StepState,
    StepStatus,
)
from crucible.errors import EXIT_FAILED
from crucible.plan.model import Plan, PlanStep

_RUN_STATUS = {
    "PENDING": RunStatus.PENDING,
    "RUNNING": RunStatus.RUNNING,
    "PAUSED": RunStatus.RUNNING,
    "CANCELING": RunStatus.RUNNING,
    "SUCCEEDED": RunStatus.SUCCEEDED,
    "SKIPPED": RunStatus.SUCCEEDED,
    "FAILED": RunStatus.FAILED,
    "CANCELED": RunStatus.CANCELLED,
}
LOST = Failure(
    FailureCause.ENGINE_LOST,
    "its pod ended without a word",
    "It was evicted, its node was lost, or it was killed. Resume the run: the step goes on from "
    "its last checkpoint.",
    EXIT_FAILED,
)
_OF_ARGO = re.compile(r"(.*-driver|.*\.onExit|root|executor|iteration.*)(\(.*\))?\Z")
"""Nodes that a pipeline's author never wrote."""
_TASK_STATUS = {
    "RUNNING": StepStatus.RUNNING,
    "SUCCEEDED": StepStatus.SUCCEEDED,
    "CACHED": StepStatus.CACHED,
    "SKIPPED": StepStatus.SKIPPED,
    "FAILED": StepStatus.FAILED,
    "CANCELED": StepStatus.CANCELLED,
}
FOREIGN_FAILURE = Failure(
    FailureCause.RAISED,
    "the task failed; Kubeflow Pipelines tells no reason",
    "See its log, correct it, then retry the run.",
    EXIT_FAILED,
)
NOT_STARTED = Failure(
    FailureCause.ENGINE_LOST,
    "its pod did not start",
    "See the events of the run's pods, then resume the run.",
    EXIT_FAILED,
)


def run_state(plan: Plan, events: Sequence[Event], kfp: KfpRun | None) -> RunState:
    """What is known of the run now.

    Args:
        plan: the run's plan.
        events: of its journal, in order.
        kfp: its newest run of KFP; None if it was never submitted, or has been deleted there.
    """
    state = fold(plan, events).state
    if kfp is None:
        return _without_kfp(state)
    state.status = _status(kfp)
    state.ended_at = kfp.ended_at if kfp.is_final else None
    tasks = {task.name.partition("(")[0]: task.state for task in kfp.tasks}
    for step in plan.all_steps:
        known = state.steps[step.id]
        if kfp.is_final:
            _settle(known, step, state, kfp, tasks)
        elif known.status is StepStatus.PENDING and _task_state(step, plan, tasks) == "SKIPPED":
            known.status, known.reason = StepStatus.SKIPPED, "its condition does not hold"
    state.message = _message(state, events, kfp)
    return state


def _status(kfp: KfpRun) -> RunStatus:
    status = _RUN_STATUS.get(kfp.state, RunStatus.RUNNING)
    if status is RunStatus.FAILED and kfp.was_cancelled:
        return RunStatus.CANCELLED  # KFP says FAILED of what somebody ended
    return status


def _without_kfp(state: RunState) -> RunState:
    """The last word of the journal: nobody runs the run any more, or not yet."""
    if any(step.attempt for step in state.steps.values()):
        state.status = RunStatus.INTERRUPTED
        state.message = "Kubeflow Pipelines does not know the run any more. Submit it again."
        for step in state.steps.values():
            if not step.status.is_final and step.attempt:
                step.status, step.failure = StepStatus.FAILED, LOST
    else:
        state.message = "not submitted to Kubeflow Pipelines yet: submit it again under its id"
    return state


def _settle(
    known: StepState, step: PlanStep, state: RunState, kfp: KfpRun, tasks: Mapping[str, str]
) -> None:
    """Give a step of an ended run its end."""
    cancelled = state.status is RunStatus.CANCELLED
    if cancelled and known.failure is not None and known.failure.cause is FailureCause.KILLED:
        known.status, known.failure = StepStatus.CANCELLED, None
    if known.status.is_final:
        return
    known.ended_at = known.ended_at or (kfp.ended_at if known.attempt else None)
    if cancelled:
        known.status = StepStatus.CANCELLED
    elif known.status is not StepStatus.PENDING:
        known.status, known.failure = StepStatus.FAILED, LOST
    elif tasks.get(step.name) == "FAILED" or tasks.get(f"{step.name}-driver") == "FAILED":
        known.status, known.failure = StepStatus.FAILED, NOT_STARTED
    else:
        known.status = StepStatus.SKIPPED
        known.reason = _why_skipped(step, state)


def _why_skipped(step: PlanStep, state: RunState) -> str:
    for other in step.after:
        upstream = state.steps[other]
        if upstream.status is StepStatus.FAILED:
            return f"{other} failed"
        if upstream.status is StepStatus.SKIPPED:
            return f"{other} was skipped"
    return "its condition does not hold" if step.when else "not reached"


def foreign_state(kfp: KfpRun) -> RunState:
    """The state of a run that is not ours: its tasks, as KFP tells of them."""
    state = RunState(kfp.name, str(kfp.pipeline_spec.get("pipelineInfo", {}).get("name", "")), "")
    state.run_id, state.status = kfp.id, _status(kfp)
    state.started_at, state.ended_at = kfp.created_at, kfp.ended_at
    workflow = re.compile(rf"{re.escape(state.pipeline)}-[a-z0-9]{{5}}\Z")
    for task in kfp.tasks:
        if _OF_ARGO.match(task.name) or workflow.match(task.name):
            continue
        unknown = StepStatus.SKIPPED if kfp.is_final else StepStatus.PENDING  # Argo omitted it
        status = _TASK_STATUS.get(task.state, unknown)
        state.steps[task.name] = StepState(
            task.name,
            component="",
            status=status,
            attempt=int(status not in (StepStatus.PENDING, StepStatus.SKIPPED)),
            started_at=task.started_at,
            ended_at=task.ended_at if status.is_final else None,
            failure=FOREIGN_FAILURE if status is StepStatus.FAILED else None,
        )
    state.message = _message(state, (), kfp)
    return state


def _task_state(step: PlanStep, plan: Plan, tasks: Mapping[str, str]) -> str:
    name = EXIT_TASK if plan.on_exit is not None and step.id == plan.on_exit.id else step.name
    return tasks.get(name, "")


def _message(state: RunState, events: Iterable[Event], kfp: KfpRun) -> str:
    if kfp.state == "CANCELING":
        return "being cancelled"
    if state.status is RunStatus.CANCELLED:
        return "cancelled"
    if state.status is not RunStatus.FAILED:
        return ""
    failed = [step.step_id for step in state.failed_steps]
    if failed:
        return f"{', '.join(failed)} failed"
    return release_failure(events) or kfp.error or _unknown_failure(kfp)


def _unknown_failure(kfp: KfpRun) -> str:
    tasks = [task.name for task in kfp.tasks if task.state == "FAILED"]
    release = [name for name in tasks if name.startswith(RELEASE_ID)]
    named = ", ".join(release or tasks) or "a task"
    return f"{named} of Kubeflow Pipelines failed"
