"""MLflow is told by a process beside the step; nothing waits for it but the pod's end.

It is `crucible.tracking.relay`, named and not imported: tracking stands above the contract.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time

from crucible.sdk import kernel
from crucible.sdk.pod.pod import Pod

logger = logging.getLogger(__name__)

_MODULE = "crucible.tracking.relay"
_PATIENCE_SECONDS = 60.0
"""How long the pod's end waits for MLflow. The last pod of the run sends what is left."""


class Relay:
    """The relay of one pod. As a context manager it sees the relay to its end."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Relay:
        return self

    def start(self) -> None:
        """Start relaying, once and if there is an MLflow: there is something to tell."""
        if self._process is None:
            self._process = _start(self._pod)

    def __exit__(self, *unused: object) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)  # it sends what there is, then ends
        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode:
            logger.warning("MLflow does not have all of this step yet (see above)")


def _start(pod: Pod) -> subprocess.Popen[bytes] | None:
    wanted = os.environ.get("MLFLOW_TRACKING_URI") and os.environ.get("CRUCIBLE_TRACKING") != "off"
    if not wanted or not pod.write_plan():
        return None
    pod.record({"time": time.time(), "type": "run.submitted", "run_id": pod.run_id})
    parent_pid = os.getpid()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, "--run-dir", str(pod.run_dir), "--steps-only"],
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: kernel.die_with_parent(parent_pid),
    )
