"""The step server: forks one process per step out of one that has everything imported.

Starting Python and importing the step runner costs a quarter of a second of CPU, a fork a
millisecond. Isolation is that of processes: each step has its own session, environment, log and
address space, and ends alone. The server has one thread, since a fork copies only the thread that
forks, and does nothing but fork, pump logs and reap.

If the supervisor dies the control connection breaks and the server kills every step at once; if the
server dies the kernel kills the steps. Orphans that a step leaves behind become children of the
server and are killed with the step's session.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import os
import selectors
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

from crucible.engines.local.logfile import CappedLog
from crucible.engines.local.preload import preload
from crucible.engines.local.protocol import Channel, Exited, Job, Message, Signal, Started
from crucible.sdk import kernel

_PIPE_BYTES = 2**20
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class _Running:
    """A job whose process lives."""

    job: Job
    pid: int
    pipe: int
    log: CappedLog
    oom_kills_before: int | None


class StepServer:
    """Serves one supervisor until its end of ``channel`` is closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._running: dict[int, _Running] = {}
        """By process id."""
        self._preloaded: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._pid = os.getpid()

    def serve(self) -> None:
        """Run jobs until the supervisor closes the connection or dies, then kill what is left."""
        wakeup = self._catch_signals()
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._selector.register(wakeup, selectors.EVENT_READ)
        gc.collect()
        gc.freeze()  # what exists now is never collected, so its pages stay shared after a fork
        try:
            while self._serve_once(wakeup):
                pass
        finally:
            self._kill_everything()

    def _serve_once(self, wakeup: int) -> bool:
        for key, _ in self._selector.select():
            if key.fileobj is self._channel:
                messages = self._channel.receive()
                if messages is None:
                    return False
                for message in messages:
                    self._obey(message)
            elif key.fd == wakeup:
                os.read(wakeup, 4096)
            else:
                self._pump(self._running[key.data])
        self._reap()
        return True

    def _catch_signals(self) -> int:
        """A descriptor that becomes readable with every signal; none of them ends the server."""
        reading, writing = os.pipe()
        for descriptor in (reading, writing):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._wakeup = (reading, writing)
        return reading

    def _obey(self, message: Message) -> None:
        if isinstance(message, Job):
            self._start(message)
        elif isinstance(message, Signal):
            for running in self._running.values():
                if running.job.id == message.job:
                    _kill_group(running.pid, message.number)

    def _start(self, job: Job) -> None:
        try:
            if job.component and job.component not in self._preloaded:
                self._preloaded.add(job.component)
                preload(job.component, job.environ.get("CRUCIBLE_STORE", ""))
                gc.freeze()
            log = CappedLog(Path(job.log_path))
            reading, writing = _pipe()
            oom_kills_before = kernel.oom_kills()
            # A signal to the job must wait until the fork has let go of the server's handlers.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            pid = os.fork()
        except Exception as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._channel.send(Exited(job.id, 1, error=f"{type(error).__name__}: {error}"))
            return
        if pid == 0:
            self._become(job, writing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(writing)
        os.set_blocking(reading, False)
        self._running[pid] = _Running(job, pid, reading, log, oom_kills_before)
        self._selector.register(reading, selectors.EVENT_READ, data=pid)
        self._channel.send(Started(job.id, pid))

    def _become(self, job: Job, output: int) -> NoReturn:
        """Turn the fresh fork into the job's process; never returns to the server's loop."""
        code = 1
        try:
            os.setsid()
            kernel.die_with_parent(self._pid)
            kernel.prefer_for_oom_kill()
            self._let_go()
            _redirect(output)
            os.environ.clear()
            os.environ.update(job.environ)
            gc.enable()
            code = _call_main(job)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # closed by the step: nothing to do
                    stream.flush()
            os._exit(code)

    def _let_go(self) -> None:
        """Drop what is the server's: signal handling, the connection, what other jobs write to.

        The process lock stays open on purpose: it is free only when every fork is gone.
        """
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._selector.close()
        for running in self._running.values():
            os.close(running.pipe)
            running.log.abandon()
        for descriptor in self._wakeup:
            os.close(descriptor)
        self._channel.close()

    def _pump(self, running: _Running) -> None:
        """Move some of what a job has printed to its log; the others get their turn in between."""
        with contextlib.suppress(BlockingIOError):  # another event of this round has read it
            data = os.read(running.pipe, _PIPE_BYTES)
            if data:
                running.log.write(data)
            else:  # the job closed its output: the end of the process is still to come
                self._selector.unregister(running.pipe)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            running = self._running.pop(pid, None)
            if running is None:
                continue  # an orphan that was adopted
            self._kill_session(pid)
            self._drain(running)
            before, after = running.oom_kills_before, kernel.oom_kills()
            self._channel.send(
                Exited(
                    running.job.id,
                    os.waitstatus_to_exitcode(status),
                    max_rss_bytes=usage.ru_maxrss * _RSS_UNIT_BYTES,
                    oom_kills=None if before is None or after is None else after - before,
                )
            )

    def _kill_session(self, session_id: int) -> None:
        """Kill what the ended leader of a session left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing left: the rule
            os.killpg(session_id, signal.SIGKILL)
        if not kernel.has_children():
            return  # so no orphan either; saves reading the process table
        for process in kernel.process_table():
            if process.session_id == session_id:
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(process.pid, signal.SIGKILL)

    def _drain(self, running: _Running) -> None:
        """Take the rest of an ended job's output and close its log."""
        with contextlib.suppress(KeyError):  # unregistered when the job closed its output
            self._selector.unregister(running.pipe)
        with contextlib.suppress(BlockingIOError):  # all that is there has been read
            while data := os.read(running.pipe, _PIPE_BYTES):
                running.log.write(data)
        os.close(running.pipe)
        running.log.close()

    def _kill_everything(self) -> None:
        """Kill every step and every orphan, and wait for them."""
        for pid in self._running:
            _kill_group(pid, signal.SIGKILL)
        kernel.kill_children()
        for running in self._running.values():
            self._drain(running)


def _call_main(job: Job) -> int:
    """What the job's ``main`` returns, everything done that an interpreter does at its end."""
    sys.argv = [job.module, *job.argv]
    try:
        code = importlib.import_module(job.module).main(list(job.argv))
    except SystemExit as leaving:
        code = leaving.code
        if isinstance(code, str):
            print(code, file=sys.stderr)  # noqa: T201  what the interpreter does
            code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as at a normal end
    atexit._run_exitfuncs()
    return int(code or 0)


def _redirect(output: int) -> None:
    """Send standard output and error to ``output``; there is no standard input."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
    sys.stdout, sys.stderr = (_line_stream(descriptor) for descriptor in (1, 2))


def _line_stream(descriptor: int) -> TextIO:
    """Text output that is written by the line, so that a killed step has said all that it said."""
    return open(descriptor, "w", 1, encoding="utf-8", errors="replace", closefd=False)


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # beyond the user's limit: the default size will do
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):  # it has ended, or it has no group yet
            os.kill(pid, number)


_RSS_UNIT_BYTES = 1024 if sys.platform == "linux" else 1
"""``ru_maxrss`` is in KiB on Linux and in bytes on macOS."""
