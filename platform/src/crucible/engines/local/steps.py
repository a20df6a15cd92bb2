"""The steps of a run: which start, how they end, which are tried again."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crucible.artifacts.manifest import ArtifactRef
from crucible.engines.events import failure_to_json
from crucible.engines.local import schedule
from crucible.engines.local.attempt import (
    checkpoints_dir,
    prepare,
    read_metric,
    references,
    step_job,
)
from crucible.engines.local.machine import GIB
from crucible.engines.local.pool import Ended
from crucible.engines.local.run import Run
from crucible.engines.local.run_dir import AttemptDir
from crucible.engines.local.verdict import StopReason, Verdict, failure_of_engine, judge
from crucible.engines.state import Failure, StepStatus
from crucible.errors import CrucibleError
from crucible.plan.model import PlanStep
from crucible.sdk.retry import Backoff


@dataclass(frozen=True)
class _RunningStep:
    step: PlanStep
    attempt_dir: AttemptDir
    gpus: tuple[str, ...]


class Steps:
    """Runs the steps of a plan within the machine's budget."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._running: dict[str, _RunningStep] = {}
        """By job id."""
        self._approved: set[str] = set()
        """Ids of steps whose conditions hold; they are read once."""
        self._rng = random.Random()

    @property
    def are_running(self) -> bool:
        return bool(self._running)

    @property
    def are_over(self) -> bool:
        """True if no step, the exit step apart, can still start or end."""
        steps = self._run.history.state.steps
        return all(steps[step.id].status.is_final for step in self._run.plan.steps)

    def advance(self) -> None:
        """Skip what cannot run any more and start what can."""
        run = self._run
        settled = False
        while not settled:
            self._skip_what_cannot_run()
            ready = list(schedule.waiting_steps(run.plan, run.history, time.time()))
            held_back = [step for step in ready if not self._conditions_hold(step)]
            running = [each.step for each in self._running.values()]
            started = [
                self.start(step, references(step, run.run_dir, run.history))
                for step in schedule.steps_with_room(ready, running, run.machine)
                if step not in held_back
            ]
            settled = not held_back and all(started)  # else there may be more to skip

    def start(self, step: PlanStep, inputs: Mapping[str, Sequence[Path]]) -> bool:
        """Start the next attempt of ``step``; False if it has ended without a process."""
        run = self._run
        if self._take_from_cache(step):
            return False
        if not run.machine.fits_alone(step.resources):
            run.warn(
                f"{step.id} asks for {step.resources.cpus:g} cpus and "
                f"{step.resources.memory_gib:g} GiB; this machine gives {run.machine.cpus:g} and "
                f"{run.machine.memory_gib:.1f}. It runs alone."
            )
        if step.id in run.history.fresh and step.id not in run.history.tries:
            shutil.rmtree(checkpoints_dir(step, run.settings), ignore_errors=True)
        try:
            attempt_dir = prepare(step, run.run_dir, run.history, inputs)
        except CrucibleError as error:
            run.end_step(step.id, StepStatus.FAILED, failure=failure_of_engine(error))
            return False
        run.record("step.started", step=step.id, attempt=int(attempt_dir.path.name))
        gpus = self._free_gpus(step.resources.gpus)
        job = step_job(step, attempt_dir, run.settings, gpus)
        self._running[job.id] = _RunningStep(step, attempt_dir, gpus)
        timeout = step.timeout_minutes
        run.pool.start(
            job,
            declared_bytes=step.resources.memory_gib * GIB,
            timeout_seconds=None if timeout is None else timeout * 60,
        )
        return True

    def stop_all(self) -> None:
        """Ask every running step to end."""
        for job_id in self._running:
            self._run.pool.stop(job_id, StopReason.CANCELLED)

    def cancel_waiting(self) -> None:
        """Record that what has not ended will not run."""
        for step in self._run.plan.all_steps:
            if not self._run.history.state.steps[step.id].status.is_final:
                reason = "the run was cancelled before it could run"
                self._run.end_step(step.id, StepStatus.CANCELLED, reason=reason)

    def take(self, ended: Ended) -> bool:
        """Record the end of a step's process; False if the process was no step's."""
        running = self._running.pop(ended.job_id, None)
        if running is None:
            return False
        step = running.step
        verdict = judge(step, running.attempt_dir, ended.exited, ended.stopped)
        memory_gib = round(ended.peak_memory_bytes / GIB, 3)
        if verdict.failure is None and not verdict.cancelled:
            self._succeed(step, verdict, memory_gib)
        elif verdict.cancelled:
            self._run.end_step(step.id, StepStatus.CANCELLED, peak_memory_gib=memory_gib)
        elif verdict.failure is not None:
            if verdict.is_temporary and ended.stopped is None and self._may_retry(step):
                self._retry_later(step, verdict.failure)
            else:
                failed = StepStatus.FAILED
                failure = verdict.failure
                self._run.end_step(step.id, failed, failure=failure, peak_memory_gib=memory_gib)
        return True

    def _skip_what_cannot_run(self) -> None:
        history = self._run.history
        for step in self._run.plan.steps:
            if history.state.steps[step.id].status is StepStatus.PENDING:
                reason = schedule.skip_reason(step, history)
                if reason is not None:
                    self._run.end_step(step.id, StepStatus.SKIPPED, reason=reason)

    def _take_from_cache(self, step: PlanStep) -> bool:
        """End ``step`` with the outputs of an earlier run, if there are any.

        Its process would look, too, but only after the step server has imported what it needs.
        """
        run = self._run
        if not step.cache_enabled or step.id in run.history.fresh or step.id in run.history.tries:
            return False
        outputs_dir = run.run_dir.attempt(
            step.id, run.history.state.steps[step.id].attempt
        ).outputs_dir
        try:
            entry = run.store.cache_get(step.fingerprint)
            if entry is None or not entry.outputs.keys() <= step.outputs.keys():
                return False
            for name, digest in entry.outputs.items():
                reference = ArtifactRef.of(run.store.manifest(digest), run.store.uri)
                reference.write(outputs_dir / name)
        except CrucibleError:
            return False  # the step's own process meets the same fault and says so
        self._succeed(step, Verdict(outputs=entry.outputs, cached_from=entry.run_id))
        return True

    def _succeed(self, step: PlanStep, verdict: Verdict, memory_gib: float | None = None) -> None:
        cached = verdict.cached_from
        self._run.end_step(
            step.id,
            StepStatus.CACHED if cached else StepStatus.SUCCEEDED,
            outputs=verdict.outputs,
            reason=f"run {cached}" if cached else "",
            cached_from=cached,
            peak_memory_gib=memory_gib,
        )

    def _may_retry(self, step: PlanStep) -> bool:
        return self._run.history.tries[step.id] <= step.retry.limit

    def _retry_later(self, step: PlanStep, failure: Failure) -> None:
        retry = step.retry
        backoff = Backoff(
            retry.limit, retry.backoff_seconds, retry.backoff_factor, retry.max_backoff_seconds
        )
        self._run.record(
            "step.retrying",
            step=step.id,
            attempt=self._run.history.state.steps[step.id].attempt,
            failure=failure_to_json(failure),
            delay_seconds=backoff.delay_seconds(self._run.history.tries[step.id], self._rng),
        )

    def _conditions_hold(self, step: PlanStep) -> bool:
        """True if ``step`` is to run; records its end if not."""
        run = self._run
        if step.id in self._approved:
            return True
        try:
            failed = schedule.failed_condition(
                step, lambda wanted: read_metric(wanted, run.run_dir, run.history)
            )
        except CrucibleError as error:
            run.end_step(step.id, StepStatus.FAILED, failure=failure_of_engine(error))
            return False
        if failed is not None:
            reason = schedule.condition_text(*failed)
            run.end_step(step.id, StepStatus.SKIPPED, reason=reason)
            return False
        self._approved.add(step.id)
        return True

    def _free_gpus(self, number: int) -> tuple[str, ...]:
        taken = {gpu for running in self._running.values() for gpu in running.gpus}
        return tuple(gpu for gpu in self._run.machine.gpus if gpu not in taken)[:number]
