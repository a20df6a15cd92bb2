"""The event log of a run, and how its state follows from it.

One JSON object a line: ``{"time": seconds since the epoch, "type": …}`` and the fields below. A
line is one write, made before the engine acts on it, so that it survives ``kill -9``; what
acknowledges a result is also synced, with all before it, and survives a power cut. A line without
an end was never acknowledged and is dropped.

run.submitted    run_id, pipeline, plan_digest, working_dir
run.started      pid: an engine took the run up
run.resumed      reset: steps to run again; fresh: those of them that may use no earlier result
run.warning      message
run.ended        status, message
step.started     step, attempt
step.retrying    step, attempt, failure, delay_seconds
step.ended       step, attempt, status; outputs, cached_from, reason, failure, peak_memory_gib where
                 they apply
import.done      uri, digest
release.decided  release
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crucible.engines.state import (
    Failure,
    FailureCause,
    RunState,
    RunStatus,
    StepState,
    StepStatus,
)
from crucible.errors import CrucibleError
from crucible.plan.model import Plan

Event = Mapping[str, Any]

_ACKNOWLEDGE_NOTHING = frozenset({"run.started", "run.warning", "step.started"})
"""Not synced. A power cut that takes a start away makes the attempt's number free again."""


class EventLog:
    """The one writer of a run's event log. Hold the run's lock while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._drop_torn_tail()

    def append(self, type_: str, **fields: object) -> Event:
        """Write one event, durably if it acknowledges something, and return it.

        Raises:
            OSError: it could not be written; the log is as it was before.
        """
        event = {"time": time.time(), "type": type_, **fields}
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        size_bytes = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            if type_ not in _ACKNOWLEDGE_NOTHING:
                os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # readers drop a torn line; so does the next writer
                os.ftruncate(self._descriptor, size_bytes)
            raise
        return event

    def close(self) -> None:
        os.close(self._descriptor)

    def _drop_torn_tail(self) -> None:
        data = self._path.read_bytes()
        whole_bytes = data.rfind(b"\n") + 1
        if whole_bytes < len(data):
            os.ftruncate(self._descriptor, whole_bytes)
            os.fsync(self._descriptor)


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The whole events from byte ``offset`` on, and the offset behind the last of them.

    Raises:
        CrucibleError: a line that is not the last is no event; the disk or an editor damaged it.
    """
    with open(path, "rb") as stream:
        stream.seek(offset)
        data = stream.read()
    whole = data[: data.rfind(b"\n") + 1]
    events: list[Event] = []
    for line in whole.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise CrucibleError(
                f"{path}: an event behind byte {offset} is damaged: {line[:80]!r}. Submit the "
                "pipeline again: finished steps come from the cache."
            ) from error
    return events, offset + len(whole)


@dataclass
class History:
    """What a run's events add up to: the state that is shown, and what only the engine needs."""

    state: RunState
    tries: dict[str, int] = field(default_factory=dict)
    """Attempts of each step since the run was submitted or resumed."""
    retry_at: dict[str, float] = field(default_factory=dict)
    """When a retrying step may start, in seconds since the epoch."""
    fresh: set[str] = field(default_factory=set)
    """Steps that the user wants run again, whatever the cache holds."""
    imports: dict[str, str] = field(default_factory=dict)
    """Manifest digest by import URI."""
    cached_from: dict[str, str] = field(default_factory=dict)
    """The run that did the work of a cached step."""

    @classmethod
    def of(cls, plan: Plan, events: Iterable[Event] = ()) -> History:
        """The fold of ``events`` over the steps of ``plan``."""
        steps = {step.id: StepState(step.id, step.component) for step in plan.all_steps}
        history = cls(RunState("", plan.name, plan.digest, steps=steps))
        for event in events:
            history.apply(event)
        return history

    def apply(self, event: Event) -> None:
        """Take one more event in. Unknown types are of a newer engine and change nothing."""
        handler = _HANDLERS.get(event["type"])
        if handler is not None:
            handler(self, event)


def failure_to_json(failure: Failure) -> dict[str, Any]:
    """As it stands in an event."""
    return asdict(failure)


def failure_from_json(value: Mapping[str, Any]) -> Failure:
    """Inverse of `failure_to_json`."""
    return Failure(
        cause=FailureCause(value["cause"]),
        message=value["message"],
        fix=value["fix"],
        exit_code=value["exit_code"],
        log_tail=tuple(value["log_tail"]),
    )


def _run_submitted(history: History, event: Event) -> None:
    history.state.run_id = event["run_id"]
    history.state.started_at = event["time"]


def _run_started(history: History, event: Event) -> None:
    history.state.status = RunStatus.RUNNING


def _run_resumed(history: History, event: Event) -> None:
    state = history.state
    state.status, state.ended_at, state.message = RunStatus.PENDING, None, ""
    state.release = None
    for step_id in event["reset"]:
        before = state.steps[step_id]
        state.steps[step_id] = StepState(step_id, before.component, attempt=before.attempt)
        history.tries.pop(step_id, None)
        history.retry_at.pop(step_id, None)
        history.cached_from.pop(step_id, None)
    history.fresh.update(event["fresh"])
    history.imports.clear()  # what an import needs may be gone; doing it again costs little


def _run_warning(history: History, event: Event) -> None:
    if event["message"] not in history.state.warnings:
        history.state.warnings.append(event["message"])


def _run_ended(history: History, event: Event) -> None:
    history.state.status = RunStatus(event["status"])
    history.state.message = event["message"]
    history.state.ended_at = event["time"]


def _step_started(history: History, event: Event) -> None:
    step = history.state.steps[event["step"]]
    step.status = StepStatus.RUNNING
    step.attempt = event["attempt"]
    step.started_at = step.started_at or event["time"]
    step.failure, step.reason = None, ""
    history.tries[step.step_id] = history.tries.get(step.step_id, 0) + 1
    history.retry_at.pop(step.step_id, None)


def _step_retrying(history: History, event: Event) -> None:
    step = history.state.steps[event["step"]]
    step.status = StepStatus.RETRYING
    step.failure = failure_from_json(event["failure"])
    step.reason = f"again in {event['delay_seconds']:.0f} s: {step.failure.message}"
    history.retry_at[step.step_id] = event["time"] + event["delay_seconds"]


def _step_ended(history: History, event: Event) -> None:
    step = history.state.steps[event["step"]]
    step.status = StepStatus(event["status"])
    step.ended_at = event["time"]
    step.outputs = dict(event.get("outputs", {}))
    step.reason = event.get("reason", "")
    step.peak_memory_gib = event.get("peak_memory_gib")
    step.failure = failure_from_json(event["failure"]) if event.get("failure") else None
    history.retry_at.pop(step.step_id, None)
    if step.status.has_outputs:
        history.fresh.discard(step.step_id)
    if event.get("cached_from"):
        history.cached_from[step.step_id] = event["cached_from"]


def _import_done(history: History, event: Event) -> None:
    history.imports[event["uri"]] = event["digest"]


def _release_decided(history: History, event: Event) -> None:
    history.state.release = event["release"]


_HANDLERS: dict[str, Callable[[History, Event], None]] = {
    "run.submitted": _run_submitted,
    "run.started": _run_started,
    "run.resumed": _run_resumed,
    "run.warning": _run_warning,
    "run.ended": _run_ended,
    "step.started": _step_started,
    "step.retrying": _step_retrying,
    "step.ended": _step_ended,
    "import.done": _import_done,
    "release.decided": _release_decided,
}
