"""The processes of a run: started on the step server, ended when they take too long or too much."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from crucible.engines.local.machine import GIB, Machine
from crucible.engines.local.protocol import Exited, Job, Message, Signal, Started
from crucible.engines.local.step_server import ServerProcess
from crucible.engines.local.verdict import StopReason
from crucible.errors import CrucibleError
from crucible.sdk import kernel

MEMORY_CHECK_SECONDS = 1.0


class ServerLost(CrucibleError):
    """The step server has died, and with it everything that it had forked."""


@dataclass
class _Active:
    job: Job
    declared_bytes: float | None
    """What the job may use when memory is short; None for jobs that are never ended for it."""
    deadline: float | None
    pid: int | None = None
    peak_bytes: int = 0
    stopped: StopReason | None = None
    kill_at: float | None = None


@dataclass(frozen=True)
class Ended:
    """One process that has ended."""

    job_id: str
    exited: Exited
    stopped: StopReason | None
    peak_memory_bytes: int


class ProcessPool:
    """Runs jobs and watches their time and memory. Times are of the monotonic clock."""

    def __init__(self, server: ServerProcess, machine: Machine) -> None:
        self._server = server
        self._machine = machine
        self._active: dict[str, _Active] = {}
        self._next_memory_check = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(server.channel, selectors.EVENT_READ)
        self._wakeup, self._waker = os.pipe()
        for descriptor in (self._wakeup, self._waker):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._active

    def wake_on_signals(self) -> None:
        """Let signals of this process end a `wait` early."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def start(
        self, job: Job, *, declared_bytes: float | None = None, timeout_seconds: float | None = None
    ) -> None:
        """Start ``job``; its end, whatever happens, is one `Ended` of a later `wait`."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._active[job.id] = _Active(job, declared_bytes, deadline)
        self._send(job)

    def stop(self, job_id: str, reason: StopReason) -> None:
        """Ask a job to end, and kill it if it has not after the grace period."""
        active = self._active[job_id]
        active.stopped = active.stopped or reason
        if active.kill_at is None:
            active.kill_at = time.monotonic() + self._machine.grace_seconds
            self._send(Signal(job_id, signal.SIGTERM))

    def kill(self, job_id: str, reason: StopReason) -> None:
        """End a job without asking."""
        active = self._active[job_id]
        active.stopped = active.stopped or reason
        self._send(Signal(job_id, signal.SIGKILL))

    def wait(self, until: float | None = None) -> list[Ended]:
        """Wait for the end of some job, a signal, or ``until``.

        Raises:
            ServerLost: the step server has died.
        """
        deadlines = [moment for moment in (until, *self._deadlines()) if moment is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        ended: list[Ended] = []
        for key, _ in self._selector.select(timeout):
            if key.fd == self._wakeup:
                os.read(self._wakeup, 4096)
                continue
            messages = self._server.channel.receive()
            if messages is None:
                raise ServerLost("the step server was killed, and all running steps with it")
            ended += [end for message in messages if (end := self._hear(message))]
        self._enforce_deadlines()
        self._enforce_memory()
        return ended

    def _hear(self, message: Message) -> Ended | None:
        if isinstance(message, Started):
            self._active[message.job].pid = message.pid
        elif isinstance(message, Exited):
            active = self._active.pop(message.job)
            peak_bytes = max(active.peak_bytes, message.max_rss_bytes)
            return Ended(message.job, message, active.stopped, peak_bytes)
        return None

    def _deadlines(self) -> Iterator[float | None]:
        for active in self._active.values():
            yield active.kill_at
            if active.stopped is None:
                yield active.deadline
        if self._measured():
            yield self._next_memory_check

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for job_id, active in self._active.items():
            if active.kill_at is not None and now >= active.kill_at:
                active.kill_at = now + self._machine.grace_seconds
                self._send(Signal(job_id, signal.SIGKILL))
            elif active.deadline is not None and active.stopped is None and now >= active.deadline:
                self.stop(job_id, StopReason.TIMEOUT)

    def _measured(self) -> list[_Active]:
        return [a for a in self._active.values() if a.declared_bytes is not None and a.pid]

    def _enforce_memory(self) -> None:
        """Kill the job that is furthest above what it declared when all need more than there is.

        Alone a job may use more than it declares: nobody suffers, and what a step needs is often
        known only after its first run.
        """
        now = time.monotonic()
        measured = {active.pid: active for active in self._measured() if active.pid}
        if not measured or now < self._next_memory_check:
            return
        self._next_memory_check = now + MEMORY_CHECK_SECONDS
        used = kernel.session_memory_bytes(set(measured))
        for pid, active in measured.items():
            active.peak_bytes = max(active.peak_bytes, used[pid])
        if sum(used.values()) > self._machine.memory_gib * GIB:
            excess = {pid: used[pid] - (a.declared_bytes or 0) for pid, a in measured.items()}
            worst = max(excess, key=lambda pid: excess[pid])
            self.kill(measured[worst].job.id, StopReason.MEMORY)

    def _send(self, message: Message) -> None:
        try:
            self._server.channel.send(message)
        except OSError as error:
            raise ServerLost("the step server was killed, and all running steps with it") from error
