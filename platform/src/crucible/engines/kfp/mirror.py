"""A run's folder from its journal: the layout of the local engine, for code that reads it.

What the folder lacks are references and logs; the release, the record and the relay to MLflow need
neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from crucible.artifacts.files import write_atomically
from crucible.engines.events import Event, EventLog, History
from crucible.engines.kfp.names import RELEASE_ID
from crucible.engines.local.run_dir import RunDir
from crucible.engines.state import RunStatus, StepStatus
from crucible.errors import ArtifactNotFound
from crucible.journal import Journal
from crucible.plan.model import Plan

_LOST = {
    "cause": "engine-lost",
    "message": "its pod ended without a word: it was evicted, its node was lost, or it was killed",
    "fix": "platformctl why names the cause while the pod is known; then resume the run.",
    "exit_code": 1,
    "log_tail": (),
}


def mirror_run(journal: Journal, plan_digest: str, folder: Path) -> RunDir:
    """Write the run into ``folder``, and beside it the runs whose steps it found in the cache.

    Args:
        journal: the run's.
        plan_digest: of its plan.
        folder: to make; named like the run.

    Raises:
        ArtifactNotFound: the store has no such plan.
        StoreUnavailable: the store does not answer.
    """
    run_dir = _mirror(journal, plan_digest, folder)
    origins = {str(e["cached_from"]) for e in journal.events() if e.get("cached_from")}
    for origin in origins - {journal.run_id}:
        other = Journal(journal.backend, origin)
        digest = next((e["plan_digest"] for e in other.events() if "plan_digest" in e), None)
        if digest is not None:  # else it ran on another engine, or its journal was removed
            _mirror(other, digest, folder.parent / origin)
    return run_dir


def fold(plan: Plan, events: Iterable[Event]) -> History:
    """What ``events`` of a journal say of the steps of ``plan``; other steps are passed over."""
    known = {step.id for step in plan.all_steps}
    return History.of(plan, (e for e in events if "step" not in e or e["step"] in known))


def release_failure(events: Iterable[Event]) -> str:
    """Why the release failed, or nothing."""
    ends = [e for e in events if e.get("step") == RELEASE_ID and e["type"] == "step.ended"]
    failure = ends[-1].get("failure") if ends else None
    return f"release failed: {failure['message']}" if failure else ""


def end_run(run_dir: RunDir, events: Sequence[Event]) -> History:
    """Give the run in the folder its end: nothing but its exit step is left to run.

    A step that began and did not end was lost with its pod; one that never began was skipped.

    Args:
        run_dir: from `mirror_run`.
        events: of the run's journal.
    """
    plan = run_dir.read_plan()
    history = fold(plan, events)
    exit_id = plan.on_exit.id if plan.on_exit else None
    log = EventLog(run_dir.events)

    def record(type_: str, **fields: object) -> None:
        history.apply(log.append(type_, **fields))

    try:
        for step in list(history.state.steps.values()):
            if step.step_id == exit_id or step.status.is_final:
                continue
            begun = step.status is not StepStatus.PENDING
            status = StepStatus.FAILED if begun else StepStatus.SKIPPED
            record(
                "step.ended",
                step=step.step_id,
                attempt=step.attempt,
                status=status,
                failure=_LOST if begun else None,
                reason="" if begun else "not reached",
            )
        failed = [step.step_id for step in history.state.failed_steps if step.step_id != exit_id]
        message = f"{', '.join(failed)} failed" if failed else release_failure(events)
        ended = RunStatus.FAILED if message else RunStatus.SUCCEEDED
        record("run.ended", status=ended, message=message)
    finally:
        log.close()
    return history


def _mirror(journal: Journal, plan_digest: str, folder: Path) -> RunDir:
    run_dir = RunDir(folder)
    plan = journal.read_stored_plan(plan_digest)
    if plan is None:
        raise ArtifactNotFound(
            f"plan {plan_digest}: not in the store. Submit the pipeline with platformctl, which "
            "puts it there, rather than its compiled form."
        )
    folder.mkdir(parents=True)
    write_atomically(run_dir.plan, plan, durable=False)
    known = {step.id for step in run_dir.read_plan().all_steps}
    events = [e for e in journal.events() if "step" not in e or e["step"] in known]
    if not any(event["type"] == "run.submitted" for event in events):
        first = min((event["time"] for event in events), default=0.0)
        begin = {"time": first, "type": "run.submitted", "run_id": journal.run_id}
        events.insert(0, begin)
    lines = [json.dumps(event).encode() + b"\n" for event in events]
    write_atomically(run_dir.events, b"".join(lines), durable=False)
    for event in events:
        if event["type"] == "step.started":
            attempt_dir = run_dir.attempt(event["step"], event["attempt"])
            attempt_dir.path.mkdir(parents=True, exist_ok=True)
            told = journal.step_events(event["step"], event["attempt"]).read()
            attempt_dir.events.write_bytes(told)
    return run_dir
