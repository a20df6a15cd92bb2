"""What comes after the steps, each as a step of its own: the release, and the record of the run.

Both work on the run's folder as the local engine lays it out, made from the journal
(`crucible.engines.kfp.mirror`), with the code that the local engine uses.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from crucible.artifacts import open_store
from crucible.engines.kfp.names import RECORD_ID, RELEASE_ID
from crucible.errors import CrucibleError
from crucible.journal import Journal
from crucible.plan.model import Plan, PlanStep, SlotInput, StepOutput
from crucible.sdk.catalogue import load_component
from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Resources,
    slots_of,
)
from crucible.sdk.context import Context
from crucible.sdk.types import ArtifactType, Metrics, RunRecord
from crucible.settings import Settings

logger = logging.getLogger(__name__)

_RESOURCES = Resources(cpus=0.5, memory_gib=1.0)
_NO_FINGERPRINT = f"sha256:{'0' * 64}"
"""They run each time."""


class _PlanConfig(ComponentConfig):
    plan: str
    """Digest of the run's plan."""


class ReleaseModel(Component):
    """Decide by the gate, register the model, move the alias."""

    name = "release-model"
    cacheable: ClassVar[bool] = False
    resources = _RESOURCES

    Config = _PlanConfig

    class Outputs(ComponentOutputs):
        decision: Metrics
        """``version``, ``alias_moved`` as 0 or 1, and the numbers the gate judged."""

    def run(
        self, inputs: ComponentInputs, config: _PlanConfig, outputs: Outputs, context: Context
    ) -> None:
        from crucible.engines.kfp.mirror import mirror_run
        from crucible.registry.release import release_run

        settings = Settings.load()
        journal = Journal(open_store(settings.store_uri).backend, context.run_id)
        run_dir = mirror_run(journal, config.plan, context.scratch_dir / context.run_id)
        record = release_run(run_dir.path, settings)
        journal.append("release.decided", release=json.loads(run_dir.release.read_text()))
        logger.info("%s", record.summary)
        outputs.decision.write(
            {"version": record.version, "alias_moved": float(record.alias_moved)}
        )


class RecordRun(Component):
    """Write down the run as it stands, for the exit step and for MLflow."""

    name = "record-run"
    cacheable: ClassVar[bool] = False
    resources = _RESOURCES

    Config = _PlanConfig

    class Outputs(ComponentOutputs):
        record: RunRecord

    def run(
        self, inputs: ComponentInputs, config: _PlanConfig, outputs: Outputs, context: Context
    ) -> None:
        from crucible.engines.kfp.mirror import end_run, mirror_run
        from crucible.engines.local.record import run_json

        settings = Settings.load()
        store = open_store(settings.store_uri)
        journal = Journal(store.backend, context.run_id)
        run_dir = mirror_run(journal, config.plan, context.scratch_dir / context.run_id)
        history = end_run(run_dir, journal.events())
        text = run_json(run_dir, run_dir.read_plan(), history)
        outputs.record.new_file("run.json").write_text(text)
        if os.environ.get("MLFLOW_TRACKING_URI") and os.environ.get("CRUCIBLE_TRACKING") != "off":
            _tell_mlflow(run_dir.path, settings)


def release_step(plan: Plan, images: Mapping[str, str]) -> PlanStep:
    """The release as a step."""
    outputs = {"decision": ArtifactType("Metrics")}
    return _step(RELEASE_ID, ReleaseModel, plan, outputs, images)


def exit_steps(plan: Plan, images: Mapping[str, str]) -> tuple[PlanStep, ...]:
    """The record, and behind it the plan's exit step if it has one."""
    record = _step(RECORD_ID, RecordRun, plan, {"record": ArtifactType("RunRecord")}, images)
    if plan.on_exit is None:
        return (record,)
    declared = slots_of(load_component(plan.on_exit.component).Inputs)
    source = (StepOutput(RECORD_ID, "record"),)
    slots = tuple(
        SlotInput(slot.name, slot.type, source)
        for slot in declared
        if slot.type.name == RunRecord.type_name
    )
    return record, replace(plan.on_exit, inputs=(*plan.on_exit.inputs, *slots))


def _step(
    step_id: str,
    cls: type[Component],
    plan: Plan,
    outputs: Mapping[str, ArtifactType],
    images: Mapping[str, str],
) -> PlanStep:
    image = images.get(cls.image) or next(iter(images.values()))  # each holds the base
    return PlanStep(
        id=step_id,
        name=step_id,
        component=f"{cls.__module__}:{cls.__name__}",
        config={"plan": plan.digest},
        inputs=(),
        outputs=dict(outputs),
        fingerprint=_NO_FINGERPRINT,
        fingerprint_parts={},
        resources=cls.resources,
        cache_enabled=False,
        image=image,
    )


def _tell_mlflow(run_dir: Path, settings: Settings) -> None:
    """Send what the steps could not, and the run's end. MLflow has a copy: it fails nothing."""
    from crucible.tracking.relay import sync_run

    try:
        sync_run(run_dir, settings)
    except CrucibleError as error:
        logger.warning("MLflow does not have all of this run: %s", error)
