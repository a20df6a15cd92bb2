"""Setting up one attempt of a step: its folder, its inputs by reference, its process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from crucible.artifacts.files import write_atomically
from crucible.artifacts.manifest import ArtifactRef
from crucible.engines.events import History
from crucible.engines.local.protocol import Job
from crucible.engines.local.run_dir import AttemptDir, RunDir
from crucible.errors import UserError
from crucible.plan.model import MetricRef, PlanStep, Source, StepOutput
from crucible.sdk.executor import StepParameters, build_executor_input
from crucible.settings import Settings

RUNNER_MODULE = "crucible.sdk.runner"


def reference_path(source: Source, run_dir: RunDir, history: History) -> Path | None:
    """The reference file behind an input; None if its producer did not write that output."""
    if not isinstance(source, StepOutput):
        return run_dir.import_reference(source.uri)
    producer = history.state.steps[source.step_id]
    if source.output not in producer.outputs:
        return None
    return run_dir.attempt(source.step_id, producer.attempt).outputs_dir / source.output


def references(step: PlanStep, run_dir: RunDir, history: History) -> dict[str, list[Path]]:
    """Reference files by slot of ``step``.

    What was not written makes a list shorter and leaves an optional slot empty; the step process
    refuses a required slot that is empty.
    """
    found = {
        slot.slot: [
            path
            for source in slot.sources
            if (path := reference_path(source, run_dir, history)) is not None
        ]
        for slot in step.inputs
    }
    return {slot: paths for slot, paths in found.items() if paths}


def read_metric(wanted: MetricRef, run_dir: RunDir, history: History) -> float:
    """A number that a condition or a setting is about.

    Raises:
        UserError: the producer wrote no such metric.
        ArtifactError: its reference file is gone or damaged.
    """
    path = reference_path(StepOutput(wanted.step_id, wanted.output), run_dir, history)
    metadata = ArtifactRef.read(path).manifest.metadata if path else {}
    value = metadata.get(wanted.metric)
    if not isinstance(value, (int, float)):
        known = ", ".join(name for name, other in metadata.items() if not isinstance(other, str))
        raise UserError(
            f"{wanted.step_id}.{wanted.output} has no metric {wanted.metric!r}. "
            f"It has: {known or 'none'}. Correct the reference, then submit again."
        )
    return value


def prepare(
    step: PlanStep, run_dir: RunDir, history: History, inputs: Mapping[str, Sequence[Path]]
) -> AttemptDir:
    """The folder of the attempt that comes next by ``history``, ready for its process.

    Raises:
        UserError: a metric that the settings need was not written.
        ArtifactError: a reference file is gone or damaged.
        OSError: the folder cannot be written.
    """
    attempt = history.state.steps[step.id].attempt + 1
    attempt_dir = run_dir.attempt(step.id, attempt)
    shutil.rmtree(attempt_dir.path, ignore_errors=True)  # of an engine killed before its event
    attempt_dir.path.mkdir(parents=True)
    executor_input = build_executor_input(
        step=StepParameters(
            run_id=run_dir.run_id,
            step_id=step.id,
            fingerprint=step.fingerprint,
            attempt=attempt,
            seed=step.seed,
            cache=step.cache_enabled and step.id not in history.fresh,
            cpus=step.resources.cpus,
            optional_outputs=step.optional_outputs,
            component=step.component,
            metric_refs={
                name: read_metric(wanted, run_dir, history)
                for name, wanted in step.metric_refs.items()
            },
            fingerprint_parts=step.fingerprint_parts,
        ),
        config=step.config,
        inputs=inputs,
        outputs=step.outputs,
        attempt_dir=attempt_dir.path,
    )
    text = json.dumps(executor_input.to_json(), indent=1)
    write_atomically(attempt_dir.executor_input, text.encode(), durable=False)
    return attempt_dir


def step_job(
    step: PlanStep, attempt_dir: AttemptDir, settings: Settings, gpus: Sequence[str]
) -> Job:
    """The process of a prepared attempt."""
    environ = {
        **os.environ,
        "CRUCIBLE_STORE": settings.store_uri,
        "CRUCIBLE_HOME": str(settings.home_dir),
        "CRUCIBLE_EVENTS": str(attempt_dir.events),
        "CRUCIBLE_CHECKPOINTS": str(checkpoints_dir(step, settings)),
        "CRUCIBLE_SCRATCH": str(attempt_dir.scratch_dir),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }
    return Job(
        id=f"{step.id}/{attempt_dir.path.name}",
        module=RUNNER_MODULE,
        argv=(step.component, "--executor-input", f"@{attempt_dir.executor_input}"),
        environ=environ,
        log_path=str(attempt_dir.log),
        component=step.component,
    )


def checkpoints_dir(step: PlanStep, settings: Settings) -> Path:
    """Where ``step`` keeps its checkpoints, whatever the run."""
    return settings.checkpoints_dir / step.fingerprint.removeprefix("sha256:")
