"""Inputs of a task, resolved as KFP's driver does it.

Source: ``backend/src/v2/driver/resolve.go`` of Kubeflow Pipelines.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from crucible.testing.kfp_driver.condition import select
from crucible.testing.kfp_driver.execution import (
    Artifact,
    Execution,
    State,
    output_artifacts,
    output_parameter,
)
from crucible.testing.kfp_driver.values import as_value, has_type, to_text

Json = dict[str, Any]


class DriverError(Exception):
    """The driver's pod would fail with this, and its task would never begin."""


@dataclass(frozen=True)
class RunFacts:
    """What the placeholders of a run stand for."""

    run_id: str
    run_name: str
    """Of the Workflow object."""
    display_name: str
    created: str


@dataclass(frozen=True)
class Inputs:
    """What a task is given."""

    parameters: dict[str, Any]
    artifacts: dict[str, list[Artifact]]


def resolve_inputs(task_name: str, task: Json, child: Execution, facts: RunFacts) -> Inputs:
    """The inputs of a task that is no iteration of a loop.

    Raises:
        DriverError: one of them has no value, or one of the wrong type.
    """
    level = child.parent
    assert level is not None
    definitions = _definitions(child)
    unset = _unset_of_level(task, child)
    values: dict[str, Any] = dict(unset)
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        try:
            value = _parameter(task_name, task, source, level, facts)
        except LookupError as error:
            raise DriverError(f"resolving input parameter {name!r}: {error}") from error
        if value is None and "componentInputParameter" in source:
            if not definitions.get(name, {}).get("isOptional"):
                raise DriverError(f"input parameter {name!r} is null")
            continue
        values[name] = as_value(value)
    artifacts = {
        name: _artifacts(name, source, level)
        for name, source in task.get("inputs", {}).get("artifacts", {}).items()
    }
    _apply_selectors(task, values)
    waits_for = task.get("parameterIterator", {}).get("itemInput")
    null_allowed = {name for name, value in unset.items() if value is None}
    return Inputs(_typed(definitions, values, skipped=waits_for, nulls=null_allowed), artifacts)


def items_of(task: Json, inputs: Inputs) -> list[Any]:
    """What a loop goes through.

    Raises:
        DriverError: that is no list.
    """
    items = task["parameterIterator"]["items"]
    if "raw" in items:
        value = json.loads(items["raw"])
    elif items["inputParameter"] in inputs.parameters:
        value = inputs.parameters[items["inputParameter"]]
    else:
        raise DriverError("iterating failed: cannot find input parameter")
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list):
        raise DriverError(f"value of type {type(value).__name__} cannot be iterated")
    return [as_value(item) for item in value]


def iteration_inputs(task: Json, child: Execution, loop: Execution, item: Any) -> Inputs:
    """The inputs of one iteration of ``loop``.

    Raises:
        DriverError: one of them has the wrong type.
    """
    iterator = task["parameterIterator"]
    values = dict(loop.parameters)
    items_input = iterator["items"].get("inputParameter")
    values.pop(items_input, None)
    values[iterator["itemInput"]] = item
    _apply_selectors(task, values)
    typed = _typed(_definitions(child), values, skipped=items_input, nulls=frozenset())
    return Inputs(typed, dict(loop.artifacts))


def _definitions(child: Execution) -> Json:
    found: Json = child.component.get("inputDefinitions", {}).get("parameters", {})
    return found


def _unset_of_level(task: Json, child: Execution) -> dict[str, Any]:
    """Optional inputs of a nested level that the task leaves out: their default, or null."""
    if "dag" not in child.component:
        return {}
    given = task.get("inputs", {}).get("parameters", {})
    return {
        name: as_value(definition.get("defaultValue"))
        for name, definition in _definitions(child).items()
        if name not in given and definition.get("isOptional")
    }


def _parameter(task_name: str, task: Json, source: Json, level: Execution, facts: RunFacts) -> Any:
    if "componentInputParameter" in source:
        name = source["componentInputParameter"]
        if name not in level.parameters:
            raise DriverError(f"parent DAG does not have input parameter {name}")
        return level.parameters[name]
    if "taskOutputParameter" in source:
        output = source["taskOutputParameter"]
        producer = level.children[output["producerTask"]]
        return output_parameter(producer, output["outputParameterKey"])
    if "taskFinalStatus" in source:
        return _final_status(level.children[task["dependentTasks"][0]], facts)
    value = source["runtimeValue"]["constant"]
    if isinstance(value, str):
        return _placeholders(task_name, level, facts).get(value, value)
    return value


def _placeholders(task_name: str, level: Execution, facts: RunFacts) -> dict[str, str]:
    """By the constant that stands for it; it must be the whole of a value."""
    return {
        "{{$.pipeline_job_name}}": facts.display_name,
        "{{$.pipeline_job_resource_name}}": facts.run_name,
        "{{$.pipeline_job_uuid}}": facts.run_id,
        "{{$.pipeline_task_name}}": task_name,
        "{{$.pipeline_task_uuid}}": str(level.id),
        "{{$.pipeline_job_create_time_utc}}": facts.created,
        "{{$.pipeline_job_schedule_time_utc}}": facts.created,
    }


def _final_status(producer: Execution, facts: RunFacts) -> Json:
    states = {State.SUCCEEDED: "COMPLETE", State.FAILED: "FAILED"}
    return {
        "state": states.get(producer.state, "RUNNING"),
        "pipelineTaskName": producer.name,
        "pipelineJobResourceName": facts.run_name,
        "error": {},
    }


def _artifacts(name: str, source: Json, level: Execution) -> list[Artifact]:
    if "componentInputArtifact" in source:
        outer = source["componentInputArtifact"]
        if outer not in level.artifacts:
            raise DriverError(f"parent DAG does not have input artifact {outer}")
        return level.artifacts[outer]
    output = source["taskOutputArtifact"]
    try:
        return output_artifacts(level.children[output["producerTask"]], output["outputArtifactKey"])
    except LookupError as error:
        raise DriverError(f"failed to resolve input artifact {name}: {error}") from error


def _apply_selectors(task: Json, values: dict[str, Any]) -> None:
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        selector = source.get("parameterExpressionSelector")
        if not selector:
            continue
        if name not in values:
            raise DriverError(f"resolving parameter {name!r}: value not found in inputs")
        try:
            values[name] = as_value(select(selector, values[name]))
        except ValueError as error:
            raise DriverError(f"resolving parameter {name!r}: {error}") from error


def _typed(
    definitions: Json, values: dict[str, Any], *, skipped: str | None, nulls: Collection[str]
) -> dict[str, Any]:
    """``values`` with what a STRING gets as text."""
    typed = dict(values)
    for name, definition in definitions.items():
        if name == skipped or (name in nulls and values[name] is None):
            continue
        if name not in values:
            if definition.get("isOptional"):
                continue  # the launcher fills its default in
            raise DriverError(
                f"neither value nor default value provided for non-optional parameter {name!r}"
            )
        kind = definition["parameterType"]
        if kind == "STRING":
            typed[name] = to_text(values[name])
        elif not has_type(values[name], kind):
            raise DriverError(
                f"input parameter {name!r} type mismatch: expect {kind}, got {values[name]!r}"
            )
    return typed
