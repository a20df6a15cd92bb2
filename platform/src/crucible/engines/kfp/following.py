"""Looking at a run again and again: only what is new is read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crucible.engines.kfp.api import KfpRun, PipelinesApi
from crucible.engines.kfp.runstate import run_state
from crucible.engines.live import LiveStep
from crucible.engines.state import RunState, StepState, StepStatus
from crucible.errors import RunNotFound, TemporaryError
from crucible.journal import Journal, LineReader
from crucible.plan.model import Plan

logger = logging.getLogger(__name__)


@dataclass
class RunFollower:
    """One run. `look` costs a request to KFP, a listing of the journal, and what is new in it."""

    api: PipelinesApi
    journal: Journal
    plan: Plan
    _live: dict[tuple[str, int], _LiveStep] = field(default_factory=dict)
    _kfp: KfpRun | None = None

    @property
    def kfp(self) -> KfpRun | None:
        """The newest run of KFP, as of the last look."""
        return self._kfp

    def look(self) -> RunState:
        """The state now, in objects of its own.

        Raises:
            ClusterUnavailable, StoreUnavailable: no answer, after retries.
        """
        self._kfp = self._newest()  # first: what an ended run's pods wrote is complete then
        state = run_state(self.plan, self.journal.events(), self._kfp)
        for step in state.steps.values():
            if step.attempt and step.status not in (StepStatus.CACHED, StepStatus.SKIPPED):
                self._look_at(step)
        return state

    def _newest(self) -> KfpRun | None:
        claims = self.journal.claims()
        if not claims:
            return None
        newest = str(max(claims, key=lambda claim: claim.get("generation", 1))["kfp_run_id"])
        try:
            return self.api.get_run(newest)
        except RunNotFound:
            return None

    def _look_at(self, step: StepState) -> None:
        key = (step.step_id, step.attempt)
        live = self._live.get(key)
        if live is None:
            stream = self.journal.step_events(step.step_id, step.attempt)
            live = self._live[key] = _LiveStep(LineReader(stream))
        if not live.is_over:
            live.is_over = step.status.is_final
            try:
                live.read()
            except TemporaryError as error:
                logger.warning("the progress of %s is not known: %s", step.step_id, error)
        step.progress, step.last_metrics = live.live.progress, dict(live.live.metrics)


@dataclass
class _LiveStep:
    """An attempt's event stream, and what was read of it."""

    lines: LineReader
    live: LiveStep = field(default_factory=LiveStep)
    is_over: bool = False

    def read(self) -> None:
        self.live.take(_events(self.lines.read()))


def _events(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # torn by a full disk
            continue
        if isinstance(event, dict) and "type" in event:
            yield event
