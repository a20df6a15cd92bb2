"""What the parts of a supervisor share: one run, its events and its processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from crucible.artifacts.store import Store, open_store
from crucible.engines.events import EventLog, History, failure_to_json
from crucible.engines.local.machine import Machine
from crucible.engines.local.pool import ProcessPool
from crucible.engines.local.run_dir import RunDir
from crucible.engines.state import Failure, StepStatus
from crucible.plan.model import Plan
from crucible.settings import Settings


@dataclass
class Run:
    """A run under way."""

    run_dir: RunDir
    plan: Plan
    settings: Settings
    machine: Machine
    log: EventLog
    history: History
    pool: ProcessPool

    @cached_property
    def store(self) -> Store:
        """The artifact store.

        Raises:
            StoreUnavailable: it does not answer.
        """
        return open_store(self.settings.store_uri)

    def record(self, type_: str, **fields: object) -> None:
        """Make an event durable, then let it count.

        Raises:
            OSError: it could not be written; nothing has changed.
        """
        self.history.apply(self.log.append(type_, **fields))

    def end_step(
        self,
        step_id: str,
        status: StepStatus,
        *,
        reason: str = "",
        outputs: Mapping[str, str] | None = None,
        failure: Failure | None = None,
        **fields: object,
    ) -> None:
        """Record the end of a step."""
        self.record(
            "step.ended",
            step=step_id,
            attempt=self.history.state.steps[step_id].attempt,
            status=status,
            reason=reason,
            outputs=dict(outputs or {}),
            failure=failure and failure_to_json(failure),
            **fields,
        )

    def warn(self, message: str) -> None:
        """Tell the user about something that was done otherwise than asked, once."""
        if message not in self.history.state.warnings:
            self.record("run.warning", message=message)
