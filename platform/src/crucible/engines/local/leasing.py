"""Keeps what a long run has made from garbage collection, also by others who share the store."""

from __future__ import annotations

import time

from crucible.artifacts.backend import GRACE_SECONDS
from crucible.engines.local.run import Run
from crucible.errors import CrucibleError

_INTERVAL_SECONDS = GRACE_SECONDS / 3
"""Fresh artifacts are safe for the whole grace period: a run shorter than this leases nothing."""


class Leasing:
    """Leases all outputs so far now and then, and gives them up when the run has succeeded."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._next_at = time.monotonic() + _INTERVAL_SECONDS

    def wake_at(self) -> float:
        """When to `advance` even if nothing has happened, by the monotonic clock."""
        return self._next_at

    def advance(self) -> None:
        """Lease what there is if it is time; an error is a warning."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _INTERVAL_SECONDS
        run = self._run
        steps = run.history.state.steps.values()
        digests = {digest for step in steps for digest in step.outputs.values()}
        try:
            run.store.lease(run.run_dir.run_id, digests)
        except CrucibleError as error:
            run.warn(f"outputs are not protected from garbage collection: {error.message}")

    def release(self) -> None:
        """Give everything up; what cannot be given up now costs space until somebody does."""
        try:
            self._run.store.release_lease(self._run.run_dir.run_id)
        except CrucibleError as error:
            self._run.warn(f"the run's leases are still in the store: {error.message}")
