"""Where a run keeps what, and the lock that tells whether an engine is alive."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from crucible.artifacts.files import write_atomically
from crucible.plan.model import Plan
from crucible.plan.serialise import plan_from_json, plan_to_json

LAST_WORDS = "the engine ends:"
"""Begins the last message of a supervisor that cannot go on."""
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def is_run_id(text: str) -> bool:
    """True if ``text`` may name a run: letters, digits, ``. _ -``; it becomes a folder."""
    return _RUN_ID.match(text) is not None


@dataclass(frozen=True)
class AttemptDir:
    """The folder of one attempt of one step."""

    path: Path

    @property
    def executor_input(self) -> Path:
        return self.path / "executor_input.json"

    @property
    def executor_output(self) -> Path:
        return self.path / "executor_output.json"

    @property
    def failure(self) -> Path:
        return self.path / "failure.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def outputs_dir(self) -> Path:
        return self.path / "outputs"

    @property
    def scratch_dir(self) -> Path:
        return self.path / "scratch"


@dataclass(frozen=True)
class RunDir:
    """The folder of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def spec(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def process_lock(self) -> Path:
        """Held by the step server and, inherited, by every step that it forked."""
        return self.path / "processes.lock"

    @property
    def cancel_request(self) -> Path:
        """Exists while somebody wants the run cancelled."""
        return self.path / "cancel"

    @property
    def supervisor_log(self) -> Path:
        return self.path / "supervisor.log"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def release(self) -> Path:
        return self.path / "release.json"

    @property
    def report(self) -> Path:
        """The page to open when the run has ended."""
        return self.path / "report.html"

    @property
    def reports_dir(self) -> Path:
        """Pages of steps before the last one that wrote a report."""
        return self.path / "reports"

    @property
    def mlflow(self) -> Path:
        return self.path / "mlflow.json"

    @property
    def record_reference(self) -> Path:
        return self.path / "run_record.ref"

    def import_reference(self, uri: str) -> Path:
        """Where the reference of an imported artifact lies."""
        return self.path / "imports" / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}.ref"

    def import_failure(self, uri: str) -> Path:
        """Where a failed import says why."""
        return self.import_reference(uri).with_suffix(".failure.json")

    def job_log(self, name: str) -> Path:
        """The log of a process that is no step."""
        return self.path / f"{name}.log"

    def step_dir(self, step_id: str) -> Path:
        return self.path / "steps" / step_id

    def attempt(self, step_id: str, attempt: int) -> AttemptDir:
        return AttemptDir(self.step_dir(step_id) / str(attempt))

    def write_plan(self, plan: Plan) -> None:
        """Make the plan and its pipeline file durable."""
        write_atomically(self.plan, json.dumps(plan_to_json(plan), indent=1).encode())
        write_atomically(self.spec, plan.spec_text.encode())

    def read_plan(self) -> Plan:
        """The plan as it was submitted.

        Raises:
            UserError: this version cannot read it.
        """
        return plan_from_json(json.loads(self.plan.read_text()))


class RunLocked(Exception):
    """Somebody else holds the run's lock."""


def take_lock(path: Path, *, patience_seconds: float = 0.0) -> int:
    """Lock ``path`` and return the descriptor that holds it until it, and its copies, are closed.

    The kernel frees the lock with the last process that has the descriptor, however that ends.

    Args:
        path: the lock file.
        patience_seconds: how long to try again; `is_locked` holds the lock for an instant.

    Raises:
        RunLocked: it is held.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + patience_seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise RunLocked(str(path)) from error
            time.sleep(0.005)
    except BaseException:
        os.close(descriptor)
        raise


def is_locked(path: Path) -> bool:
    """True while a process holds the lock."""
    try:
        os.close(take_lock(path))
    except RunLocked:
        return True
    return False


def write_owner(descriptor: int, pid: int) -> None:
    """Note in the lock file who holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{pid}\n".encode(), 0)


def owner_pid(path: Path) -> int | None:
    """Who holds the lock, as far as noted yet."""
    text = path.read_text().strip()
    return int(text) if text else None
