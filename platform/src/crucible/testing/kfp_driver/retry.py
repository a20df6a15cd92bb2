"""When Argo starts the pod of a task again.

Source: ``processNodeRetries`` of Argo Workflows, and what KFP's compiler makes of a
``retryPolicy``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_NO_BACKOFF = "0s"


@dataclass(frozen=True)
class Retries:
    """The ``retryPolicy`` of a task as Argo reads it."""

    limit: int
    first_seconds: float
    factor: float
    max_duration_seconds: float
    """From the start of the first attempt: nothing is tried again after it. This is not a limit on
    a single wait."""
    phases: frozenset[str]
    """Of a pod that is tried again: KFP leaves Argo's default, which is ``failed`` alone."""

    @classmethod
    def of(cls, task: Json, phases: frozenset[str]) -> Retries | None:
        """Of a task; None if it is not tried again."""
        policy = task.get("retryPolicy")
        if policy is None:
            return None
        return cls(
            limit=int(policy.get("maxRetryCount", 0)),
            first_seconds=_seconds(policy.get("backoffDuration", _NO_BACKOFF)),
            factor=float(policy.get("backoffFactor", 0.0)),
            max_duration_seconds=_seconds(policy.get("backoffMaxDuration", _NO_BACKOFF)),
            phases=phases,
        )

    def wait_seconds(
        self, num_attempts: int, phase: str, since_first_seconds: float
    ) -> float | None:
        """How long to wait before the next attempt; None if there is none.

        Args:
            num_attempts: that were made.
            phase: of the last one.
            since_first_seconds: how long ago the first one began.
        """
        if phase not in self.phases or num_attempts > self.limit:
            return None
        wait = self.first_seconds
        if self.factor > 0:
            wait *= int(self.factor) ** (num_attempts - 1)
        return wait if since_first_seconds + wait <= self.max_duration_seconds else None


def _seconds(duration: str) -> float:
    """KFP passes whole seconds on and drops what is below."""
    return float(int(float(duration.removesuffix("s"))))
