"""What a report needs of a run, read from the engine's ``run.json``.

The record holds the plan and the state as JSON (schema ``crucible.run/v1``), each step's metric
series ``{name: [[step, value, time], …]}`` and its params. The run is not over while its report is
being made, so the outcome is read off the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crucible.errors import UserError

if TYPE_CHECKING:
    from crucible.sdk.types import RunRecord

RUN_PATH = "run.json"
SCHEMA = "crucible.run/v1"

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class StepView:
    """One step: what it was to do, and how it went."""

    id: str
    name: str
    component: str
    status: str
    config: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, ...]]
    """Where each slot's artifacts come from, as ``step.output`` or a URI."""
    parents: tuple[str, ...]
    fingerprint: str
    started_at: float | None = None
    ended_at: float | None = None
    attempt: int = 0
    reason: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Manifest digest by output."""
    failure: Mapping[str, Any] | None = None
    peak_memory_gib: float | None = None
    series: Mapping[str, Series] = field(default_factory=dict)
    """Logged values over training steps, by metric."""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """How long it ran; None before it ended."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)


@dataclass(frozen=True)
class RunView:
    """One run."""

    run_id: str
    pipeline: str
    description: str
    steps: tuple[StepView, ...]
    started_at: float | None
    params: Mapping[str, Any]
    spec_text: str
    plan_digest: str
    release: Mapping[str, Any] | None
    """The registry's record: version, outcome, decision."""
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """The worst that became of a step: failed, cancelled, running or succeeded."""
        found = {step.status for step in self.steps}
        for status in ("failed", "cancelled"):
            if status in found:
                return status
        return "succeeded" if found <= {"succeeded", "cached", "skipped"} else "running"

    @property
    def seconds(self) -> float | None:
        """From the start to the end of the last step."""
        ends = [step.ended_at for step in self.steps if step.ended_at is not None]
        return max(ends) - self.started_at if ends and self.started_at is not None else None

    def producers_of(self, digest: str | None) -> list[str]:
        """Ids of the steps that wrote the artifact of that digest: equal outputs, one digest."""
        return [step.id for step in self.steps if digest in step.outputs.values()]


def read_run(record: RunRecord) -> RunView:
    """The run of a record.

    Raises:
        UserError: the record is of another schema.
    """
    value = record.read_json(RUN_PATH)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise UserError(
            f"{record.name}: {RUN_PATH} is of schema {found!r}, not {SCHEMA!r}. "
            "Make the report with the version that ran the pipeline."
        )
    plan, state = value["plan"], value["state"]
    return RunView(
        run_id=state["run_id"],
        pipeline=plan["name"],
        description=plan.get("description", ""),
        steps=tuple(_step(step, value) for step in plan["steps"]),
        started_at=state.get("started_at"),
        params=plan.get("params", {}),
        spec_text=plan.get("spec_text", ""),
        plan_digest=state.get("plan_digest", ""),
        release=state.get("release"),
        warnings=tuple(state.get("warnings", ())),
    )


def _step(planned: Mapping[str, Any], record: Mapping[str, Any]) -> StepView:
    step_id = planned["id"]
    state = record["state"]["steps"].get(step_id, {})
    series = record.get("metrics", {}).get(step_id, {})
    return StepView(
        id=step_id,
        name=planned.get("name", step_id),
        component=planned["component"],
        status=state.get("status", "pending"),
        config=planned.get("config", {}),
        inputs={
            slot["slot"]: tuple(_source(source) for source in slot["sources"])
            for slot in planned.get("inputs", ())
        },
        parents=tuple(planned.get("after", ())),
        fingerprint=planned.get("fingerprint", ""),
        started_at=state.get("started_at"),
        ended_at=state.get("ended_at"),
        attempt=state.get("attempt", 0),
        reason=state.get("reason", ""),
        outputs=state.get("outputs", {}),
        failure=state.get("failure"),
        peak_memory_gib=state.get("peak_memory_gib"),
        series={
            name: [(float(point[0]), float(point[1])) for point in points]
            for name, points in series.items()
        },
        params=record.get("params", {}).get(step_id, {}),
    )


def _source(source: Mapping[str, Any]) -> str:
    if "step_id" in source:
        return f"{source['step_id']}.{source['output']}"
    return str(source.get("uri", ""))
