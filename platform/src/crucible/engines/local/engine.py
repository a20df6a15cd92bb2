"""The local engine: runs are folders, each with a supervisor process of its own while it runs.

Nothing here runs a step. ``submit`` and ``resume`` take the run's lock and hand it, locked, to the
supervisor that they start; everything else reads files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from crucible.artifacts.store import Store, open_store
from crucible.engines.explain import Explanation, explain
from crucible.engines.foreign import CompiledPipeline
from crucible.engines.local import launch
from crucible.engines.local.ending import cancel_run
from crucible.engines.local.logfile import read_lines
from crucible.engines.local.machine import Machine, check_runs_here
from crucible.engines.local.run_dir import RunDir, is_run_id
from crucible.engines.local.status import RunView
from crucible.engines.state import RunState, StepState, StepStatus
from crucible.errors import CrucibleError, RunNotFound, UserError
from crucible.plan.model import Plan
from crucible.sdk.suggestion import did_you_mean
from crucible.settings import Settings

_LOOK_SECONDS = 0.1


class LocalEngine:
    """Implements `crucible.engines.base.Engine` with processes on this machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def images(self) -> None:
        """None: steps are processes of this installation."""

    @property
    def store(self) -> Store:
        """The installation's artifact store."""
        return open_store(self._settings.store_uri)

    def submit(self, plan: Plan, *, run_id: str | None = None) -> str:
        """Start ``plan`` in the background and return its run id once the run is durable.

        Submitting a plan again under the same id changes nothing.

        Raises:
            UserError: the machine cannot run it, or the id belongs to another plan.
            StoreUnavailable, ArtifactError: the artifact store cannot be used; says why.
            CrucibleError: the run's folder cannot be written.
        """
        check_runs_here(plan, Machine.load(os.environ))
        open_store(self._settings.store_uri).check()
        run_id = launch.new_run_id(plan.name) if run_id is None else run_id
        if not is_run_id(run_id):
            raise UserError(f"run id {run_id!r}: use up to 128 letters, digits and . _ - only.")
        run_dir = RunDir(self._settings.runs_dir / run_id)
        try:
            lock = launch.create_run(run_dir, plan)
        except OSError as error:
            raise CrucibleError(
                f"run {run_id} cannot be written to {run_dir.path}: {error.strerror}. "
                "Free space or set CRUCIBLE_HOME to another folder, then submit again."
            ) from error
        if lock is not None:
            launch.start_supervisor(run_dir, lock, self._settings)
        return run_id

    def submit_compiled(self, compiled: CompiledPipeline, *, name: str | None = None) -> str:
        """Refuse: a compiled pipeline is containers, and this engine runs processes."""
        raise UserError(
            f"{compiled.name} is compiled, and only a cluster can run it. Choose one with "
            "platformctl context use NAME, or submit the pipeline file that it was compiled from."
        )

    def state(self, run_id: str) -> RunState:
        """Where the run is, read from its folder."""
        return RunView(self._find(run_id)).look()

    def states(self, limit: int | None = None) -> list[RunState]:
        """Runs, newest first, without the progress and metrics of their steps."""
        return [RunView(run_dir).look(progress=False) for run_dir in self._run_dirs()[:limit]]

    def plan_of(self, run_id: str) -> Plan:
        """The plan as it was submitted."""
        return self._find(run_id).read_plan()

    def last_plan(self, pipeline: str) -> tuple[str, Plan] | None:
        """Run id and plan of the pipeline's newest run."""
        for run_dir in self._run_dirs():
            plan = run_dir.read_plan()
            if plan.name == pipeline:
                return run_dir.run_id, plan
        return None

    def watch(self, run_id: str) -> Iterator[RunState]:
        """A state after each change, at most ten a second, ending with a final one."""
        view = RunView(self._find(run_id))
        shown: RunState | None = None
        shown_at = -_LOOK_SECONDS
        while shown is None or not shown.status.is_final:
            state = view.look()
            due = time.monotonic() - shown_at >= _LOOK_SECONDS
            if state.status.is_final or (due and state != shown):
                shown, shown_at = state, time.monotonic()
                yield state
            else:
                view.wait(_LOOK_SECONDS)

    def logs(self, run_id: str, step_id: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of the newest attempt's log, without line ends.

        With ``follow`` what comes is waited for, further attempts included, until the step ends.

        Raises:
            UserError: the run has no such step.
        """
        view = RunView(self._find(run_id))
        attempt = _step(view, step_id).attempt or 1
        while True:
            yield from _attempt_lines(view, step_id, attempt, follow=follow)
            while follow and _step(view, step_id).attempt <= attempt:
                if _is_over(view, step_id):
                    return
                time.sleep(_LOOK_SECONDS)
            if not follow:
                return
            attempt += 1

    def explain(self, run_id: str) -> Explanation:
        """Why the run is where it is."""
        return explain(self.state(run_id))

    def cancel(self, run_id: str) -> RunState:
        """End all processes of the run, the exit step after it has run; returns when none is left.

        Calling it again meanwhile ends the exit step, too. A supervisor that hangs is killed.
        """
        run_dir = self._find(run_id)
        cancel_run(run_dir)
        return RunView(run_dir).look()

    def resume(self, run_id: str, *, from_step: str | None = None) -> str:
        """Continue a failed, cancelled or interrupted run in place; done steps are kept.

        With ``from_step`` that step and all that depend on it run again, without the cache.

        Raises:
            UserError: the run is running, has succeeded, or has no such step.
            StoreUnavailable: the artifact store does not answer.
        """
        run_dir = self._find(run_id)
        plan = run_dir.read_plan()
        known = [step.id for step in plan.steps]
        if from_step is not None and from_step not in known:
            hint = did_you_mean(from_step, known)
            raise UserError(f"run {run_dir.run_id} has no step {from_step!r}. {hint}")
        check_runs_here(plan, Machine.load(os.environ))
        store = open_store(self._settings.store_uri)
        lock = launch.lock_idle_run(run_dir)
        try:
            launch.reset_run(run_dir, plan, store, from_step)
        except BaseException:
            os.close(lock)
            raise
        launch.start_supervisor(run_dir, lock, self._settings)
        return run_dir.run_id

    def retry(self, run_id: str) -> str:
        """Run the failed steps again, and what depends on them: what `resume` does."""
        return self.resume(run_id)

    def _run_dirs(self) -> list[RunDir]:
        """Folders of all runs, newest first."""
        if not self._settings.runs_dir.is_dir():
            return []
        found = [
            (path.stat().st_mtime_ns, path.parent)
            for path in self._settings.runs_dir.glob("*/plan.json")
            if is_run_id(path.parent.name)
        ]
        return [RunDir(path) for _, path in sorted(found, reverse=True)]

    def _find(self, run_id: str) -> RunDir:
        """The run of that id, or the only one whose id begins with it."""
        names = [run_dir.run_id for run_dir in self._run_dirs()]
        matching = [name for name in names if name == run_id] or [
            name for name in names if run_id and name.startswith(run_id)
        ]
        if len(matching) > 1:
            listed = ", ".join(matching[:5])
            raise RunNotFound(f"{run_id!r} is the beginning of {len(matching)} run ids: {listed}.")
        if not matching:
            hint = did_you_mean(run_id, names)
            raise RunNotFound(
                f"no run {run_id!r} in {self._settings.runs_dir}. {hint} See platformctl runs."
            )
        return RunDir(self._settings.runs_dir / matching[0])


def _step(view: RunView, step_id: str) -> StepState:
    steps = view.look().steps
    if step_id not in steps:
        run_id = view.run_dir.run_id
        raise UserError(f"run {run_id} has no step {step_id!r}. {did_you_mean(step_id, steps)}")
    return steps[step_id]


def _is_over(view: RunView, step_id: str) -> bool:
    """True if no further attempt of the step comes."""
    state = view.look()
    return state.steps[step_id].status.is_final or state.status.is_final


def _attempt_lines(view: RunView, step_id: str, attempt: int, *, follow: bool) -> Iterator[str]:
    def is_complete() -> bool:
        state = view.look()
        step = state.steps[step_id]
        waits = step.attempt < attempt and not state.status.is_final
        runs = step.attempt == attempt and step.status is StepStatus.RUNNING
        return not (waits or runs)

    path = view.run_dir.attempt(step_id, attempt).log
    for line in read_lines(path, is_over=is_complete if follow else None):
        if line is None:
            time.sleep(_LOOK_SECONDS)
        else:
            yield line
