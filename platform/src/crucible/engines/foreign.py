"""Pipelines that somebody else compiled: checked before they are sent, then sent as they are.

A server answers 500 with a stack trace to most of what is wrong with a pipeline, or lets it fail in
a pod. What can be seen in the file is told here, all at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible.errors import Problem, UserError
from crucible.sdk.suggestion import did_you_mean

Json = Mapping[str, Any]

SCHEMA_VERSION = "2.1.0"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_MAX_NAME_CHARS = 128


@dataclass(frozen=True)
class CompiledPipeline:
    """A compiled pipeline and the arguments it is run with."""

    name: str
    pipeline: Json
    platform: Json | None
    arguments: Json


def is_compiled(path: Path) -> bool:
    """True if the file is a pipeline in KFP's IR rather than one of ours."""
    try:
        head = path.read_text(errors="replace")
    except OSError:
        return False  # whoever reads it next says why
    keys = set(re.findall(r"^([A-Za-z]+):", head, re.MULTILINE))
    return "apiVersion" not in keys and {"root", "deploymentSpec"} <= keys


def load_compiled(path: Path, arguments: Mapping[str, str]) -> CompiledPipeline:
    """Read and check a compiled pipeline.

    Args:
        path: one or two YAML documents: the pipeline and, maybe, its platform.
        arguments: by name, as texts.

    Raises:
        UserError: with everything that is wrong with file and arguments.
    """
    pipeline, platform = _documents(path)
    problems = [*_form_problems(pipeline, platform), *_structure_problems(pipeline)]
    declared = _parameters(pipeline)
    values, wrong = _arguments(declared, arguments)
    problems += wrong
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise UserError(f"{path}: {count}.", problems)
    return CompiledPipeline(str(pipeline["pipelineInfo"]["name"]), pipeline, platform, values)


def _documents(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    import yaml

    try:
        found = [document for document in yaml.safe_load_all(path.read_text()) if document]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {error}. Compile the pipeline again.") from error
    if not found or not all(isinstance(document, dict) for document in found) or len(found) > 2:
        raise UserError(
            f"{path}: wants one or two documents, a pipeline and its platform, has {len(found)}. "
            "Compile the pipeline with the kfp SDK."
        )
    return found[0], found[1] if len(found) == 2 else None


def _form_problems(pipeline: Json, platform: Json | None) -> Iterator[Problem]:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    fix = "Compile it again with a kfp SDK of the server's version."
    try:
        json_format.ParseDict(dict(pipeline), pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        yield Problem("", str(error), fix)
    if platform is not None:
        try:
            json_format.ParseDict(dict(platform), pipeline_spec_pb2.PlatformSpec())
        except json_format.ParseError as error:
            yield Problem("platforms", str(error), fix)
    version = pipeline.get("schemaVersion")
    if version != SCHEMA_VERSION:
        yield Problem("schemaVersion", f"is {version!r}; servers take {SCHEMA_VERSION!r}.", fix)


def _structure_problems(pipeline: Json) -> Iterator[Problem]:
    name = str((pipeline.get("pipelineInfo") or {}).get("name") or "")
    if not _NAME.match(name) or len(name) > _MAX_NAME_CHARS:
        yield Problem(
            "pipelineInfo.name",
            f"is {name!r}.",
            "Use lower-case letters, digits and '-', at most 128 of them.",
        )
    components = pipeline.get("components") or {}
    executors = (pipeline.get("deploymentSpec") or {}).get("executors") or {}
    for owner, dag in _dags(pipeline):
        for task_name, task in (dag.get("tasks") or {}).items():
            wanted = str(((task or {}).get("componentRef") or {}).get("name") or "")
            if wanted not in components:
                fix = did_you_mean(wanted, components)
                at = f"{owner}.dag.tasks.{task_name}.componentRef"
                yield Problem(at, f"names {wanted!r}, which is no component.", fix)
    for component_name, component in components.items():
        label = (component or {}).get("executorLabel")
        if label is not None and label not in executors:
            at = f"components.{component_name}.executorLabel"
            yield Problem(
                at, f"names {label!r}, which is no executor.", did_you_mean(label, executors)
            )
    for label, executor in executors.items():
        container = (executor or {}).get("container")
        if container is not None and not container.get("command"):
            yield Problem(
                f"deploymentSpec.executors.{label}.container.command",
                "is empty: KFP does not use the entry point of an image.",
                "Give the component a command.",
            )


def _dags(pipeline: Json) -> Iterator[tuple[str, Json]]:
    root = (pipeline.get("root") or {}).get("dag")
    if root:
        yield "root", root
    for name, component in (pipeline.get("components") or {}).items():
        if (component or {}).get("dag"):
            yield f"components.{name}", component["dag"]


def _parameters(pipeline: Json) -> dict[str, Json]:
    definitions = (pipeline.get("root") or {}).get("inputDefinitions") or {}
    return dict(definitions.get("parameters") or {})


def _arguments(
    declared: Mapping[str, Json], given: Mapping[str, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """Values by name, and what is wrong with them."""
    problems = [
        Problem(f"--set {name}", "is no parameter of the pipeline.", did_you_mean(name, declared))
        for name in given.keys() - declared.keys()
    ]
    values: dict[str, Any] = {}
    for name, definition in declared.items():
        kind = str(definition.get("parameterType", "STRING"))
        if name in given:
            try:
                values[name] = _value(given[name], kind)
            except ValueError:
                problems.append(
                    Problem(f"--set {name}", f"got {given[name]!r}.", f"Give a {kind}.")
                )
        elif "defaultValue" not in definition and not definition.get("isOptional"):
            problems.append(Problem(name, f"({kind}) is required.", f"Add --set {name}=VALUE."))
    return values, problems


def _value(text: str, kind: str) -> Any:
    if kind == "STRING":
        return text
    if kind == "NUMBER_INTEGER":
        return int(text)
    if kind == "NUMBER_DOUBLE":
        return float(text)
    value = json.loads(text)
    wanted = {"BOOLEAN": bool, "LIST": list, "STRUCT": dict}.get(kind)
    if wanted is not None and not isinstance(value, wanted):
        raise ValueError(kind)
    return value
