"""Creating a run's folder, and starting a supervisor for it under a lock that never lapses."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time

from crucible.artifacts.files import sync_folder
from crucible.artifacts.manifest import ArtifactRef
from crucible.artifacts.store import Store
from crucible.engines.events import EventLog, History, read_events
from crucible.engines.local import schedule
from crucible.engines.local.run_dir import RunDir, RunLocked, owner_pid, take_lock, write_owner
from crucible.engines.local.status import RunView
from crucible.engines.state import RunStatus, StepState
from crucible.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactNotFound,
    CrucibleError,
    UserError,
)
from crucible.plan.model import Plan
from crucible.settings import Settings

_SUPERVISOR_MODULE = "crucible.engines.local.supervisor"
_PATIENCE_SECONDS = 1.0
_PROBE_SECONDS = 0.1
"""Longer than anyone holds a lock only to see whether it is held."""
_LINGER_SECONDS = 30.0

_started: set[int] = set()
"""Ids of the supervisors that this process has started and not yet reaped."""


def new_run_id(pipeline: str) -> str:
    """``<pipeline>-<yyyymmdd>-<hhmmss>-<4 hex>``, in UTC."""
    return f"{pipeline}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def create_run(run_dir: RunDir, plan: Plan) -> int | None:
    """Make the run durable and return its lock, held; None if it was submitted before.

    Raises:
        UserError: the id belongs to another plan.
        OSError: the folder cannot be written.
    """
    if run_dir.events.exists():
        return _lock_unstarted(run_dir, plan)
    runs_dir = run_dir.path.parent
    runs_dir.mkdir(parents=True, exist_ok=True)
    draft = RunDir(runs_dir / f".{run_dir.run_id}.{secrets.token_hex(4)}")
    draft.path.mkdir()
    lock = take_lock(draft.lock)
    try:
        draft.write_plan(plan)
        log = EventLog(draft.events)
        log.append(
            "run.submitted",
            run_id=run_dir.run_id,
            pipeline=plan.name,
            plan_digest=plan.digest,
            working_dir=os.getcwd(),
        )
        log.close()
        draft.path.rename(run_dir.path)
        sync_folder(runs_dir)
    except OSError as error:
        os.close(lock)
        shutil.rmtree(draft.path, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another submit was faster
            return _lock_unstarted(run_dir, plan)
        raise
    return lock


def start_supervisor(run_dir: RunDir, lock: int, settings: Settings) -> None:
    """Start the run's supervisor and hand it ``lock``, which is closed here."""
    environ = {
        "PYTHONHASHSEED": "0",  # a set of strings has one order in every run and attempt
        **os.environ,
        "CRUCIBLE_HOME": str(settings.home_dir),
        "CRUCIBLE_STORE": settings.store_uri,
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
    }
    # -P: a file of the user's called random.py must not be what the engine imports.
    command = [sys.executable, "-P", "-m", _SUPERVISOR_MODULE, str(run_dir.path)]
    try:
        os.ftruncate(lock, 0)
        with open(run_dir.supervisor_log, "ab") as log:
            process = subprocess.Popen(
                [*command, "--lock-descriptor", str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                cwd=_working_dir(run_dir),
                pass_fds=(lock,),
                start_new_session=True,
            )
        write_owner(lock, process.pid)
    finally:
        os.close(lock)
    _reap_ended()
    _started.add(process.pid)
    process.returncode = 0  # it outlives this object on purpose, so Popen must not complain


def _working_dir(run_dir: RunDir) -> str | None:
    """Where the run was submitted from: own components are there. None if it is gone."""
    for event in read_events(run_dir.events)[0][:1]:
        if os.path.isdir(event["working_dir"]):
            return str(event["working_dir"])
    return None


def _reap_ended() -> None:
    for pid in list(_started):
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has reaped it
            ended = pid
        if ended:
            _started.discard(pid)


def lock_idle_run(run_dir: RunDir) -> int:
    """The lock of a run that nothing works on.

    Raises:
        UserError: the run is still running.
        CrucibleError: its supervisor has ended the run but does not end itself.
    """
    with contextlib.suppress(RunLocked):
        return take_lock(run_dir.lock, patience_seconds=_PATIENCE_SECONDS)
    if not RunView(run_dir).look().status.is_final:
        raise UserError(
            f"run {run_dir.run_id} is running. Follow it with platformctl watch {run_dir.run_id}, "
            f"or end it with platformctl cancel {run_dir.run_id} first."
        )
    # The supervisor only waits for MLflow to be told; the next one tells it the rest.
    pid = owner_pid(run_dir.lock)
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
    try:
        return take_lock(run_dir.lock, patience_seconds=_LINGER_SECONDS)
    except RunLocked as error:
        raise CrucibleError(
            f"process {pid} holds {run_dir.lock} and does not end. End it, then try again."
        ) from error


def reset_run(run_dir: RunDir, plan: Plan, store: Store, from_step: str | None) -> None:
    """Record what a resumed run does again. The caller holds the lock.

    Kept are steps that ended well and whose outputs are still whole in the store.

    Raises:
        UserError: nothing is left to do.
        StoreUnavailable: the store cannot say what it still has.
    """
    state = History.of(plan, read_events(run_dir.events)[0]).state
    if state.status is RunStatus.SUCCEEDED and not state.failed_steps and from_step is None:
        raise UserError(
            f"run {run_dir.run_id} has succeeded. To run a step and all that depends on it again: "
            f"platformctl resume {run_dir.run_id} --from STEP."
        )
    fresh = schedule.descendants_of(plan, from_step) if from_step else set()
    exit_step_id = plan.on_exit.id if plan.on_exit else None
    reset = [
        step.step_id
        for step in state.steps.values()
        if step.step_id in (*fresh, exit_step_id)
        or not step.status.has_outputs
        or not _are_whole(list(step.outputs.values()), run_dir.run_id, store)
    ]
    for step_id in state.steps.keys() - set(reset):
        _restore_references(state.steps[step_id], run_dir, store)
    log = EventLog(run_dir.events)
    try:
        log.append("run.resumed", reset=reset, fresh=sorted(fresh))
    finally:
        log.close()
    run_dir.cancel_request.unlink(missing_ok=True)


def _lock_unstarted(run_dir: RunDir, plan: Plan) -> int | None:
    """The lock of a run whose submission was killed before its supervisor began, else None."""
    if run_dir.read_plan().digest != plan.digest:
        raise UserError(
            f"run id {run_dir.run_id} belongs to a run of another plan. Leave --run-id out, or "
            "choose a new one."
        )
    try:
        lock = take_lock(run_dir.lock, patience_seconds=_PROBE_SECONDS)
    except RunLocked:
        return None
    if len(read_events(run_dir.events)[0]) == 1:
        return lock
    os.close(lock)
    return None


def _restore_references(step: StepState, run_dir: RunDir, store: Store) -> None:
    """Write the references to what ``step`` wrote anew if a power cut has taken them."""
    outputs_dir = run_dir.attempt(step.step_id, step.attempt).outputs_dir
    for name, digest in step.outputs.items():
        try:
            intact = ArtifactRef.read(outputs_dir / name).digest == digest
        except ArtifactError:
            intact = False
        if not intact:
            ArtifactRef.of(store.manifest(digest), store.uri).write(outputs_dir / name)


def _are_whole(digests: list[str], run_id: str, store: Store) -> bool:
    try:
        store.lease(run_id, digests)
    except (ArtifactNotFound, ArtifactCorrupt):
        return False
    return True
