"""Pipelines in KFP's IR, and a runner whose pods do what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.testing.kfp_driver import (
    Objects,
    Pipeline,
    Run,
    Settings,
    read_pipeline,
    run_pipeline,
)
from crucible.testing.kfp_driver.pods import Pod, PodEnd

Json = dict[str, Any]
ROOT = "s3://bucket/root"


def task(name: str, *, after: tuple[str, ...] = (), component: str = "", **fields: Any) -> Json:
    """A task of the component of its name."""
    made: Json = {"taskInfo": {"name": name}, "componentRef": {"name": component or f"comp-{name}"}}
    return made | ({"dependentTasks": list(after)} if after else {}) | fields


def parameters(**values: Any) -> Json:
    """Constant inputs of a task."""
    constants = {name: {"runtimeValue": {"constant": value}} for name, value in values.items()}
    return {"inputs": {"parameters": constants}}


def leaf(name: str, inputs: Mapping[str, str] | None = None, **outputs: str) -> Json:
    """A component with a container; inputs and outputs are types of parameters by name."""
    made: Json = {"executorLabel": f"exec-{name}"}
    if inputs:
        kinds = {key: {"parameterType": kind} for key, kind in inputs.items()}
        made["inputDefinitions"] = {"parameters": kinds}
    if outputs:
        kinds = {key: {"parameterType": kind} for key, kind in outputs.items()}
        made["outputDefinitions"] = {"parameters": kinds}
    return made


def level(*tasks: Json, **inputs: str) -> Json:
    """A component with a DAG."""
    made: Json = {"dag": {"tasks": {one["taskInfo"]["name"]: one for one in tasks}}}
    if inputs:
        kinds = {key: {"parameterType": kind} for key, kind in inputs.items()}
        made["inputDefinitions"] = {"parameters": kinds}
    return made


def pipeline_text(root: Json, **components: Json) -> str:
    """Two documents; each component without a DAG gets a container of its own."""
    named = {f"comp-{name.replace('_', '-')}": value for name, value in components.items()}
    executors = {
        component["executorLabel"]: {
            "container": {"image": "image", "command": ["run", component["executorLabel"]]}
        }
        for component in named.values()
        if "executorLabel" in component
    }
    document = {
        "pipelineInfo": {"name": "testing"},
        "schemaVersion": "2.1.0",
        "components": named,
        "deploymentSpec": {"executors": executors},
        "root": root,
    }
    return yaml.safe_dump(document)


def pipeline(root: Json, **components: Json) -> Pipeline:
    return read_pipeline(pipeline_text(root, **components))


@dataclass
class ScriptedRunner:
    """Pods by the path of their task: ends, one an attempt, and what they write."""

    folder: Path
    ends: dict[str, list[str]] = field(default_factory=dict)
    """``succeeded``, ``failed`` or ``error``; succeeded where nothing is said."""
    values: dict[str, Json] = field(default_factory=dict)
    """Output parameters."""
    metadata: dict[str, Json] = field(default_factory=dict)
    """Of all output artifacts."""
    pods: list[Pod] = field(default_factory=list)
    most_at_once: int = 0
    hold_seconds: float = 0.0
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, pod: Pod) -> PodEnd:
        with self._lock:
            self.pods.append(pod)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            if self.hold_seconds:
                threading.Event().wait(self.hold_seconds)
            return self._end(pod)
        finally:
            with self._lock:
                self._running -= 1

    def _end(self, pod: Pod) -> PodEnd:
        ends = self.ends.get(pod.task, [])
        end = ends[pod.attempt] if pod.attempt < len(ends) else "succeeded"
        if end != "succeeded":
            return PodEnd(end, f"it {end}")  # type: ignore[arg-type]
        flags = dict(zip(pod.flags[::2], pod.flags[1::2], strict=True))
        outputs = json.loads(flags["--executor_input"])["outputs"]
        artifacts = {name: one["artifacts"][0] for name, one in outputs["artifacts"].items()}
        for artifact in artifacts.values():
            artifact["metadata"] = self.metadata.get(pod.task, {})
        told = {
            "state": "COMPLETE",
            "parameters": self.values.get(pod.task, {}),
            "artifacts": artifacts,
        }
        path = self.folder / flags["--result"].removeprefix("s3://")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
        return PodEnd("succeeded")

    def input_of(self, path: str) -> Json:
        """Executor input of the task's first pod."""
        pod = next(pod for pod in self.pods if pod.task == path)
        found: Json = json.loads(pod.flags[pod.flags.index("--executor_input") + 1])
        return found


@pytest.fixture
def runner(tmp_path: Path) -> ScriptedRunner:
    return ScriptedRunner(tmp_path)


@pytest.fixture
def drive(runner: ScriptedRunner) -> Callable[..., Run]:
    """Runs a pipeline with the runner."""

    def drive(pipeline: Pipeline, parameters: Json | None = None, **settings: Any) -> Run:
        objects = Objects.in_folder(runner.folder)
        return run_pipeline(
            pipeline, runner, objects, Settings(ROOT, **settings), parameters=parameters
        )

    return drive
