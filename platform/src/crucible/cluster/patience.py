"""How often a request is tried again, and when it is given up."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass

from crucible.errors import CrucibleError
from crucible.sdk.retry import Backoff

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a cluster may fail before it counts as unavailable."""

    budget_seconds: float = 60.0
    """From the first failure of a request to the last try. An API server that restarts takes ten
    to forty seconds."""
    connect_seconds: float = 5.0
    read_seconds: float = 30.0
    """Until the first byte of an answer, and between two."""
    backoff: Backoff = Backoff(first_seconds=0.5, max_seconds=10.0)  # noqa: RUF009 - it is frozen


HURRIED = Patience(budget_seconds=3.0, connect_seconds=3.0, read_seconds=10.0)
"""For checks, where an answer that takes long is a finding."""


class Trials:
    """The tries of one request."""

    def __init__(self, patience: Patience, action: str) -> None:
        self._patience = patience
        self._action = action
        self._rng = random.Random()
        self._failed = 0
        self._first_failure: float | None = None
        self._renewed = False

    def may_renew(self) -> bool:
        """True the first time: credentials that are refused twice are no good."""
        renewed, self._renewed = self._renewed, True
        return not renewed

    def wait(self, error: CrucibleError, at_least_seconds: float, cause: Exception) -> None:
        """Return when it is time for the next try.

        Args:
            error: of the last try.
            at_least_seconds: as the server asked.
            cause: what ``error`` stands for.

        Raises:
            CrucibleError: ``error``, if the next try would come after the budget is spent.
        """
        now = time.monotonic()
        self._failed += 1
        if self._first_failure is None:
            self._first_failure = now
            level = logging.INFO
        else:
            level = logging.DEBUG
        spent = now - self._first_failure
        backoff_seconds = self._patience.backoff.delay_seconds(self._failed, self._rng)
        pause_seconds = max(at_least_seconds, backoff_seconds)
        if spent + pause_seconds > self._patience.budget_seconds:
            if self._failed > 1:
                tried = f"Tried {self._failed} times in {spent:.0f} s."
                error = type(error)(f"{error.message} {tried}")
            raise error from cause
        logger.log(level, "%s Next try in %.1f s", error.message, pause_seconds)
        time.sleep(pause_seconds)
