"""What comes after the steps: the release, the run's record, the exit step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from crucible.engines.local.attempt import references
from crucible.engines.local.logfile import tail
from crucible.engines.local.pool import Ended
from crucible.engines.local.protocol import Job
from crucible.engines.local.record import write_record
from crucible.engines.local.run import Run
from crucible.engines.local.steps import Steps
from crucible.engines.local.verdict import StopReason, failure_of_engine
from crucible.engines.state import RunStatus, StepStatus
from crucible.errors import EXIT_TEMPORARY, CrucibleError
from crucible.plan.model import PlanStep
from crucible.sdk.catalogue import load_component
from crucible.sdk.component import slots_of
from crucible.sdk.types import RunRecord

_RELEASE_MODULE = "crucible.registry.release"
_RELEASE_TRIES = 3
_RELEASE_BACKOFF_SECONDS = 5.0
_RELEASE_TIMEOUT_SECONDS = 600.0
"""It reads metrics and talks to MLflow; one that takes longer waits for something that is not."""


class Closing:
    """Goes on when no step is left to run."""

    def __init__(self, run: Run, steps: Steps) -> None:
        self._run = run
        self._steps = steps
        self._release_tries = 0
        self._release_running = False
        self._release_at = 0.0
        """When the release may start, by the monotonic clock."""
        self._release_failure = ""
        self._inputs: Mapping[str, Sequence[Path]] | None = None

    def advance(self, stopped: RunStatus | None, *, hurry: bool) -> bool:
        """Start what comes next; True when nothing is left but the run's end.

        Args:
            stopped: how the run ends if it was told to; then nothing is released.
            hurry: leave the exit step out, too.
        """
        if self._release_running or self._steps.are_running:
            return False
        if stopped is None and self._wants_release():
            self._advance_release()
            return False
        step = self._run.plan.on_exit
        if step is None or hurry or stopped is RunStatus.INTERRUPTED:
            return True
        return self._advance_exit_step(step)

    def stop(self) -> None:
        """Ask a running release to end."""
        if self._release_running:
            self._run.pool.stop("release", StopReason.CANCELLED)

    def wake_at(self) -> float | None:
        """When to `advance` even if nothing has happened, by the monotonic clock."""
        if self._wants_release() and not self._release_running and self._steps.are_over:
            return self._release_at
        return None

    def outcome(self) -> tuple[RunStatus, str]:
        """How a run that was left alone ends.

        A failed exit step is told and changes nothing: the models are trained, the release is made.
        """
        exit_step = self._run.plan.on_exit
        failed = [step.step_id for step in self._run.history.state.failed_steps]
        exit_failed = exit_step is not None and exit_step.id in failed
        if len(failed) > exit_failed:
            return RunStatus.FAILED, f"{', '.join(failed)} failed"
        if self._release_failure:
            return RunStatus.FAILED, self._release_failure
        told = "the exit step failed; everything else is done" if exit_failed else ""
        return RunStatus.SUCCEEDED, told

    def take(self, ended: Ended) -> bool:
        """Record the end of the release; False if the process was another's."""
        if ended.job_id != "release":
            return False
        self._release_running = False
        run_dir = self._run.run_dir
        code = ended.exited.exit_code
        if code == 0:
            self._run.record("release.decided", release=json.loads(run_dir.release.read_text()))
        elif ended.stopped is StopReason.TIMEOUT:
            minutes = _RELEASE_TIMEOUT_SECONDS / 60
            self._release_failure = f"release failed: not done after {minutes:g} minutes"
        elif ended.stopped is None:
            if code == EXIT_TEMPORARY and self._release_tries < _RELEASE_TRIES:
                self._release_at = time.monotonic() + _RELEASE_BACKOFF_SECONDS * self._release_tries
            else:
                last = tail(run_dir.job_log("release"), 1)
                self._release_failure = f"release failed: {' '.join(last) or f'exit code {code}'}"
        return True

    def _wants_release(self) -> bool:
        """True if all steps went well and the model is there but not yet registered."""
        run = self._run
        release = run.plan.release
        if release is None or run.history.state.release or self._release_failure:
            return False
        states = [run.history.state.steps[step.id] for step in run.plan.steps]
        good = all(s.status.has_outputs or s.status is StepStatus.SKIPPED for s in states)
        needed = {release.model.step_id, release.gate.metrics.step_id}
        if release.gate.predictions is not None:
            needed.add(release.gate.predictions.step_id)
        skipped = [s.step_id for s in states if s.step_id in needed and not s.status.has_outputs]
        if good and skipped:
            run.warn(f"nothing was released: {', '.join(sorted(skipped))} did not run")
        return good and not skipped

    def _advance_release(self) -> None:
        run = self._run
        now = time.monotonic()
        if now < self._release_at:
            return
        run.run_dir.release.unlink(missing_ok=True)
        self._release_running = True
        self._release_tries += 1
        run.pool.start(
            Job(
                id="release",
                module=_RELEASE_MODULE,
                argv=("--run-dir", str(run.run_dir.path)),
                environ=dict(os.environ),
                log_path=str(run.run_dir.job_log("release")),
            ),
            timeout_seconds=_RELEASE_TIMEOUT_SECONDS,
        )

    def _advance_exit_step(self, step: PlanStep) -> bool:
        history = self._run.history
        state = history.state.steps[step.id]
        if state.status.is_final:
            return True
        if state.status is StepStatus.RETRYING and history.retry_at[step.id] > time.time():
            return False
        try:
            if self._inputs is None:
                self._inputs = self._exit_inputs(step)
        except (CrucibleError, OSError) as error:
            self._run.end_step(step.id, StepStatus.FAILED, failure=failure_of_engine(error))
            return True
        return not self._steps.start(step, self._inputs)

    def _exit_inputs(self, step: PlanStep) -> dict[str, list[Path]]:
        """What there is of the exit step's inputs, and the record of the run."""
        run = self._run
        inputs = references(step, run.run_dir, run.history)
        declared = slots_of(load_component(step.component).Inputs)
        slots = [slot.name for slot in declared if slot.type.name == RunRecord.type_name]
        if slots:
            write_record(run.run_dir, run.plan, run.history, run.store)
            inputs |= {slot: [run.run_dir.record_reference] for slot in slots}
        return inputs
