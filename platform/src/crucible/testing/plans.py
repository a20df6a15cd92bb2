"""Plans built in code, without a pipeline file: for tests and benchmarks of engines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from crucible.plan.model import (
    Import,
    Plan,
    PlanStep,
    Retry,
    SlotInput,
    Source,
    StepOutput,
)
from crucible.sdk.catalogue import load_component
from crucible.sdk.component import Component, Resources, Slot, slots_of

TESTING_COMPONENTS = "crucible.testing.components"


def make_step(
    step_id: str,
    component: str,
    inputs: Mapping[str, Source | list[Source]] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    after: tuple[str, ...] = (),
    **fields: Any,
) -> PlanStep:
    """One step of a component of `crucible.testing.components`, or of ``package.module:Class``.

    The fingerprint is over component, config and inputs, so equal steps of two plans share a cache
    entry as they do in planned pipelines.

    Args:
        step_id: also its name, up to a bracket.
        component: class name, or ``package.module:Class``.
        inputs: what fills its slots.
        config: settings; defaults are filled in.
        after: steps to wait for besides those that fill its slots.
        fields: any other fields of `PlanStep`. Unlike in pipelines nothing is retried by default.
    """
    uses = component if ":" in component else f"{TESTING_COMPONENTS}:{component}"
    cls = load_component(uses)
    filled = {name: _listed(source) for name, source in (inputs or {}).items()}
    values = cls.Config.model_validate(config or {}).model_dump(mode="json")
    parts = _fingerprint_parts(uses, values, filled)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    step = PlanStep(
        id=step_id,
        name=step_id.partition("[")[0],
        component=uses,
        config=values,
        inputs=_slot_inputs(cls, filled),
        outputs={slot.name: slot.type for slot in slots_of(cls.Outputs)},
        fingerprint=f"sha256:{digest}",
        fingerprint_parts=parts,
        after=tuple(dict.fromkeys((*_producers(filled), *after))),
        resources=Resources(cpus=0.5, memory_gib=0.25),
        retry=Retry(limit=0),
        cache_enabled=cls.cacheable,
    )
    return dataclasses.replace(step, **fields)


def make_plan(
    *steps: PlanStep,
    name: str = "testing",
    on_exit: PlanStep | None = None,
    **fields: Any,
) -> Plan:
    """A plan of ``steps``, each behind what it needs; ``fields`` are any others of `Plan`."""
    return Plan(
        name=name,
        description="",
        spec_path="pipeline.yaml",
        spec_text="",
        params={},
        steps=steps,
        on_exit=on_exit,
        **fields,
    )


def noop_chain(num_steps: int, *, salt: str = "") -> Plan:
    """Steps that each read one small artifact and write another."""
    steps: list[PlanStep] = []
    for number in range(num_steps):
        inputs = {"dataset": StepOutput(steps[-1].id, "dataset")} if steps else {}
        config = {"salt": f"{salt}{number}"}
        steps.append(make_step(f"step{number}", "Noop", inputs, config=config))
    return make_plan(*steps, name="noop-chain")


def _slot_inputs(
    cls: type[Component], filled: Mapping[str, tuple[Source, ...]]
) -> tuple[SlotInput, ...]:
    slots: dict[str, Slot] = {slot.name: slot for slot in slots_of(cls.Inputs)}
    return tuple(
        SlotInput(name, slots[name].type, sources, slots[name].many)
        for name, sources in filled.items()
    )


def _listed(source: Source | list[Source]) -> tuple[Source, ...]:
    return tuple(source) if isinstance(source, list) else (source,)


def _producers(filled: Mapping[str, tuple[Source, ...]]) -> list[str]:
    sources = (source for listed in filled.values() for source in listed)
    return [source.step_id for source in sources if isinstance(source, StepOutput)]


def _fingerprint_parts(
    uses: str, config: Mapping[str, Any], filled: Mapping[str, tuple[Source, ...]]
) -> dict[str, str]:
    identities = {name: list(map(_identity, listed)) for name, listed in filled.items()}
    return {
        "component": uses,
        "config": json.dumps(config),
        "inputs": json.dumps(identities),
    }


def _identity(source: Source) -> str:
    if isinstance(source, Import):
        return source.identity
    return f"{source.step_id}/{source.output}"
