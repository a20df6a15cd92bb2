"""The parameters of a pod: what `crucible.sdk.pod.request` reads, written from the plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crucible.plan.model import Condition, Import, MetricRef, Plan, PlanStep, SlotInput
from crucible.sdk.fingerprint import CODE_PART

Json = dict[str, Any]


def step_json(
    step: PlanStep,
    *,
    imports: Mapping[str, str],
    fresh: bool,
    parameters: Mapping[str, MetricRef],
    fan_outs: Mapping[str, int],
) -> Json:
    """One step without its settings.

    Args:
        step: the step.
        imports: manifest digest by import URI.
        fresh: look nothing up in the cache.
        parameters: output parameters of the task, for the conditions of other steps.
        fan_outs: number of items by name of a fanned-out step.
    """
    timeout = {"timeout_minutes": step.timeout_minutes} if step.timeout_minutes else {}
    return {
        "step_id": step.id,
        "component": step.component,
        "fingerprint": step.fingerprint,
        "code": step.fingerprint_parts.get(CODE_PART, ""),
        "seed": step.seed,
        "cache": step.cache_enabled and not fresh,
        "cpus": step.resources.cpus,
        "optional_outputs": list(step.optional_outputs),
        **timeout,
        "inputs": {slot.slot: list(_sources(slot, imports, fan_outs)) for slot in step.inputs},
        "outputs": {n: {"name": t.name, "variant": t.variant} for n, t in step.outputs.items()},
        "metric_refs": _metrics(step.metric_refs),
        "parameters": _metrics(parameters),
    }


def parameter_name(ref: MetricRef) -> str:
    """Name of the parameter that carries a metric from the task that measures it to others."""
    return f"{ref.step_id}.{ref.output}.{ref.metric}"


def compared_metrics(plan: Plan) -> dict[str, dict[str, MetricRef]]:
    """The metrics that conditions compare, by the step that measures them and parameter name."""
    found: dict[str, dict[str, MetricRef]] = {}
    for step in plan.steps:
        for condition in step.when:
            ref = condition.left
            found.setdefault(ref.step_id, {})[parameter_name(ref)] = ref
    return found


def condition_cel(conditions: Sequence[Condition]) -> str:
    """All of ``conditions`` in CEL, over the task's input parameters."""
    return " && ".join(
        f"inputs.parameter_values['{parameter_name(c.left)}'] {c.op} {_cel_double(c.right)}"
        for c in conditions
    )


def changes(base: Any, other: Any, path: tuple[str, ...] = ()) -> Iterator[list[Any]]:
    """What turns ``base`` into ``other``: ``[path, value]`` to set, ``[path]`` to remove.

    Only objects are looked into; a list is replaced as a whole.
    """
    if isinstance(base, dict) and isinstance(other, dict):
        for key in base.keys() - other.keys():
            yield [[*path, key]]
        for key, value in other.items():
            if key not in base:
                yield [[*path, key], value]
            elif base[key] != value:
                yield from changes(base[key], value, (*path, key))
    elif base != other:
        yield [list(path), other]


def item_text(base: Json, member: Json) -> str:
    """One item of a loop, as text: what sets ``member`` apart from ``base``."""
    return json.dumps(list(changes(base, member)), separators=(",", ":"))


def _sources(
    slot: SlotInput, imports: Mapping[str, str], fan_outs: Mapping[str, int]
) -> Iterator[Json]:
    """What fills a slot; the items of a fan-out, which only come all together, as one entry."""
    told: set[tuple[str, str]] = set()
    for source in slot.sources:
        if isinstance(source, Import):
            yield {"digest": imports[source.uri]}
            continue
        name = source.step_id.partition("[")[0]
        if name not in fan_outs:
            yield {"step": source.step_id, "output": source.output}
        elif (name, source.output) not in told:
            told.add((name, source.output))
            yield {"step": name, "output": source.output, "count": fan_outs[name]}


def _metrics(refs: Mapping[str, MetricRef]) -> Json:
    return {
        name: {"step": ref.step_id, "output": ref.output, "metric": ref.metric}
        for name, ref in refs.items()
    }


def _cel_double(value: float) -> str:
    text = repr(float(value))  # finite: YAML of ours knows no other
    return text if any(mark in text for mark in ".e") else f"{text}.0"
