"""The run as an artifact: what the exit step gets to read.

``run.json`` is ``{"schema", "plan", "state", "metrics", "params"}``: the plan and the state as
JSON, and for each step its metric series ``{name: [[step, value, time], …]}`` and its params. A
cached step has those of the run that did the work, if that is still on this machine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crucible.artifacts.files import write_atomically
from crucible.artifacts.manifest import ArtifactRef
from crucible.artifacts.store import Store
from crucible.engines.events import History, read_events
from crucible.engines.local.run_dir import AttemptDir, RunDir
from crucible.plan.model import Plan, PlanStep
from crucible.plan.serialise import plan_to_json
from crucible.sdk import events as step_events

SCHEMA = "crucible.run/v1"


def write_record(run_dir: RunDir, plan: Plan, history: History, store: Store) -> ArtifactRef:
    """Store the run as it is now and return the reference.

    Raises:
        ArtifactError: the store refused.
        OSError: the run's folder cannot be written.
    """
    write_atomically(run_dir.record, run_json(run_dir, plan, history).encode())
    ref = store.put_tree(run_dir.record, type="RunRecord")
    ref.write(run_dir.record_reference)
    return ref


def run_json(run_dir: RunDir, plan: Plan, history: History) -> str:
    """The text of ``run.json``.

    Raises:
        OSError: the run's folder cannot be read.
    """
    by_step = {step.id: logged(_attempts(step, run_dir, history)) for step in plan.steps}
    record = {
        "schema": SCHEMA,
        "plan": plan_to_json(plan),
        "state": dataclasses.asdict(history.state),
        "metrics": {step_id: metrics for step_id, (metrics, _) in by_step.items()},
        "params": {step_id: params for step_id, (_, params) in by_step.items()},
    }
    return json.dumps(record, indent=1)


def logged(
    attempts: Iterator[AttemptDir],
) -> tuple[dict[str, list[list[float]]], dict[str, Any]]:
    """Metric series by name, and params, of one step over its attempts.

    An attempt goes on from a checkpoint of the one before, so where both logged the same training
    step the later one counts.
    """
    series: dict[str, dict[int, list[float]]] = {}
    params: dict[str, Any] = {}
    for attempt_dir in attempts:
        for event in step_events.read_events(attempt_dir.events)[0]:
            if event["type"] == "metrics":
                for name, value in event["values"].items():
                    point = [event["step"], value, event["time"]]
                    series.setdefault(name, {})[event["step"]] = point
            elif event["type"] == "params":
                params.update(event["values"])
    return {name: [points[at] for at in sorted(points)] for name, points in series.items()}, params


def _attempts(step: PlanStep, run_dir: RunDir, history: History) -> Iterator[AttemptDir]:
    origin = history.cached_from.get(step.id)
    if origin is None:
        yield from _attempts_in(run_dir, step.id, history)
        return
    other = RunDir(run_dir.path.parent / origin)
    if Path(other.plan).is_file():
        plan = other.read_plan()
        past = History.of(plan, read_events(other.events)[0])
        for candidate in plan.all_steps:
            if candidate.fingerprint == step.fingerprint:
                yield from _attempts_in(other, candidate.id, past)


def _attempts_in(run_dir: RunDir, step_id: str, history: History) -> Iterator[AttemptDir]:
    for attempt in range(1, history.state.steps[step_id].attempt + 1):
        yield run_dir.attempt(step_id, attempt)
