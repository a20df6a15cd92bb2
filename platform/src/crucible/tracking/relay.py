"""The relay process: ``python -m crucible.tracking.relay --run-dir DIR``, one per run.

It shares the machine with training, so it wakes once a second and has a low priority. The run does
not depend on it: an MLflow that does not answer delays it, and what it could not send a later relay
or `sync_run` sends. It ends when the run has ended and all is sent, or when its engine is gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crucible import logs
from crucible.errors import (
    EXIT_DONE,
    EXIT_TEMPORARY,
    CrucibleError,
    TemporaryError,
    TrackingUnavailable,
)
from crucible.settings import Settings
from crucible.tracking.client import exclusive_lock
from crucible.tracking.mirror import Mirror

logger = logging.getLogger(__name__)

LOCK_FILE: Final = "relay.lock"
POLL_SECONDS: Final = 1.0
MAX_BACKOFF_SECONDS: Final = 30.0
DEFAULT_GIVE_UP_SECONDS: Final = 60.0
_GLANCES_PER_POLL: Final = 5
_NICENESS: Final = 10


@dataclass
class Relay:
    """Mirrors one run into MLflow until there is nothing left to send."""

    mirror: Mirror
    give_up_after_seconds: float = DEFAULT_GIVE_UP_SECONDS
    engine_lost: Callable[[], bool] = lambda: False
    """True once nobody will write a final event."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def run(self) -> None:
        """Return when the run has ended, or its engine, and MLflow shows all of it.

        Raises:
            TrackingUnavailable: MLflow did not answer for too long after the end.
        """
        ended_at: float | None = None
        backoff_seconds = POLL_SECONDS
        while True:
            lost = self.engine_lost()
            self.mirror.read()
            ended = lost or self.mirror.view.is_final
            if ended and ended_at is None:
                ended_at = self.clock()
            try:
                self.mirror.write(interrupted=lost)
            except TemporaryError as error:
                logger.warning("%s Trying again in %.0f s.", error, backoff_seconds)
                self._check_patience(ended_at, error)
                self.sleep(backoff_seconds)
                backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)
                continue
            backoff_seconds = POLL_SECONDS
            if ended:
                return
            self._wait_for_more()

    def _wait_for_more(self) -> None:
        """Pass the time between two writes; return early at the run's end."""
        for _ in range(_GLANCES_PER_POLL):
            self.sleep(POLL_SECONDS / _GLANCES_PER_POLL)
            self.mirror.read()
            if self.mirror.view.is_final or self.engine_lost():
                return

    def _check_patience(self, ended_at: float | None, error: TemporaryError) -> None:
        if ended_at is None or self.clock() - ended_at < self.give_up_after_seconds:
            return
        raise TrackingUnavailable(
            f"{error} Gave up {self.give_up_after_seconds:.0f} s after the run's end; "
            "resuming the run, or sync_run, sends the rest."
        ) from error


def sync_run(run_dir: Path, settings: Settings) -> str:
    """Bring MLflow up to what ``run_dir`` holds now, and return the pipeline's MLflow run id.

    Waits for a relay of the run that is at work.

    Raises:
        TrackingUnavailable: MLflow does not answer.
        UserError: not a run directory.
    """
    with exclusive_lock(run_dir / LOCK_FILE):
        mirror = Mirror(run_dir, settings)
        mirror.read()
        mirror.write()
        return mirror.mlflow_run_id


def main(arguments: Sequence[str] | None = None) -> int:
    """Relay one run; the exit code is 0, 1, 2 or 75 as everywhere."""
    options = _parser().parse_args(arguments)
    logs.configure(form=options.log_format)
    engine_pid, stopping = os.getppid(), False

    def stop(signum: int, frame: object) -> None:
        nonlocal stopping
        stopping = True

    # Ctrl-C reaches the whole foreground group; the engine's final event is yet to come.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICENESS, os.nice(0)))
    try:
        with exclusive_lock(options.run_dir / LOCK_FILE):
            Relay(
                Mirror(options.run_dir, Settings.load(), steps_only=options.steps_only),
                options.give_up_after_seconds,
                engine_lost=lambda: stopping or os.getppid() != engine_pid,
            ).run()
    except CrucibleError as error:
        logger.error("%s", error)
        return error.exit_code
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m crucible.tracking.relay", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--give-up-after-seconds",
        type=float,
        default=DEFAULT_GIVE_UP_SECONDS,
        help=f"patience with MLflow after the run's end; then exit {EXIT_TEMPORARY}",
    )
    parser.add_argument(
        "--steps-only",
        action="store_true",
        help="the folder knows some steps of a run: leave the pipeline's own MLflow run open",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
