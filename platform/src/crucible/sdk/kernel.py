"""What engines and pods ask the kernel about processes. Linux; elsewhere answers are modest.

No process of a run may outlive it: the step server adopts orphans of its steps, and every child
asks to be killed with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE_OF_STEPS = 500
"""0 is neutral, 1000 dies first. The kernel shall pick a step before the engine."""


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; exit if it is dead already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def prefer_for_oom_kill() -> None:
    """When the machine runs out of memory, let this process go before the engine."""
    with contextlib.suppress(OSError):  # not Linux, or /proc is read-only: nothing to prefer
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_OF_STEPS))


@dataclass(frozen=True)
class Process:
    """One line of the process table."""

    pid: int
    parent_pid: int
    session_id: int


def process_table() -> list[Process]:
    """All processes of the machine; empty where there is no ``/proc``."""
    table: list[Process] = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):  # it ended meanwhile
                    table.append(_process(int(name)))
    return table


def _process(pid: int) -> Process:
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()  # the name in brackets may hold anything
    return Process(pid, parent_pid=int(fields[1]), session_id=int(fields[3]))


def session_memory_bytes(session_ids: set[int]) -> dict[int, int]:
    """Anonymous and shared memory by session: what a step cannot give back.

    Mapped files are left out, since the kernel drops their pages when it needs room.
    """
    used = dict.fromkeys(session_ids, 0)
    for process in process_table():
        if process.session_id in used:
            used[process.session_id] += _memory_bytes(process.pid)
    return used


def _memory_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(OSError):  # it ended meanwhile
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def oom_kills() -> int | None:
    """How often the kernel has killed for lack of memory since boot; None if it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def container_oom_kills() -> int | None:
    """How often the kernel has killed in this container; None where it does not say, or is none."""
    for path in (
        "/sys/fs/cgroup/memory.events",  # version 2
        "/sys/fs/cgroup/memory/memory.oom_control",  # version 1
    ):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


def has_children() -> bool:
    """True if this process has any child, ended and unreaped ones included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except AttributeError:  # macOS before Python 3.13 has no waitid: then nobody knows
        return True
    return True


def kill_children() -> None:
    """Kill all children of this process, adopted ones included, and wait for them."""
    while True:
        for process in process_table():
            if process.parent_pid == os.getpid():
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(process.pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def holders_of(path: Path) -> list[int]:
    """Ids of the processes that have ``path`` open."""
    wanted = os.path.realpath(path)
    found: list[int] = []
    for process in process_table():
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours to look at
            folder = f"/proc/{process.pid}/fd"
            if any(os.readlink(f"{folder}/{name}") == wanted for name in os.listdir(folder)):
                found.append(process.pid)
    return found


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(option, value, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), f"prctl({option})")
