"""A compiled pipeline: the two YAML documents, checked by KFP's own definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

Json = dict[str, Any]

EXIT_STRATEGY = "ALL_UPSTREAM_TASKS_COMPLETED"


class RefusedPipeline(ValueError):
    """KFP would not take the pipeline; the message says why."""


@dataclass(frozen=True)
class Pipeline:
    """What KFP is given."""

    name: str
    root: Json
    components: Mapping[str, Json]
    executors: Mapping[str, Json]
    """Container by executor label."""
    kubernetes: Mapping[str, Json]
    """Platform configuration by executor label."""

    def component(self, task: Json) -> Json:
        """The component that a task runs.

        Raises:
            RefusedPipeline: there is none of that name.
        """
        name = task["componentRef"]["name"]
        if name not in self.components:
            raise RefusedPipeline(f"cannot find component ref name={name!r}")
        return self.components[name]

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the pipeline's parameters for a run.

        Raises:
            RefusedPipeline: one is unknown or missing.
        """
        known = self.root.get("inputDefinitions", {}).get("parameters", {})
        if unknown := given.keys() - known.keys():
            names = ", ".join(sorted(unknown))
            raise RefusedPipeline(f"parameter(s) provided are not required by pipeline: {names}")
        values = {name: given.get(name, kind.get("defaultValue")) for name, kind in known.items()}
        for name, value in values.items():
            if value is None and not known[name].get("isOptional"):
                raise RefusedPipeline(
                    f"parameter {name} is not optional, yet has neither default value nor user "
                    "provided value"
                )
        return values


def read_pipeline(text: str) -> Pipeline:
    """The pipeline in a YAML text of one or two documents.

    Raises:
        RefusedPipeline: KFP would refuse it, or its two halves do not fit.
    """
    import yaml

    pipeline, *rest = yaml.safe_load_all(text)
    platform = rest[0] if rest else {}
    executors = pipeline["deploymentSpec"]["executors"]
    platforms = platform.get("platforms", {}).get("kubernetes", {})
    kubernetes = platforms.get("deploymentSpec", {}).get("executors", {})
    _check_form(pipeline, kubernetes)
    read = Pipeline(
        name=pipeline["pipelineInfo"]["name"],
        root=pipeline["root"],
        components=pipeline.get("components", {}),
        executors={label: _container(label, spec) for label, spec in executors.items()},
        kubernetes=kubernetes,
    )
    _check_components(read)
    _check_containers(read)
    return read


def dependencies(task: Json) -> list[str]:
    """Tasks of the same level that must have ended well: those named, and those it reads from."""
    found = list(task.get("dependentTasks", ()))
    inputs = task.get("inputs", {})
    for parameter in inputs.get("parameters", {}).values():
        if "taskOutputParameter" in parameter:
            found.append(parameter["taskOutputParameter"]["producerTask"])
    for artifact in inputs.get("artifacts", {}).values():
        if "taskOutputArtifact" in artifact:
            found.append(artifact["taskOutputArtifact"]["producerTask"])
    return list(dict.fromkeys(found))


def is_exit(task: Json) -> bool:
    """True if the task runs when those it depends on have ended, however they did."""
    return bool(task.get("triggerPolicy", {}).get("strategy") == EXIT_STRATEGY)


def _container(label: str, executor: Json) -> Json:
    if "container" not in executor:
        kinds = ", ".join(executor)
        raise RefusedPipeline(f"executor {label} is {kinds}: this driver runs containers only")
    container: Json = executor["container"]
    return container


def _check_form(pipeline: Json, kubernetes: Mapping[str, Json]) -> None:
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    try:
        json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        deployment = pipeline_spec_pb2.PipelineDeploymentConfig()
        json_format.ParseDict(pipeline["deploymentSpec"], deployment)
        for config in kubernetes.values():
            json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    except json_format.ParseError as error:
        raise RefusedPipeline(f"pipeline spec is invalid: {error}") from error


def _check_components(pipeline: Pipeline) -> None:
    looped: set[str] = set()
    for component in (pipeline.root, *pipeline.components.values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            pipeline.component(task)
            if "parameterIterator" in task:
                name = task["componentRef"]["name"]
                if name in looped:
                    raise RefusedPipeline(f'template name="{name}-iteration": already exists')
                looped.add(name)
        _check_order(component)


def _check_order(component: Json) -> None:
    tasks = component.get("dag", {}).get("tasks", {})
    graph = {name: dependencies(task) for name, task in tasks.items()}
    for name, needed in graph.items():
        for producer in needed:
            if producer not in tasks:
                raise RefusedPipeline(f"task {name}: unknown producer task {producer!r} in DAG")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise RefusedPipeline(f"tasks wait for each other: {error.args[1]}") from error
    if tasks and all(map(is_exit, tasks.values())):
        raise RefusedPipeline("a DAG must contain one or more non-exit tasks")


def _check_containers(pipeline: Pipeline) -> None:
    """KFP keeps one component a container: of two that differ one would get the other's outputs."""
    seen: dict[str, tuple[str, Json]] = {}
    for name, component in _executed(pipeline):
        label = component["executorLabel"]
        text = json.dumps(pipeline.executors[label], sort_keys=True)
        definition = {key: value for key, value in component.items() if key != "executorLabel"}
        other, known = seen.setdefault(text, (name, definition))
        if known != definition:
            raise RefusedPipeline(f"{other} and {name} differ, and their containers do not")


def _executed(pipeline: Pipeline) -> Iterator[tuple[str, Json]]:
    for name, component in pipeline.components.items():
        if "executorLabel" in component:
            yield name, component
