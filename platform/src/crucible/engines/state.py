"""What a run's state is, and how it follows from the run's events.

Events are the truth, one JSON object a line, appended and synced before anything is acknowledged;
a `RunState` is a fold over them. Both engines report this state, so the CLI reads nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RunStatus(StrEnum):
    """Where a run is. All but the first two are final: nothing runs until someone resumes it."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The engine was killed or told to end; nobody decided about the run."""

    @property
    def is_final(self) -> bool:
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


class StepStatus(StrEnum):
    """Where a step is. All but the first three are final."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    CACHED = "cached"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.RETRYING)

    @property
    def has_outputs(self) -> bool:
        return self in (StepStatus.SUCCEEDED, StepStatus.CACHED)


class FailureCause(StrEnum):
    """Why a step ended badly, as far as the engine can tell."""

    USER_ERROR = "user-error"
    RAISED = "raised"
    OUT_OF_MEMORY = "out-of-memory"
    KILLED = "killed"
    TIMEOUT = "timeout"
    NO_OUTPUT = "no-output"
    TEMPORARY = "temporary"
    STORE = "store"
    ENGINE_LOST = "engine-lost"
    UNSCHEDULABLE = "unschedulable"
    IMAGE = "image"
    CONFIGURATION = "configuration"
    QUOTA = "quota"
    REFUSED = "refused"
    EVICTED = "evicted"
    DRIVER = "driver"


@dataclass(frozen=True)
class Failure:
    """What `why` prints: the cause, the message, the last lines, what to do."""

    cause: FailureCause
    message: str
    fix: str
    exit_code: int
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far a running step is."""

    done: float
    total: float | None = None
    unit: str = "steps"
    message: str = ""


@dataclass
class StepState:
    """One step of a run."""

    step_id: str
    component: str
    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    started_at: float | None = None
    """Seconds since the epoch."""
    ended_at: float | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    """Manifest digest by output name."""
    progress: Progress | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    reason: str = ""
    """Why it was cached, skipped or is waiting."""
    obstacle: Failure | None = None
    """What keeps a step that should run from starting, on a cluster."""
    peak_memory_gib: float | None = None


@dataclass
class RunState:
    """One run."""

    run_id: str
    pipeline: str
    plan_digest: str
    status: RunStatus = RunStatus.PENDING
    started_at: float | None = None
    ended_at: float | None = None
    steps: dict[str, StepState] = field(default_factory=dict)
    """By step id, in plan order; the exit step last."""
    release: dict[str, Any] | None = None
    """The registered version and the gate's decision, once made."""
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    """What the engine did otherwise than asked, e.g. ran an oversized step alone."""
    mlflow_run_id: str | None = None
    report: str | None = None
    """Path or URL of the page about an ended run: its exit step's report, or the last step's."""

    @property
    def failed_steps(self) -> list[StepState]:
        return [step for step in self.steps.values() if step.status is StepStatus.FAILED]
