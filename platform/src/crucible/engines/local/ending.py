"""Ending a run from outside: ask its supervisor, insist, and in the end put it on record."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from crucible.engines.events import EventLog, History, read_events
from crucible.engines.local.machine import Machine
from crucible.engines.local.run_dir import RunDir, RunLocked, is_locked, owner_pid, take_lock
from crucible.engines.local.status import RunView
from crucible.engines.local.step_server import take_process_lock
from crucible.engines.state import RunState, RunStatus, StepStatus

_LOOK_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0
"""A supervisor asks its steps, then kills them. One that takes this much longer does neither."""
_RELAY_PATIENCE_SECONDS = 15.0


def cancel_run(run_dir: RunDir) -> None:
    """End everything that works on the run; returns when nothing does and the log says so.

    The exit step runs first; calling this a second time ends that, too.
    """
    view = RunView(run_dir)
    if not view.look().status.is_final:
        run_dir.cancel_request.touch()
        _signal_owner(run_dir, signal.SIGTERM)
        _await_steps(run_dir, view)
    _await_relay(run_dir)
    with contextlib.suppress(RunLocked):  # somebody has resumed it meanwhile
        _record_cancelled(run_dir, view)


def _await_steps(run_dir: RunDir, view: RunView) -> None:
    """Wait for the run's end; kill a supervisor whose steps do not end in time."""
    exit_step = view.plan.on_exit
    grace_seconds = Machine.load(os.environ).grace_seconds
    deadline = time.monotonic() + 2 * grace_seconds + _PATIENCE_SECONDS
    while is_locked(run_dir.lock):
        state = view.look()
        if state.status.is_final:
            return
        running = [s.step_id for s in state.steps.values() if s.status is StepStatus.RUNNING]
        in_exit_step = exit_step is not None and running == [exit_step.id]
        if time.monotonic() > deadline and not in_exit_step:
            _signal_owner(run_dir, signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)


def _await_relay(run_dir: RunDir) -> None:
    deadline = time.monotonic() + _RELAY_PATIENCE_SECONDS
    while is_locked(run_dir.lock) and RunView(run_dir).look().status.is_final:
        if time.monotonic() > deadline:
            _signal_owner(run_dir, signal.SIGTERM)
            deadline = time.monotonic() + _RELAY_PATIENCE_SECONDS
        time.sleep(_LOOK_SECONDS)


def _record_cancelled(run_dir: RunDir, view: RunView) -> None:
    """Give a run that lost its engine its end, once all its processes are gone."""
    lock = take_lock(run_dir.lock, patience_seconds=1.0)
    try:
        os.close(take_process_lock(run_dir.process_lock))
        state: RunState = History.of(view.plan, read_events(run_dir.events)[0]).state
        if state.status.is_final and state.status is not RunStatus.INTERRUPTED:
            return
        log = EventLog(run_dir.events)
        try:
            for step in state.steps.values():
                if not step.status.is_final:
                    log.append(
                        "step.ended",
                        step=step.step_id,
                        attempt=step.attempt,
                        status=StepStatus.CANCELLED,
                    )
            log.append("run.ended", status=RunStatus.CANCELLED, message="cancelled")
        finally:
            log.close()
    finally:
        os.close(lock)


def _signal_owner(run_dir: RunDir, number: int) -> None:
    pid = owner_pid(run_dir.lock) if is_locked(run_dir.lock) else None
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, number)
