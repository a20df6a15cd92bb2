"""A step's log, wherever it is: in the journal, in the pod, or in what KFP has stored of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from crucible.engines.kfp.api import KfpRun, PipelinesApi
from crucible.engines.kfp.following import RunFollower
from crucible.engines.state import StepState
from crucible.errors import UserError
from crucible.journal import LineReader
from crucible.sdk.suggestion import did_you_mean

_LOOK_SECONDS = 2.0


def step_lines(run: RunFollower, step_id: str, *, follow: bool) -> Iterator[str]:
    """Lines of the newest attempt's log, without line ends.

    A step writes its log to the journal every few seconds and at its end, so that it can be read
    when the pod is gone. With ``follow`` what comes is waited for, further attempts included, until
    the step ends.

    Raises:
        UserError: the run has no such step.
    """
    attempt = _step(run, step_id).attempt
    while True:
        yield from _attempt_lines(run, step_id, attempt, follow=follow)
        newest = _step(run, step_id).attempt
        if not follow or newest <= attempt:
            return
        attempt = newest


def _attempt_lines(run: RunFollower, step_id: str, attempt: int, *, follow: bool) -> Iterator[str]:
    reader = LineReader(run.journal.log(step_id, attempt)) if attempt else None
    while True:
        step = _step(run, step_id)  # before reading: what an ended attempt wrote is complete
        over = step.attempt > attempt or step.status.is_final
        if reader is not None:
            yield from reader.read(final=over or not follow)
        if over or not follow:
            return
        time.sleep(_LOOK_SECONDS)


def _step(run: RunFollower, step_id: str) -> StepState:
    state = run.look()
    if step_id not in state.steps:
        hint = did_you_mean(step_id, state.steps)
        raise UserError(f"run {state.run_id} has no step {step_id!r}. {hint}")
    return state.steps[step_id]


def stored_lines(api: PipelinesApi, run: KfpRun, task: str) -> Iterator[str]:
    """Lines of the log of a task of another pipeline, as KFP has stored it.

    Raises:
        UserError: the run has no such task, or it has no log.
    """
    tasks = {found.name: found for found in run.tasks}
    if task not in tasks:
        raise UserError(f"run {run.id} has no task {task!r}. {did_you_mean(task, tasks)}")
    raise UserError(f"task {task} of run {run.id} has no log yet.")
