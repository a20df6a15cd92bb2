"""The end of a run: ``python -m crucible.registry.release --run-dir DIR``.

Decides by the gate, registers the model, moves the aliases, and leaves ``release.json``. Doing it
again finds what is there: the same artifact is the same version, and the holder of the alias is not
held against itself. A refusal is a result, not a failure: the exit code is 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from crucible import logs
from crucible.artifacts.files import write_atomically
from crucible.artifacts.manifest import ArtifactRef
from crucible.errors import EXIT_DONE, CrucibleError, RegistryError, UserError
from crucible.plan.model import Gate, Import, Plan, Release, StepOutput
from crucible.registry.gate import Decision, GatePolicy, MetricBound
from crucible.registry.registry import Registry
from crucible.registry.version import TAG_ROLLED_BACK, Version
from crucible.registry.versions import Candidate
from crucible.sdk.events import read_events
from crucible.sdk.types import Dataset, Model
from crucible.settings import Settings
from crucible.tracking.client import connect
from crucible.tracking.pipeline_run import TAG_COMMIT, TAG_GIT_DIRTY, ensure_pipeline_run
from crucible.tracking.run_view import RunView, read_plan

logger = logging.getLogger(__name__)

RECORD_FILE: Final = "release.json"
_MAX_RACES: Final = 3

Outcome = Literal["promoted", "refused", "unchanged", "rolled-back"]
"""``unchanged``: the alias was at this version before the run. ``rolled-back``: it was once taken
from this version by a rollback, so only a person gives it back."""


@dataclass(frozen=True)
class ReleaseRecord:
    """What ``release.json`` holds."""

    name: str
    version: int
    uri: str
    digest: str
    alias: str
    outcome: Outcome
    alias_moved: bool
    champion_before: int | None
    """Version that held the alias before this run."""
    champion: int | None
    """Version that holds it now."""
    mlflow_run_id: str | None
    summary: str
    """One line for a person."""
    decision: dict[str, Any] | None


def release_run(run_dir: Path, settings: Settings) -> ReleaseRecord:
    """Decide, register, promote; write and return the record.

    Raises:
        UserError: no run directory, nothing to release, or outputs missing.
        TrackingUnavailable: MLflow does not answer.
        StoreUnavailable: the artifact store does not answer.
    """
    plan, view = _read_run(run_dir)
    if plan.release is None:
        raise UserError(f"{run_dir}: the plan has no release. Add a release block and submit.")
    registry = Registry(settings)
    candidate = _candidate(run_dir, plan, plan.release, view, registry)
    policy = policy_of(plan.release.gate)
    for _ in range(_MAX_RACES):
        try:
            record = _release_once(registry, candidate, policy, plan.release.promote_to)
        except _AliasMoved as error:
            logger.warning("%s", error)
        else:
            text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
            write_atomically(run_dir / RECORD_FILE, text.encode())
            return record
    raise RegistryError(
        f"{candidate.name}@{plan.release.promote_to} moved {_MAX_RACES} times while the gate "
        "decided. Resume the run."
    )


def policy_of(gate: Gate) -> GatePolicy:
    """The gate's policy as the plan declares it.

    Raises:
        UserError: a bound or level that makes no sense.
    """
    try:
        return GatePolicy(
            thresholds=tuple(
                MetricBound(metric=each.metric, min=each.min, max=each.max)
                for each in gate.thresholds
            ),
            rule=gate.rule,
            max_regression=gate.max_regression,
            confidence=gate.confidence,
            compare=gate.predictions is not None,
        )
    except ValidationError as error:
        listed = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        )
        raise UserError(f"release.gate: {listed}.") from error


class _AliasMoved(RegistryError):
    """The holder changed between decision and move: decide again."""


def _release_once(
    registry: Registry, candidate: Candidate, policy: GatePolicy, alias: str
) -> ReleaseRecord:
    holder = registry.holder(candidate.name, alias)
    held = holder.version if holder else None
    if holder is not None and holder.digest == candidate.model.digest:
        return _already_there(registry, candidate, policy, holder, alias)
    decision = registry.decide(
        policy, candidate.metrics_digest, candidate.predictions_digest, holder
    )
    version = registry.register(candidate, decision, held)
    if TAG_ROLLED_BACK in version.tags:
        return _record(version, decision, alias, "rolled-back", before=held, now=held)
    if not decision.passed:
        return _record(version, decision, alias, "refused", before=held, now=held)
    try:
        version = registry.promote(candidate.name, version.version, alias, expected=held or 0)
    except RegistryError as error:
        now = registry.holder(candidate.name, alias)
        if (now.version if now else None) == held:
            raise
        raise _AliasMoved(str(error)) from error
    return _record(version, decision, alias, "promoted", before=held, now=version.version)


def _already_there(
    registry: Registry, candidate: Candidate, policy: GatePolicy, holder: Version, alias: str
) -> ReleaseRecord:
    decision = holder.decision
    if decision is None:  # registered by another tool: then only thresholds can be told
        decision = registry.decide(
            policy, candidate.metrics_digest, candidate.predictions_digest, None
        )
    version = registry.register(candidate, decision, holder.decided_against)
    if version.run_id == candidate.run_id:  # this run's release was interrupted after the move
        before = version.decided_against
        return _record(version, decision, alias, "promoted", before=before, now=version.version)
    before = version.version
    return _record(version, decision, alias, "unchanged", before=before, now=before)


def _record(
    version: Version,
    decision: Decision,
    alias: str,
    outcome: Outcome,
    *,
    before: int | None,
    now: int | None,
) -> ReleaseRecord:
    model = f"{version.name} version {version.version}"
    said = {
        "promoted": f"{model} is {alias} now: {version.summary}",
        "refused": f"{model} was refused: {' '.join(decision.reasons)}",
        "unchanged": f"{model} was {alias} already",
        "rolled-back": f"{model} was rolled back earlier: promote it by hand if it is wanted",
    }
    return ReleaseRecord(
        name=version.name,
        version=version.version,
        uri=version.uri,
        digest=str(version.digest),
        alias=alias,
        outcome=outcome,
        alias_moved=outcome == "promoted",
        champion_before=before,
        champion=now,
        mlflow_run_id=version.mlflow_run_id,
        summary=said[outcome],
        decision=decision.model_dump(mode="json"),
    )


def _read_run(run_dir: Path) -> tuple[Plan, RunView]:
    plan, view = read_plan(run_dir), RunView()
    for event in read_events(run_dir / "events.jsonl")[0]:
        view.apply(event)
    return plan, view


def _candidate(
    run_dir: Path, plan: Plan, release: Release, view: RunView, registry: Registry
) -> Candidate:
    gate = release.gate
    wanted = [release.model, gate.metrics, *([gate.predictions] if gate.predictions else [])]
    found = {output: _digest(view, output) for output in wanted}
    missing = [f"{out.step_id}.{out.output}" for out, digest in found.items() if digest is None]
    if missing:
        raise UserError(
            f"{run_dir}: nothing was written to {', '.join(missing)}, which the release needs. "
            "Resume the run first."
        )
    manifest = registry.store.manifest(str(found[release.model]))
    if manifest.type != Model.type_name:
        raise UserError(f"release.model: {manifest.label} is not a Model.")
    settings = registry.settings
    tracked = ensure_pipeline_run(connect(settings), settings, run_dir, plan, view)
    return Candidate(
        name=release.register_as,
        model=ArtifactRef.of(manifest, registry.store.uri),
        run_id=view.run_id,
        mlflow_run_id=tracked.run_id,
        pipeline=plan.name,
        plan_digest=plan.digest,
        evaluation_step=gate.metrics.step_id,
        metrics_digest=str(found[gate.metrics]),
        predictions_digest=found[gate.predictions] if gate.predictions else None,
        data_digests=_data_digests(plan, release, view),
        git_commit=tracked.tags.get(TAG_COMMIT),
        git_dirty=tracked.tags.get(TAG_GIT_DIRTY) == "true",
    )


def _digest(view: RunView, output: StepOutput) -> str | None:
    step = view.steps.get(output.step_id)
    return step.outputs.get(output.output) if step else None


def _data_digests(plan: Plan, release: Release, view: RunView) -> Mapping[str, str]:
    """Every data set that model and metrics come from, by the output or import it is."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [release.model.step_id, release.gate.metrics.step_id]
    while waiting:
        step_id = waiting.pop()
        if step_id in seen:
            continue
        seen.add(step_id)
        for slot in plan.step(step_id).inputs:
            for source in slot.sources:
                if isinstance(source, Import):
                    if slot.type.name == Dataset.type_name:
                        found[source.uri] = view.imports.get(source.uri, source.identity)
                    continue
                waiting.append(source.step_id)
                written = plan.step(source.step_id).outputs[source.output]
                digest = _digest(view, source)
                if written.name == Dataset.type_name and digest:
                    found[f"{source.step_id}.{source.output}"] = digest
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Release one run; the exit code is 0, 1, 2 or 75 as everywhere."""
    parser = argparse.ArgumentParser(
        prog="python -m crucible.registry.release", description=__doc__
    )
    parser.add_argument("--run-dir", type=Path, required=True, help="folder of the run")
    options = parser.parse_args(arguments)
    logs.configure()
    try:
        record = release_run(options.run_dir, Settings.load())
    except CrucibleError as error:
        logger.error("%s", error)
        return error.exit_code
    logger.info("%s", record.summary)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
