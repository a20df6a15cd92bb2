"""A task as a pod: what KFP's driver makes of it, and what a runner makes of that."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from crucible.testing.kfp_driver.inputs import DriverError, Inputs
from crucible.testing.kfp_driver.launcher import LOGS, local_path
from crucible.testing.kfp_driver.values import as_value, to_text

Json = dict[str, Any]

MAX_ARGUMENT_BYTES = 128 * 1024
"""What Linux allows for one argument, its terminating zero included."""
_PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+?)']}}")
_IF_PRESENT = '{"IfPresent":'


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with one attempt of a task, on request.

    ``kill``: the kernel kills all of the pod. ``delete``: somebody deletes the pod, as the drain of
    a node does. ``lose``: a file that the task wrote is not uploaded.
    """

    task: str
    """Its path, or the end of it."""
    kind: Literal["kill", "delete", "lose"]
    attempt: int = 0
    when: Callable[[], bool] = lambda: True
    """Asked again and again while the pod runs; for ``kill`` and ``delete``."""
    artifact: str = ""
    """For ``lose``."""

    def meets(self, task: str, attempt: int) -> bool:
        """True if it is about this attempt."""
        return self.attempt == attempt and (task == self.task or task.endswith(f"/{self.task}"))


@dataclass(frozen=True)
class Pod:
    """One attempt of a task, for a runner."""

    name: str
    """Fit for Kubernetes."""
    run_id: str
    """KFP's."""
    task: str
    """Path of the task."""
    attempt: int
    image: str
    flags: list[str]
    """Of the launcher, before the user's command line."""
    command: list[str]
    """The user's, as the container has it."""
    environ: Mapping[str, str]
    resources: Json
    kubernetes: Json
    """The entry of the platform document."""
    faults: tuple[Fault, ...] = ()
    terminated: Callable[[], bool] = lambda: False
    """True once somebody has ended the run: the pod is asked to end, then."""


@dataclass(frozen=True)
class PodEnd:
    """How a pod ended."""

    phase: Literal["succeeded", "failed", "error"]
    """``error``: it is gone and left no end of its own; Argo tells the two apart."""
    message: str = ""
    log: str = ""


TERMINATED = PodEnd("failed", "workflow shutdown with strategy:  Terminate")
"""Of a pod whose run was ended."""


class Runner(Protocol):
    """Runs pods."""

    def run(self, pod: Pod) -> PodEnd:
        """Run ``pod`` to its end. Called from several threads."""


@dataclass(frozen=True)
class Request:
    """What the launcher of a task is told, the same for all its attempts."""

    executor_input: Json
    flags: list[str]
    command: list[str]
    result_uri: str = field(default="")
    """What the launcher writes there is for the driver."""


def make_request(
    task_name: str, component: Json, container: Json, inputs: Inputs, *, run_root: str, root: str
) -> Request:
    """Provision the outputs of a task and resolve its command line.

    Args:
        task_name: key of the task in its level.
        component: its definition.
        container: its executor.
        inputs: resolved.
        run_root: uri below which the run's artifacts lie.
        root: the pipeline root.

    Raises:
        DriverError: no command, an unknown parameter in it, or an argument is too long.
    """
    outputs = provision(f"{run_root}/{task_name}/{uuid.uuid4()}", component)
    executor_input = {"inputs": _inputs_json(inputs), "outputs": outputs}
    command = [*container.get("command", ()), *container.get("args", ())]
    command = [part for text in command for part in _resolved(text, inputs.parameters)]
    if not command:
        raise DriverError("failed to create component launcher v2: command and arguments are empty")
    result_uri = outputs["outputFile"].replace("/s3/", "s3://", 1) + ".launcher"
    flags = [
        *("--executor_input", argument("executor_input", executor_input)),
        *("--component_spec", argument("component_spec", component)),
        *("--pipeline_root", root),
        *("--result", result_uri),
    ]
    return Request(executor_input, flags, command, result_uri)


def provision(task_root: str, component: Json) -> Json:
    """Places of all outputs of a task."""
    declared = component.get("outputDefinitions", {})
    artifacts = {
        LOGS: {"artifactType": {"schemaTitle": "system.Artifact"}},
        **declared.get("artifacts", {}),
    }
    parameters = {
        name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in declared.get("parameters", {})
    }
    local = local_path(task_root)
    assert local is not None
    return {
        "artifacts": {
            name: {"artifacts": [_provisioned(name, definition, task_root)]}
            for name, definition in artifacts.items()
        },
        **({"parameters": parameters} if parameters else {}),
        "outputFile": f"{local}/output_metadata.json",
    }


def argument(name: str, value: Any) -> str:
    """``value`` as one argument of a command line.

    Raises:
        DriverError: Linux would refuse it.
    """
    text = json.dumps(value, ensure_ascii=False)
    if len(text.encode()) >= MAX_ARGUMENT_BYTES:
        raise DriverError(f"--{name}: argument list too long: {len(text.encode())} bytes")
    return text


def _provisioned(name: str, definition: Json, task_root: str) -> Json:
    made = {"name": name, "type": definition["artifactType"], "uri": f"{task_root}/{name}"}
    return made | ({"metadata": definition["metadata"]} if "metadata" in definition else {})


def _inputs_json(inputs: Inputs) -> Json:
    found: Json = {}
    if inputs.parameters:
        found["parameterValues"] = {n: as_value(v) for n, v in inputs.parameters.items()}
    if inputs.artifacts:
        found["artifacts"] = {
            name: {"artifacts": [one.as_input() for one in entries]}
            for name, entries in inputs.artifacts.items()
        }
    return found


def _resolved(text: str, parameters: Mapping[str, Any]) -> list[str]:
    """One part of the command line; outputs are the launcher's to fill in."""
    if "$.outputs" in text:
        return [text]
    if text.strip().startswith(_IF_PRESENT):
        clause = json.loads(text)["IfPresent"]
        present = parameters.get(clause["InputName"]) is not None
        chosen = clause.get("Then" if present else "Else") or []
        parts = [chosen] if isinstance(chosen, str) else chosen
        return [_with_parameters(part, parameters) for part in parts]
    return [_with_parameters(text, parameters)]


def _with_parameters(text: str, parameters: Mapping[str, Any]) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in parameters:
            raise DriverError(f"parameter {name!r} not found in executor input")
        return to_text(parameters[name])

    return _PARAMETER.sub(value_of, text)
