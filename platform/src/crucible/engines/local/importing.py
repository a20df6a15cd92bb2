"""Imports of a run: each is brought into the store once, before the steps that need it."""

from __future__ import annotations

import os

from crucible.artifacts.manifest import ArtifactRef
from crucible.engines.local import schedule
from crucible.engines.local.logfile import tail
from crucible.engines.local.pool import Ended
from crucible.engines.local.protocol import Job
from crucible.engines.local.run import Run
from crucible.engines.local.verdict import StopReason
from crucible.engines.state import Failure, FailureCause, StepStatus
from crucible.plan.model import PlanStep
from crucible.sdk.failure import read_failure

_MODULE = "crucible.engines.local.imports"


class Importing:
    """Starts a process per import that some waiting step needs."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._running: dict[str, str] = {}
        """URI by job id."""

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    def advance(self) -> None:
        """Start what is needed and neither there nor under way."""
        run = self._run
        for step in self._waiting():
            for wanted in schedule.imports_of(step):
                if (
                    wanted.uri not in run.history.imports
                    and wanted.uri not in self._running.values()
                ):
                    self._start(wanted.uri)

    def stop_all(self) -> None:
        """Ask every import to end."""
        for job_id in self._running:
            self._run.pool.stop(job_id, StopReason.CANCELLED)

    def take(self, ended: Ended) -> bool:
        """Record the end of an import; False if the process was no import."""
        uri = self._running.pop(ended.job_id, None)
        if uri is None:
            return False
        run = self._run
        if ended.exited.exit_code == 0:
            digest = ArtifactRef.read(run.run_dir.import_reference(uri)).digest
            run.record("import.done", uri=uri, digest=digest)
        elif ended.stopped is None:
            failure = self._failure(uri, ended.exited.exit_code)
            for step in self._waiting():
                if any(wanted.uri == uri for wanted in schedule.imports_of(step)):
                    run.end_step(step.id, StepStatus.FAILED, failure=failure)
        return True

    def _waiting(self) -> list[PlanStep]:
        steps = self._run.history.state.steps
        return [s for s in self._run.plan.steps if steps[s.id].status is StepStatus.PENDING]

    def _start(self, uri: str) -> None:
        run = self._run
        reference = run.run_dir.import_reference(uri)
        reference.parent.mkdir(exist_ok=True)
        run.run_dir.import_failure(uri).unlink(missing_ok=True)
        job = Job(
            id=f"import {uri}",
            module=_MODULE,
            argv=(str(run.run_dir.path), uri),
            environ=dict(os.environ),
            log_path=str(reference.with_suffix(".log")),
        )
        self._running[job.id] = uri
        run.pool.start(job)

    def _failure(self, uri: str, exit_code: int) -> Failure:
        log_tail = tail(self._run.run_dir.import_reference(uri).with_suffix(".log"))
        written = read_failure(self._run.run_dir.import_failure(uri))
        if written is None:
            message = f"importing {uri} ended with exit code {exit_code}"
            fix = "See the log lines, then resume the run."
            return Failure(FailureCause.RAISED, message, fix, exit_code, log_tail)
        cause = FailureCause(written.cause)
        return Failure(cause, written.message, written.fix, exit_code, log_tail)
