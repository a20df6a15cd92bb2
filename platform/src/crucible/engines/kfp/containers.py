"""The executors of a pipeline: image, command, environment and resources of each pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from crucible.engines.kfp import ir
from crucible.engines.kfp.kubernetes_config import environment, executor_config
from crucible.engines.kfp.units import Unit
from crucible.errors import Problem, UserError
from crucible.plan.model import PlanStep
from crucible.sdk.component import Resources
from crucible.specs.context import ContextDocument, ImageSet
from crucible.specs.pools import CPU_POOL, pool_of

Json = dict[str, Any]

POD_OVERHEAD_GIB = 0.5
"""What the pod's own processes need beside the step: reporting, and the relay to MLflow."""
MAX_PARAMETERS_BYTES = 100_000
"""A pod's executor input is one argument, of which Linux allows 128 KiB."""
MAX_TASKS = 120
"""A Workflow object has 11 KB a task and may have 1.5 MB."""
LAUNCHER_IMAGE: ImageSet = "cluster"
LAUNCHER_RESOURCES = Resources(cpus=0.2, memory_gib=0.25, pool=CPU_POOL)
"""Of the pod that launches a step on several nodes: 103 MB measured, and 39 MB of the
pod's main process."""
_COMMAND = ("python3", "-P", "-m", "crucible.step")
_MAX_LABEL_CHARS = 63
_START_MINUTES = 30.0
"""For a pod to get its image and start; it counts towards the deadline."""
_ENDING_MINUTES = 1.0
"""For an attempt that is over its timeout to end, and to say so."""


@dataclass
class Containers:
    """Adds executors to a document, and keeps what is wrong with them."""

    context: ContextDocument
    document: ir.Document
    problems: list[Problem] = field(default_factory=list)

    def add(self, unit: Unit) -> None:
        """The executor of ``unit``, under its name."""
        self.problems += _problems(unit)
        step, last = _most_demanding(unit), unit.steps[-1]
        deadline_minutes = _deadline_minutes(unit)
        if step.resources.nodes > 1:
            step, deadline_minutes = self._launcher_of(step), None  # waiting for quota is not work
        self.document.executors[f"exec-{unit.name}"] = {
            "container": {
                "image": step.image,
                "command": list(_COMMAND),
                "args": [last.component, "--executor-input", "{{$}}"],
                "env": [{"name": k, "value": v} for k, v in self._environment(unit, step).items()],
                "resources": self._resources(step),
            }
        }
        self.document.kubernetes[f"exec-{unit.name}"] = executor_config(
            self.context,
            step,
            label=unit.name[:_MAX_LABEL_CHARS].rstrip("-"),
            deadline_minutes=deadline_minutes,
        )

    def _launcher_of(self, step: PlanStep) -> PlanStep:
        """What the pod runs that launches a step on several nodes: our image, and no GPU."""
        image = self.context.images.get(LAUNCHER_IMAGE)
        if image is None:
            rule = "on several nodes need it for the pod that starts them."
            fix = "Add it by digest: `platformctl images digest` prints it."
            problem = Problem(f"images.{LAUNCHER_IMAGE}", f"is not set; steps {rule}", fix)
            self.problems += [problem] * (problem not in self.problems)
        return replace(step, image=image or "", resources=LAUNCHER_RESOURCES)

    def check(self) -> None:
        """Raise if anything is in the way.

        Raises:
            UserError: with every problem of every executor.
        """
        count = len(self.document.executors)
        if count > MAX_TASKS:
            self.problems.append(
                Problem(
                    "steps",
                    f"are {count} tasks; a Workflow of Argo holds about {MAX_TASKS}.",
                    "Write alike steps as one with foreach, or set chain_steps in the context.",
                )
            )
        if self.problems:
            name = self.context.metadata.name
            raise UserError(f"the pipeline cannot run in context {name}.", self.problems)

    def _environment(self, unit: Unit, step: PlanStep) -> dict[str, str]:
        retry = step.retry
        return environment(self.context) | {
            # KFP's compiler to Argo keeps one component a container: of two components with equal
            # containers one gets the other's outputs. This keeps ours apart.
            "CRUCIBLE_TASK": unit.name,
            "CRUCIBLE_RETRY_LIMIT": str(retry.limit),
            "CRUCIBLE_RETRY_BACKOFF_SECONDS": f"{retry.backoff_seconds:g}",
            "CRUCIBLE_RETRY_FACTOR": f"{retry.backoff_factor:g}",
            "CRUCIBLE_RETRY_MAX_SECONDS": f"{retry.max_backoff_seconds:g}",
        }

    def _resources(self, step: PlanStep) -> Json:
        """Memory is a limit, since a node that runs out of it kills whom it likes; cpu is not."""
        resources = step.resources
        memory_mib = round((resources.memory_gib + POD_OVERHEAD_GIB) * 1024)
        made: Json = {
            "cpuRequest": resources.cpus,
            "resourceCpuRequest": f"{round(resources.cpus * 1000)}m",
            "memoryRequest": memory_mib * 2**20 / 1e9,
            "resourceMemoryRequest": f"{memory_mib}Mi",
            "memoryLimit": memory_mib * 2**20 / 1e9,
            "resourceMemoryLimit": f"{memory_mib}Mi",
        }
        if resources.gpus:
            kind = pool_of(self.context, resources.pool).gpu_resource
            made["accelerator"] = {
                "type": kind,
                "count": str(resources.gpus),
                "resourceType": kind,
                "resourceCount": str(resources.gpus),
            }
        return made


def _most_demanding(unit: Unit) -> PlanStep:
    """The step whose resources the pod gets: its members run one after another."""
    return max(unit.steps, key=lambda step: _demand(step.resources))


def _demand(resources: Resources) -> tuple[int, float, float]:
    return resources.gpus, resources.memory_gib, resources.cpus


def _deadline_minutes(unit: Unit) -> float | None:
    """Longer than the pod can take while it ends its own steps at their timeouts.

    A pod that its node ends at a deadline says nothing, and Argo would start it again.
    """
    limits = [_longest_minutes(step) for step in (unit.steps if unit.is_chain else unit.steps[:1])]
    return None if None in limits else _START_MINUTES + sum(filter(None, limits))


def _longest_minutes(step: PlanStep) -> float | None:
    if step.timeout_minutes is None:
        return None
    retry = step.retry
    wait_minutes = retry.limit * retry.max_backoff_seconds / 60
    return (step.timeout_minutes + _ENDING_MINUTES) * (retry.limit + 1) + wait_minutes


def _problems(unit: Unit) -> Iterator[Problem]:
    for step in unit.steps:
        size_bytes = len(json.dumps(step.config)) + len(json.dumps(step.fingerprint_parts))
        if size_bytes > MAX_PARAMETERS_BYTES:
            yield Problem(
                f"steps.{step.name}.with",
                f"has {size_bytes // 1024} KiB of settings; a pod takes "
                f"{MAX_PARAMETERS_BYTES // 1024} KiB.",
                "Put the data into a file and pass it as an input.",
            )
