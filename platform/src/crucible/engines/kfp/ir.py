"""KFP's intermediate representation, piece by piece, as proto JSON.

Only what is the same for every pipeline stands here; `compile` decides what a pipeline consists of.
Source of the form: ``pipeline_spec.proto`` of KFP, schema version 2.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crucible.sdk.executor import schema_title
from crucible.sdk.pod.delivery import CLASSIFICATION_SUFFIX, HTML_SUFFIX
from crucible.sdk.types import ArtifactType, Predictions

Json = dict[str, Any]

SCHEMA_VERSION = "2.1.0"
RUN_ID = "run_id"
_ARTIFACT_SCHEMA_VERSION = "0.0.1"
KFP_RUN_ID = "{{$.pipeline_job_uuid}}"
"""KFP puts its own id of the run here."""


@dataclass
class Dag:
    """Tasks of one level of the pipeline."""

    tasks: dict[str, Json] = field(default_factory=dict)

    def component(self) -> Json:
        """As a component that takes the run's id from the level above."""
        return {"dag": {"tasks": self.tasks}, "inputDefinitions": run_id_definition()}


@dataclass
class Document:
    """Both documents of a compiled pipeline."""

    name: str
    description: str
    sdk_version: str
    root: Dag = field(default_factory=Dag)
    components: dict[str, Json] = field(default_factory=dict)
    executors: dict[str, Json] = field(default_factory=dict)
    kubernetes: dict[str, Json] = field(default_factory=dict)

    def pipeline(self) -> Json:
        """The pipeline spec."""
        root = self.root.component()
        root["inputDefinitions"]["parameters"][RUN_ID] |= {"isOptional": True, "defaultValue": ""}
        return {
            "pipelineInfo": {"name": self.name, "description": self.description},
            "schemaVersion": SCHEMA_VERSION,
            "sdkVersion": self.sdk_version,
            "components": self.components,
            "deploymentSpec": {"executors": self.executors},
            "root": root,
        }

    def platform(self) -> Json:
        """The Kubernetes platform spec."""
        deployment = {"executors": self.kubernetes}
        return {"platforms": {"kubernetes": {"deploymentSpec": deployment}}}


def run_id_definition() -> Json:
    """Input definitions of a level of the pipeline."""
    return {"parameters": {RUN_ID: parameter("STRING")}}


def parameter(type_: str) -> Json:
    """Definition of an input or output parameter."""
    return {"parameterType": type_}


def artifact(kind: ArtifactType, *, optional: bool = False) -> Json:
    """Definition of an input or output artifact of ours."""
    definition = _artifact_type(schema_title(kind))
    return definition | {"isOptional": True} if optional else definition


def output_artifacts(outputs: Mapping[str, ArtifactType]) -> Json:
    """Definitions of all outputs, and of what only KFP's pages need."""
    found: Json = {}
    for name, kind in outputs.items():
        found[name] = artifact(kind)
        if kind.name == "Report":
            found[f"{name}{HTML_SUFFIX}"] = _artifact_type("system.HTML")
        if kind.name == "Dataset" and kind.variant == Predictions.variant:
            title = "system.ClassificationMetrics"
            found[f"{name}{CLASSIFICATION_SUFFIX}"] = _artifact_type(title)
    return found


def constant(value: Any) -> Json:
    """An input parameter with a value that is known when compiling."""
    return {"runtimeValue": {"constant": value}}


def from_above(name: str) -> Json:
    """An input parameter that the enclosing level passes on."""
    return {"componentInputParameter": name}


def output_parameter(task: str, name: str) -> Json:
    """An input parameter that another task of the same level writes."""
    return {"taskOutputParameter": {"producerTask": task, "outputParameterKey": name}}


def output_artifact(task: str, name: str) -> Json:
    """An input artifact that another task of the same level writes."""
    return {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": name}}


def task(
    name: str,
    *,
    component: str,
    parameters: Mapping[str, Json],
    artifacts: Mapping[str, Json] | None = None,
    after: Sequence[str] = (),
) -> Json:
    """A task; KFP's own cache is off, since it knows neither image digests nor contents."""
    inputs: Json = {"parameters": dict(parameters)}
    if artifacts:
        inputs["artifacts"] = dict(artifacts)
    made: Json = {
        "taskInfo": {"name": name},
        "componentRef": {"name": component},
        "cachingOptions": {},
        "inputs": inputs,
    }
    if after:
        made["dependentTasks"] = sorted(after)
    return made


def _artifact_type(title: str) -> Json:
    version = _ARTIFACT_SCHEMA_VERSION
    return {"artifactType": {"schemaTitle": title, "schemaVersion": version}}


def sdk_version() -> str:
    """Whose form this is, as KFP shows it."""
    from importlib.metadata import version

    return f"kfp-{version('kfp')}"
