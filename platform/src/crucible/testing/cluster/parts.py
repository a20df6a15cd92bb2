"""One program of the cluster: started, waited for, killed and started again by its name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crucible.testing.cluster.failures import ClusterFailed
from crucible.testing.cluster.namespaces import OwnNamespaces, children

READY_SECONDS = 120.0
"""Ten times what a busy machine with two cores needs."""
_END_SECONDS = 30.0
_QUOTED_LINES = 20


@dataclass(frozen=True)
class PartSpec:
    """A program, its arguments and how to tell that it works."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    """Called until true; a refused connection counts as false."""


class Part:
    """A running or ended program."""

    def __init__(self, spec: PartSpec, namespaces: OwnNamespaces, logs: Path) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self._namespaces = namespaces
        self._entered: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._entered is not None and self._entered.poll() is None

    @property
    def pid(self) -> int:
        """Of the program, as this machine counts.

        Raises:
            ClusterFailed: it is not running.
        """
        if self._entered is not None and self.is_running:
            for child in children(self._entered.pid):
                return child
        raise ClusterFailed(f"{self.spec.name} is not running. {self._said()}")

    def start(self) -> None:
        """Start the program; does nothing if it runs."""
        if self.is_running:
            return
        self._entered = self._namespaces.spawn(self.spec.command, self.log)

    def wait_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Return once it works.

        Raises:
            ClusterFailed: it ended, or took too long; with its last log lines.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self.spec.is_ready():
            if not self.is_running:
                raise ClusterFailed(f"{self.spec.name} ended. {self._said()}")
            if time.monotonic() > deadline:
                raise ClusterFailed(
                    f"{self.spec.name} is not ready after {timeout_seconds:.0f} s. {self._said()}"
                )
            time.sleep(0.1)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; returns when the program has ended or stands, if it is one that does it.

        The process that entered the namespaces stops whenever the program does, and goes on only
        if told so itself.

        Raises:
            ClusterFailed: it is not running, or did not end.
        """
        pid = self.pid
        os.kill(pid, number)
        assert self._entered is not None
        if number == signal.SIGCONT:
            self._entered.send_signal(number)
        if number == signal.SIGSTOP:
            self._wait_until_all_stand(pid)
        if number not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            return
        try:
            self._entered.wait(_END_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise ClusterFailed(f"{self.spec.name} did not end on {number.name}") from late

    def _wait_until_all_stand(self, pid: int) -> None:
        """Threads that run on another core go on for a moment, long enough for an answer."""
        deadline = time.monotonic() + _END_SECONDS
        while not all(_stands(thread / "stat") for thread in Path(f"/proc/{pid}/task").iterdir()):
            if time.monotonic() > deadline:
                raise ClusterFailed(f"{self.spec.name} did not stop")
            time.sleep(0.005)

    def _said(self) -> str:
        if not self.log.exists():
            return "It said nothing."
        lines = self.log.read_text(errors="replace").splitlines()[-_QUOTED_LINES:]
        return f"The end of {self.log}:\n" + "\n".join(lines)


def _stands(stat: Path) -> bool:
    """Whether a thread is stopped, or has ended since."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return True


def answers(url: str, authority: Path | None = None) -> bool:
    """True if a page says 200."""
    import urllib3

    trusted = str(authority) if authority else None
    with urllib3.PoolManager(retries=False, timeout=2.0, ca_certs=trusted) as pool:
        try:
            return pool.request("GET", url).status == 200
        except urllib3.exceptions.HTTPError:
            return False
