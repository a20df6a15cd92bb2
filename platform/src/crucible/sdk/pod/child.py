"""The process of one attempt: started, its output passed on and kept, ended with the pod."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crucible.sdk import kernel
from crucible.sdk.process import Terminated

logger = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL: less than the 30 s that Kubernetes gives a pod."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    exit_code: int
    """Its own, or minus the signal that ended it."""
    oom_kills: int | None
    """How often the kernel killed in this container meanwhile; None where it does not say."""
    peak_memory_gib: float
    timed_out: bool = False


def run_child(
    module: str,
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    log_path: Path,
    timeout_seconds: float | None = None,
    leaving: Callable[[Terminated], None] = lambda error: None,
) -> Ended:
    """Run ``python -m module argv`` to its end; what it prints goes to stdout and ``log_path``.

    Args:
        module: what to run.
        argv: its arguments.
        environ: its whole environment.
        log_path: appended to.
        timeout_seconds: the child is asked to end after that, and made to after `GRACE_SECONDS`.
        leaving: called when this process was asked to end, once the child knows and before it has
            ended. Argo's executor leaves a pod one second, so nothing can wait for the child.

    Raises:
        Terminated: this process was asked to end; the child has ended before that is raised.
    """
    before = kernel.container_oom_kills()
    with log_path.open("ab") as log:
        process, pump = start_child(module, argv, environ=environ, log=log)
        try:
            timed_out = not _ends_within(process, timeout_seconds)
        except Terminated as error:
            end_children([process], meanwhile=functools.partial(leaving, error))
            raise
        finally:
            pump.join(timeout=GRACE_SECONDS)  # a grandchild may hold the pipe open for ever
    after = kernel.container_oom_kills()
    return Ended(
        exit_code=process.returncode,
        oom_kills=None if before is None or after is None else after - before,
        peak_memory_gib=_peak_bytes() / 2**30,
        timed_out=timed_out,
    )


def _ends_within(process: subprocess.Popen[bytes], seconds: float | None) -> bool:
    """Wait for the end of ``process``, and bring it about when its time is over."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        logger.error("the step did not end within its timeout: ending it")
        end_children([process])
        return False
    return True


def start_child(
    module: str, argv: Sequence[str], *, environ: Mapping[str, str], log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Start ``python -m module argv``, and what passes its output on to stdout and ``log``.

    It dies with the thread that calls this.
    """
    parent_pid = os.getpid()
    # -P: a file of the user's called random.py must not be what the step imports.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environ),
        preexec_fn=lambda: _prepare_child(parent_pid),
    )
    assert process.stdout is not None
    pump = threading.Thread(target=_pump, args=(process.stdout, log), daemon=True)
    pump.start()
    return process, pump


def end_children(
    processes: Sequence[subprocess.Popen[bytes]], *, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Ask all that still run to end, and after `GRACE_SECONDS` make them.

    ``meanwhile`` is called once they have been asked.
    """
    for process in processes:
        process.send_signal(signal.SIGTERM)
    meanwhile()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("the step did not end in %.0f s: killing it", GRACE_SECONDS)
            process.kill()
            process.wait()


def _prepare_child(parent_pid: int) -> None:
    kernel.die_with_parent(parent_pid)
    kernel.prefer_for_oom_kill()  # so that somebody is left to say what happened


def _pump(source: IO[bytes], log: IO[bytes]) -> None:
    with source:
        while data := os.read(source.fileno(), 1 << 16):
            log.write(data)
            log.flush()
            os.write(sys.stdout.fileno(), data)


def _peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
