"""The relay of a run: the process that tells MLflow what the run's folder says.

MLflow has a copy, the folder the truth: a relay that fails or is late costs a warning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from crucible.engines.local.pool import Ended
from crucible.engines.local.protocol import Job
from crucible.engines.local.run import Run
from crucible.engines.local.verdict import StopReason

TRACKING_VARIABLE = "CRUCIBLE_TRACKING"
"""``off``: no relay."""
_JOB = "relay"
_MODULE = "crucible.tracking.relay"
_DELAY_SECONDS = 2.0
"""A run whose steps are over sooner, as those of a cached one are, is told to MLflow behind its
end: importing mlflow takes seconds of CPU that the steps, or the release, can use."""
_PATIENCE_SECONDS = 120.0
"""How long the relay may go on after the run's end."""


class Relaying:
    """Starts the relay when the run is a few seconds old and sees it to its end."""

    def __init__(self, run: Run) -> None:
        self._run = run
        wanted = os.environ.get(TRACKING_VARIABLE) != "off"
        self._start_at = time.monotonic() + _DELAY_SECONDS if wanted else None
        """None when it was started, or is not wanted."""

    def wake_at(self) -> float | None:
        """When to `advance` even if nothing has happened, by the monotonic clock."""
        return self._start_at

    def advance(self) -> None:
        """Start the relay if it is time."""
        if self._start_at is not None and time.monotonic() >= self._start_at:
            self._start()

    def take(self, ended: Ended) -> bool:
        """Note the relay's end; False if the process was another's."""
        if ended.job_id != _JOB:
            return False
        if ended.exited.exit_code and ended.stopped is None:
            log_path = self._run.run_dir.job_log(_JOB)
            self._run.warn(
                f"MLflow does not have all of this run: the relay failed, see {log_path}"
            )
        return True

    def finish(self, hurry: Callable[[], bool]) -> None:
        """Wait until MLflow has been told the run's end, or ``hurry`` or patience ends it."""
        pool = self._run.pool
        if self._start_at is not None and not hurry():
            self._start()
        until: float | None = time.monotonic() + _PATIENCE_SECONDS
        while _JOB in pool:
            if until is not None and (hurry() or time.monotonic() >= until):
                until = None
                pool.stop(_JOB, StopReason.CANCELLED)
            for ended in pool.wait(until):
                self.take(ended)

    def _start(self) -> None:
        self._start_at = None
        run_dir = self._run.run_dir
        self._run.pool.start(
            Job(
                id=_JOB,
                module=_MODULE,
                argv=("--run-dir", str(run_dir.path)),
                environ=dict(os.environ),
                log_path=str(run_dir.job_log(_JOB)),
            )
        )
