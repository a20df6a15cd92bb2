"""What MLflow shall show of a run: a fold over the plain events of its log.

The engine has its own, richer fold; this one keeps only what becomes a tag, a time or a status, and
imports no engine. Event names and fields are those of `crucible.engines.events`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crucible.errors import UserError
from crucible.plan.model import Plan
from crucible.plan.serialise import plan_from_json

_STEP_STATUS: Final = {
    "pending": "SCHEDULED",
    "running": "RUNNING",
    "retrying": "RUNNING",
    "succeeded": "FINISHED",
    "cached": "FINISHED",
    "skipped": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
}
_RUN_STATUS: Final = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
    "interrupted": "KILLED",
}


@dataclass
class StepView:
    """One step of a run."""

    step_id: str
    status: str = "pending"
    attempt: int = 0
    attempts: list[int] = field(default_factory=list)
    """All attempts that started, in order: each has its own event file."""
    started_at: float | None = None
    """Seconds since the epoch."""
    ended_at: float | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    """Manifest digest by output name."""
    failure: Mapping[str, Any] | None = None
    reason: str = ""
    peak_memory_gib: float | None = None

    @property
    def mlflow_status(self) -> str:
        return _STEP_STATUS[self.status]

    @property
    def deserves_run(self) -> bool:
        """True once there is something to show: a step that was skipped did nothing."""
        return bool(self.attempts) or self.status not in ("pending", "skipped")

    @property
    def is_final(self) -> bool:
        return self.status not in ("pending", "running", "retrying")


@dataclass
class RunView:
    """One run."""

    run_id: str = ""
    submitted_at: float | None = None
    ended_at: float | None = None
    status: str = "running"
    message: str = ""
    steps: dict[str, StepView] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    """Manifest digest by import URI."""
    release: Mapping[str, Any] | None = None

    @property
    def mlflow_status(self) -> str:
        return _RUN_STATUS.get(self.status, "RUNNING")

    @property
    def is_final(self) -> bool:
        return self.status in _RUN_STATUS

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one more event in; types it does not know change nothing."""
        match event["type"]:
            case "run.submitted":
                self.run_id, self.submitted_at = event["run_id"], event["time"]
            case "run.started":
                self.status, self.message, self.ended_at = "running", "", None
            case "run.resumed":
                self._resume(event)
            case "run.ended":
                self.status, self.message = event["status"], event.get("message", "")
                self.ended_at = event["time"]
            case "import.done":
                self.imports[event["uri"]] = event["digest"]
            case "release.decided":
                self.release = event["release"]
            case "step.started" | "step.retrying" | "step.ended":
                step_id = event["step"]
                step = self.steps.setdefault(step_id, StepView(step_id))
                _apply_to_step(step, event)

    def _resume(self, event: Mapping[str, Any]) -> None:
        self.status, self.message, self.ended_at, self.release = "running", "", None, None
        for step_id in event["reset"]:
            before = self.steps.get(step_id, StepView(step_id))
            self.steps[step_id] = StepView(
                step_id, attempt=before.attempt, attempts=before.attempts
            )


def read_plan(run_dir: Path) -> Plan:
    """The plan that ``run_dir`` executes.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = run_dir / "plan.json"
    try:
        return plan_from_json(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{run_dir}: not a run directory, it has no plan.json.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}. Submit the pipeline again.") from error


def _apply_to_step(step: StepView, event: Mapping[str, Any]) -> None:
    attempt = int(event["attempt"])
    step.attempt = attempt
    match event["type"]:
        case "step.started":
            step.status, step.failure, step.reason = "running", None, ""
            step.started_at = step.started_at or event["time"]
            if attempt not in step.attempts:
                step.attempts.append(attempt)
        case "step.retrying":
            step.status, step.failure = "retrying", event["failure"]
        case "step.ended":
            step.status, step.ended_at = event["status"], event["time"]
            step.outputs = dict(event.get("outputs") or {})
            step.failure = event.get("failure")
            step.reason = event.get("reason") or ""
            step.peak_memory_gib = event.get("peak_memory_gib")
