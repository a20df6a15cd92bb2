"""The state of a run as it is shown: the event log, whether an engine lives, and live progress."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time

from crucible.engines.events import History, read_events
from crucible.engines.live import LiveStep
from crucible.engines.local.logfile import tail
from crucible.engines.local.run_dir import LAST_WORDS, RunDir, is_locked
from crucible.engines.state import (
    Failure,
    FailureCause,
    RunState,
    RunStatus,
    StepState,
    StepStatus,
)
from crucible.errors import EXIT_FAILED
from crucible.plan.model import Plan
from crucible.sdk import events as step_events

_POLL_SECONDS = 0.01


class RunView:
    """Follows one run. Each look reads only what is new since the last."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.plan: Plan = run_dir.read_plan()
        self._history = History.of(self.plan)
        self._offset = 0
        self._live: dict[tuple[str, int], _LiveStep] = {}
        """By step and attempt."""

    def look(self, *, progress: bool = True) -> RunState:
        """The state now, in objects of its own.

        Args:
            progress: also read what the steps themselves tell; costs time where they tell much.
        """
        alive = is_locked(self.run_dir.lock)  # before reading: what a dead engine wrote is complete
        events, self._offset = read_events(self.run_dir.events, self._offset)
        for event in events:
            self._history.apply(event)
        state = self._history.state
        shown = dataclasses.replace(
            state,
            steps={
                step_id: self._look_at(step) if progress else dataclasses.replace(step)
                for step_id, step in state.steps.items()
            },
            warnings=list(state.warnings),
            mlflow_run_id=self._mlflow_run_id(),
        )
        if not alive and not shown.status.is_final:
            shown.status = RunStatus.INTERRUPTED
            shown.message = (
                f"the engine was lost: {self._last_words()}. "
                f"platformctl resume {shown.run_id} continues the run"
            )
        if shown.status is RunStatus.INTERRUPTED:
            _fail_unfinished(shown)
        if shown.status.is_final and self.run_dir.report.is_file():
            shown.report = str(self.run_dir.report)
        return shown

    def wait(self, seconds: float) -> None:
        """Return when the engine has written an event since the last look, or after ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.run_dir.events.stat().st_size == self._offset and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _look_at(self, step: StepState) -> StepState:
        shown = dataclasses.replace(step)
        if step.attempt:
            live = self._live.setdefault((step.step_id, step.attempt), _LiveStep())
            if not live.is_over:
                live.is_over = step.status.is_final
                live.read(self.run_dir, step)
            shown.progress, shown.last_metrics = live.live.progress, dict(live.live.metrics)
        return shown

    def _last_words(self) -> str:
        """Why the engine said that it cannot go on; it says nothing if it is killed."""
        for line in tail(self.run_dir.supervisor_log, 1):
            _, found, reason = line.partition(LAST_WORDS)
            if found:
                return reason.strip()
        return "it was killed, or the machine went down"

    def _mlflow_run_id(self) -> str | None:
        with contextlib.suppress(OSError, ValueError, KeyError):  # not there yet, or never
            return str(json.loads(self.run_dir.mlflow.read_text())["run_id"])
        return None


@dataclasses.dataclass
class _LiveStep:
    """An attempt's event file, and how far it was read."""

    live: LiveStep = dataclasses.field(default_factory=LiveStep)
    offset: int = 0
    is_over: bool = False

    def read(self, run_dir: RunDir, step: StepState) -> None:
        path = run_dir.attempt(step.step_id, step.attempt).events
        events, self.offset = step_events.read_events(path, self.offset)
        self.live.take(events)


def _fail_unfinished(state: RunState) -> None:
    """Say of steps that an engine left behind what that means."""
    failure = Failure(
        cause=FailureCause.ENGINE_LOST,
        message="the engine ended before this step did",
        fix=f"platformctl resume {state.run_id}: it goes on from the step's last checkpoint.",
        exit_code=EXIT_FAILED,
    )
    for step in state.steps.values():
        if step.status in (StepStatus.RUNNING, StepStatus.RETRYING):
            step.status, step.failure = StepStatus.FAILED, failure
