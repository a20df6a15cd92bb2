"""What a pod is asked to do: one step, or a chain of steps that share the pod.

The launcher of Kubeflow Pipelines passes an ``ExecutorInput`` whose parameters are

* ``run_id``: the run whose journal the pod writes, given at submission; empty where somebody runs
  the compiled pipeline by other means;
* ``kfp_run_id``: KFP's own id of the run;
* ``step`` and ``config`` of the one step, or ``chain``, a list of steps with their configs;
* ``trainjob``: where the step runs on several nodes, what their TrainJob needs besides; this pod
  then launches it and follows it;
* ``item``: where this pod is one item of a fan-out, what sets its step apart from the others.

Which output of which step fills a slot stands in ``step.inputs``; the references themselves come
from the run's journal, so that a pod needs no artifact of KFP to be there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible.errors import UserError
from crucible.sdk.executor import RuntimeArtifact, read_request
from crucible.sdk.pod.braces import unquoted
from crucible.sdk.types import ArtifactType

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Fills a place in a slot: an output of another step of the run, or an artifact by digest."""

    step_id: str = ""
    output: str = ""
    count: int | None = None
    """The step is a fan-out of that many items, all of which are meant."""
    digest: str = ""
    """Of an artifact from outside the run; then the rest is empty."""

    @property
    def step_ids(self) -> list[str]:
        """The steps whose outputs are meant."""
        if self.digest:
            return []
        if self.count is None:
            return [self.step_id]
        return [f"{self.step_id}[{index}]" for index in range(self.count)]


@dataclass(frozen=True)
class Metric:
    """A number that another step of the run measured."""

    step_id: str
    output: str
    metric: str


@dataclass(frozen=True)
class PodStep:
    """One step of the pod, as the plan has it."""

    step_id: str
    component: str
    config: Json
    fingerprint: str
    code: str
    """Digest of the component's code when the run was planned."""
    inputs: Mapping[str, Sequence[Source]]
    outputs: Mapping[str, ArtifactType]
    metric_refs: Mapping[str, Metric] = field(default_factory=dict)
    parameters: Mapping[str, Metric] = field(default_factory=dict)
    """Output parameters of the KFP task: conditions of other steps compare them."""
    seed: int = 0
    cache: bool = True
    cpus: float = 1.0
    optional_outputs: tuple[str, ...] = ()
    timeout_minutes: float | None = None
    """Of one attempt."""


@dataclass(frozen=True)
class PodRequest:
    """Everything the pod has to do."""

    run_id: str
    kfp_run_id: str
    plan_digest: str
    steps: tuple[PodStep, ...]
    is_chain: bool
    outputs: Mapping[str, RuntimeArtifact]
    """By the name of the KFP artifact."""
    output_file: Path
    trainjob: Json | None = None
    """For `crucible.engines.kfp.launcher`, which alone reads it."""

    @classmethod
    def parse(cls, text: str) -> PodRequest | None:
        """Read the JSON of ``--executor-input``; None if it is a plain step's.

        Raises:
            UserError: it is neither.
        """
        value = read_request(text)
        parameters = value.parameters
        if "run_id" not in parameters:
            return None
        try:
            is_chain = "chain" in parameters
            members = _json(parameters["chain"]) if is_chain else [_single(parameters)]
            return cls(
                run_id=str(parameters["run_id"]),
                kfp_run_id=str(parameters["kfp_run_id"]),
                plan_digest=str(parameters["plan"]),
                steps=tuple(_step(member) for member in members),
                is_chain=is_chain,
                outputs=value.outputs,
                output_file=value.output_file,
                trainjob=_json(parameters["trainjob"]) if "trainjob" in parameters else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"--executor-input: {type(error).__name__}: {error}. The pipeline was compiled by "
                "another version: compile or submit it again."
            ) from error

    def artifact_name(self, step: PodStep, output: str) -> str:
        """What KFP calls an output of ``step``."""
        return f"{step.step_id}.{output}" if self.is_chain else output


def patched(value: Json, changes: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """``value`` with each ``[path, new]`` set and each ``[path]`` removed; a path is a list."""
    result = copy.deepcopy(dict(value))
    for path, *new in changes:
        holder = result
        for key in path[:-1]:
            holder = holder.setdefault(key, {})
        if new:
            holder[path[-1]] = new[0]
        else:
            holder.pop(path[-1], None)
    return result


def _single(parameters: Json) -> dict[str, Any]:
    member = {**_json(parameters["step"]), "config": _json(parameters.get("config") or {})}
    item = parameters.get("item")
    return member if item is None else patched(member, _json(item))


def _json(value: Any) -> Any:
    """A KFP struct or list, which may come as its text."""
    return json.loads(value) if isinstance(value, str) else value


def _step(value: Json) -> PodStep:
    timeout = value.get("timeout_minutes")
    return PodStep(
        step_id=str(value["step_id"]),
        component=str(value["component"]),
        config=dict(unquoted(value["config"])),
        fingerprint=str(value["fingerprint"]),
        code=str(value.get("code", "")),
        inputs={
            slot: tuple(_source(source) for source in sources)
            for slot, sources in value["inputs"].items()
        },
        outputs={
            name: ArtifactType(kind["name"], kind["variant"])
            for name, kind in value["outputs"].items()
        },
        metric_refs=_metrics(value.get("metric_refs") or {}),
        parameters=_metrics(value.get("parameters") or {}),
        seed=int(value.get("seed", 0)),
        cache=bool(value.get("cache", True)),
        cpus=float(value.get("cpus", 1.0)),
        optional_outputs=tuple(value.get("optional_outputs") or ()),
        timeout_minutes=None if timeout is None else float(timeout),
    )


def _source(value: Json) -> Source:
    count = value.get("count")
    return Source(
        step_id=str(value.get("step", "")),
        output=str(value.get("output", "")),
        count=None if count is None else int(count),
        digest=str(value.get("digest", "")),
    )


def _metrics(value: Json) -> dict[str, Metric]:
    return {
        name: Metric(str(ref["step"]), str(ref["output"]), str(ref["metric"]))
        for name, ref in value.items()
    }
