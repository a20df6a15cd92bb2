"""The supervisor's side of the step server: forks it, sends jobs, hears of their ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from crucible.engines.local.forkserver import StepServer
from crucible.engines.local.protocol import Channel
from crucible.engines.local.run_dir import RunLocked, take_lock
from crucible.errors import CrucibleError
from crucible.sdk import kernel

_LEFTOVER_SECONDS = 3.0
"""How long processes of an earlier engine may take to die before they are killed by name."""
_LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class ServerProcess:
    """A running step server."""

    pid: int
    channel: Channel

    def stop(self) -> None:
        """End the server and with it all that it started; returns when it is gone."""
        self.channel.close()
        with contextlib.suppress(ChildProcessError):  # reaped already
            os.waitpid(self.pid, 0)


def fork_step_server(process_lock: Path, *, close: tuple[int, ...] = ()) -> ServerProcess:
    """Fork this process, which must have a single thread, into a step server.

    Args:
        process_lock: held by the server and all that it forks. Taken by the server, which waits
            for processes that an earlier engine left.
        close: descriptors of the caller that the server must not keep.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return ServerProcess(pid, Channel(ours))
    code = 1
    # The parent's exit handlers are not ours: they would remove its temporary folders.
    atexit._clear()
    try:
        ours.close()
        for descriptor in close:
            os.close(descriptor)
        kernel.adopt_orphans()
        take_process_lock(process_lock)
        StepServer(Channel(theirs)).serve()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def take_process_lock(path: Path) -> int:
    """Lock ``path`` as soon as no process of an earlier engine is left, killing late ones.

    Raises:
        CrucibleError: one of them cannot be killed.
    """
    started_at = time.monotonic()
    while True:
        try:
            return take_lock(path)
        except RunLocked:
            waited_seconds = time.monotonic() - started_at
        holders = [pid for pid in kernel.holders_of(path) if pid != os.getpid()]
        if waited_seconds > _LOCK_SECONDS:
            raise CrucibleError(
                f"processes {holders} of an earlier engine hold {path} and do not end. "
                "End them, then resume the run."
            )
        if waited_seconds > _LEFTOVER_SECONDS:
            for pid in holders:
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
