"""Loss curves and progress of a running stage. What depends on time leaves here, not in outputs."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from crucible_components.training.loop import StepValues

if TYPE_CHECKING:
    from crucible.sdk.context import ProgressSink, TrackingSink

logger = logging.getLogger(__name__)

_CURVE_POINTS = 200
"""About as many points as a curve on a page shows."""
_LOG_SECONDS = 15.0


class Telemetry:
    """A `Monitor`: progress at every step, curve points at even distances, log lines in time."""

    def __init__(self, num_steps: int, progress: ProgressSink, tracking: TrackingSink) -> None:
        self._num_steps = num_steps
        self._progress, self._tracking = progress, tracking
        self._every = max(1, num_steps // _CURVE_POINTS)
        self._values: list[StepValues] = []
        self._logged_at = time.monotonic()

    def __call__(self, done: int, values: StepValues) -> None:
        self._values.append(values)
        loss = values.losses["answer"]
        self._progress.update(done, self._num_steps, unit="steps", message=f"loss {loss:.3f}")
        if done % self._every == 0 or done == self._num_steps:
            self._tracking.log_metrics(_summary(self._values), step=done)
            self._values.clear()
        if time.monotonic() - self._logged_at >= _LOG_SECONDS or done == self._num_steps:
            self._logged_at = time.monotonic()
            rate = values.num_targets / max(values.seconds, 1e-9)
            logger.info(
                "step %d of %d, answer loss %.3f, %.0f supervised tokens/s, %.1f min left",
                done,
                self._num_steps,
                loss,
                rate,
                (self._num_steps - done) * values.seconds / 60,
            )


def _summary(steps: list[StepValues]) -> dict[str, float]:
    """Means over the steps since the last point."""
    names = steps[-1].losses
    seconds = sum(step.seconds for step in steps)
    return {
        **{f"loss/{n}": sum(s.losses.get(n, 0.0) for s in steps) / len(steps) for n in names},
        "grad_norm": sum(step.grad_norm for step in steps) / len(steps),
        "learning_rate": steps[-1].learning_rate,
        "supervised_tokens_per_second": sum(s.num_targets for s in steps) / max(seconds, 1e-9),
    }
