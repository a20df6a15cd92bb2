"""The process that takes one run from its plan to its end.

``python -m crucible.engines.local.supervisor RUN_DIR --lock-descriptor N``. It holds the run's
lock, which it inherits locked, so a run that has a supervisor never looks as if it had none. It
appends an event before it acts on a transition and keeps no state besides: killed at any point, a
new supervisor goes on from the log.

SIGTERM and SIGINT end all steps and leave the run interrupted, for the machine may be going down;
with a request to cancel (a file in the run's folder) the exit step still runs. A second signal
ends that, too.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from crucible import logs
from crucible.engines.events import EventLog, History, read_events
from crucible.engines.local import schedule
from crucible.engines.local.closing import Closing
from crucible.engines.local.importing import Importing
from crucible.engines.local.leasing import Leasing
from crucible.engines.local.machine import Machine
from crucible.engines.local.pool import ProcessPool, ServerLost
from crucible.engines.local.relaying import Relaying
from crucible.engines.local.run import Run
from crucible.engines.local.run_dir import LAST_WORDS, RunDir, write_owner
from crucible.engines.local.step_server import fork_step_server
from crucible.engines.local.steps import Steps
from crucible.engines.pages import write_pages
from crucible.engines.state import RunStatus
from crucible.errors import CrucibleError
from crucible.sdk import kernel, runner
from crucible.settings import Settings

logger = logging.getLogger(__name__)

PRELOADED = runner
"""Imported here so that the step server, a fork of this process, has it for every step."""


class Supervisor:
    """Runs one run to its end, or to where it can be resumed from."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._steps = Steps(run)
        self._imports = Importing(run)
        self._closing = Closing(run, self._steps)
        self._relaying = Relaying(run)
        self._leasing = Leasing(run)
        self._stopped: RunStatus | None = None
        self._hurry = False
        self._num_signals = 0
        self._num_signals_seen = 0

    def run(self) -> None:
        """Work until the run has ended and say how in the event log.

        Raises:
            OSError: an event could not be written.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._count_signal)
        self._run.pool.wake_on_signals()
        self._run.record("run.started", pid=os.getpid())
        if self._run.plan.release_skipped:
            self._run.warn(f"nothing is released: it {self._run.plan.release_skipped}")
        try:
            while not self._advance():
                self._wait()
            self._end()
        except ServerLost as error:
            kernel.kill_children()
            message = f"{error}; resume the run"
            self._run.record("run.ended", status=RunStatus.INTERRUPTED, message=message)
            return
        self._relaying.finish(hurry=self._must_end_at_once)

    def _advance(self) -> bool:
        """Do all that can be done now; True when the run is at its end."""
        self._heed_signals()
        if not self._steps.are_over:
            self._relaying.advance()
        self._leasing.advance()
        if self._stopped is None:
            self._imports.advance()
            self._steps.advance()
        if self._steps.are_running or self._imports.is_running:
            return False
        if self._stopped is None and not self._steps.are_over:
            return False
        return self._closing.advance(self._stopped, hurry=self._hurry)

    def _wait(self) -> None:
        retry_at = schedule.next_retry_at(self._run.history, time.time())
        moments = [self._closing.wake_at(), self._leasing.wake_at()]
        if not self._steps.are_over:
            moments.append(self._relaying.wake_at())
        if retry_at is not None and self._stopped is None:
            moments.append(time.monotonic() + retry_at - time.time())
        until = min((moment for moment in moments if moment is not None), default=None)
        for ended in self._run.pool.wait(until):
            takers = (self._steps, self._imports, self._closing, self._relaying)
            any(taker.take(ended) for taker in takers)

    def _end(self) -> None:
        status, message = self._closing.outcome()
        if self._stopped is RunStatus.CANCELLED:
            self._steps.cancel_waiting()
            status, message = self._stopped, "cancelled"
        elif self._stopped is not None:
            status, message = self._stopped, "the engine was told to end; resume continues the run"
        if status is not RunStatus.INTERRUPTED:  # the machine may be going down
            self._write_pages()
        if status is RunStatus.SUCCEEDED:
            self._leasing.release()
        self._run.record("run.ended", status=status, message=message)

    def _write_pages(self) -> None:
        run = self._run
        try:
            for warning in write_pages(run.run_dir, run.plan, run.history.state, run.store):
                run.warn(warning)
        except CrucibleError as error:  # the store cannot be opened
            run.warn(f"no report is in the run's folder: {error}")

    def _must_end_at_once(self) -> bool:
        signalled = self._num_signals > self._num_signals_seen
        return signalled or self._stopped is RunStatus.INTERRUPTED

    def _count_signal(self, *_: object) -> None:
        self._num_signals += 1

    def _heed_signals(self) -> None:
        if self._num_signals == self._num_signals_seen:
            return
        self._num_signals_seen = self._num_signals
        if self._stopped is None:
            asked = self._run.run_dir.cancel_request.exists()
            self._stopped = RunStatus.CANCELLED if asked else RunStatus.INTERRUPTED
        else:
            self._hurry = True
        self._steps.stop_all()
        self._imports.stop_all()
        self._closing.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Take a run to its end; returns 0 if that is on record, however it ended."""
    parser = argparse.ArgumentParser(prog="python -m crucible.engines.local.supervisor")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--lock-descriptor", type=int, required=True)
    arguments = parser.parse_args(argv)
    run_dir, lock = RunDir(arguments.run_dir), arguments.lock_descriptor
    os.set_inheritable(lock, False)
    write_owner(lock, os.getpid())
    logs.configure()
    logger.info("process %d takes %s up", os.getpid(), run_dir.run_id)
    kernel.adopt_orphans()
    server = fork_step_server(run_dir.process_lock, close=(lock,))
    try:
        plan = run_dir.read_plan()
        log = EventLog(run_dir.events)
        machine = Machine.load(os.environ)
        run = Run(
            run_dir=run_dir,
            plan=plan,
            settings=Settings.load(),
            machine=machine,
            log=log,
            history=History.of(plan, read_events(run_dir.events)[0]),
            pool=ProcessPool(server, machine),
        )
        Supervisor(run).run()
    except Exception as error:
        logger.exception("in the engine")
        logger.error("%s %s: %s", LAST_WORDS, type(error).__name__, error)
        return 1
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
