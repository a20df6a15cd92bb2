"""KFP v2's ExecutorInput and ExecutorOutput as plain dataclasses: no kfp where a step runs.

Both are proto3 JSON. Numbers of KFP's structs are doubles, so whole ones may come as ``7.0``, and a
struct parameter may come as an object or as its JSON text. An artifact's file holds a reference and
nothing else; this module maps an artifact's uri to the place of that file and reads no content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from crucible.artifacts.files import write_atomically
from crucible.errors import UserError
from crucible.sdk.types import ArtifactType

_MOUNTS = {"s3": "/s3", "minio": "/minio", "gs": "/gcs"}
"""Where KFP's launcher puts the files of an object store, by scheme."""

_SCHEMA_TITLES = {name: f"system.{name}" for name in ("Model", "Dataset", "Metrics")}


def schema_title(kind: ArtifactType) -> str:
    """KFP's name for artifacts of that type."""
    return _SCHEMA_TITLES.get(kind.name, "system.Artifact")


DIGEST_KEY, TYPE_KEY, VARIANT_KEY = "crucible_digest", "crucible_type", "crucible_variant"
"""What the step process adds to the metadata of every output."""
CACHED_FROM_KEY = "crucible_cached_from"
"""Added to outputs that the cache had: the run that did the work."""

_LOGS_OUTPUT = "executor-logs"
"""KFP declares it on every step and writes the log there itself."""


@dataclass(frozen=True)
class StepParameters:
    """The ``step`` parameter: who runs, and what the engine has decided."""

    run_id: str
    step_id: str
    fingerprint: str
    attempt: int = 1
    seed: int = 0
    cache: bool = True
    """Look the fingerprint up before running. The outputs enter the cache in any case."""
    cpus: float = 1.0
    optional_outputs: tuple[str, ...] = ()
    """Outputs that may stay unwritten besides those declared ``| None``."""
    component: str = ""
    metric_refs: Mapping[str, float] = field(default_factory=dict)
    """Settings that were metrics of other steps: dotted setting name to resolved number."""
    fingerprint_parts: Mapping[str, str] = field(default_factory=dict)
    """What went into the fingerprint, kept in the cache entry."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepParameters:
        """Read what an engine wrote; keys of newer engines are ignored.

        Raises:
            UserError: an id is missing or a value has the wrong type.
        """
        try:
            return cls(
                run_id=str(value["run_id"]),
                step_id=str(value["step_id"]),
                fingerprint=str(value["fingerprint"]),
                attempt=int(value.get("attempt", 1)),
                seed=int(value.get("seed", 0)),
                cache=bool(value.get("cache", True)),
                cpus=float(value.get("cpus", 1.0)),
                optional_outputs=tuple(value.get("optional_outputs") or ()),
                component=str(value.get("component", "")),
                metric_refs=dict(value.get("metric_refs") or {}),
                fingerprint_parts=dict(value.get("fingerprint_parts") or {}),
            )
        except KeyError as error:
            raise _malformed(f"parameter step has no {error}") from error
        except (TypeError, ValueError) as error:
            raise _malformed(f"parameter step: {error}") from error


@dataclass(frozen=True)
class RuntimeArtifact:
    """One artifact as KFP passes it: a uri, whose local file holds the reference."""

    name: str
    uri: str
    schema_title: str = "system.Artifact"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Of an artifact of ours flat: strings and numbers."""

    @property
    def path(self) -> Path:
        return local_path(self.uri)

    def to_json(self) -> dict[str, object]:
        value: dict[str, object] = {"name": self.name, "uri": self.uri}
        if self.schema_title:
            value["type"] = {"schemaTitle": self.schema_title}
        return value | {"metadata": dict(self.metadata)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RuntimeArtifact:
        return cls(
            name=str(value.get("name", "")),
            uri=str(value["uri"]),
            schema_title=str((value.get("type") or {}).get("schemaTitle", "")),
            metadata=dict(value.get("metadata") or {}),
        )


@dataclass(frozen=True)
class Request:
    """KFP's ExecutorInput as it comes, whatever its parameters mean."""

    parameters: Mapping[str, Any]
    inputs: Mapping[str, tuple[RuntimeArtifact, ...]]
    outputs: Mapping[str, RuntimeArtifact]
    output_file: Path


def read_request(text: str) -> Request:
    """Read the JSON of ``--executor-input``.

    Raises:
        UserError: not the JSON of an ExecutorInput.
    """
    try:
        value = json.loads(text)
        inputs, outputs = value.get("inputs") or {}, value["outputs"]
        return Request(
            parameters=dict(inputs.get("parameterValues") or {}),
            inputs=_artifacts(inputs),
            outputs={
                name: entries[0]
                for name, entries in _artifacts(outputs).items()
                if name != _LOGS_OUTPUT and entries
            },
            output_file=Path(outputs["outputFile"]),
        )
    except KeyError as error:
        raise _malformed(f"there is no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise _malformed(str(error)) from error


@dataclass(frozen=True)
class ExecutorInput:
    """What a step is asked to do."""

    config: Mapping[str, Any]
    step: StepParameters
    inputs: Mapping[str, tuple[RuntimeArtifact, ...]]
    outputs: Mapping[str, RuntimeArtifact]
    output_file: Path

    @classmethod
    def parse(cls, text: str) -> ExecutorInput:
        """Read the JSON of ``--executor-input``.

        Raises:
            UserError: not the JSON of an ExecutorInput for `crucible.step`.
        """
        request = read_request(text)
        try:
            step = _struct(request.parameters["step"], "step")
            config = _struct(request.parameters.get("config") or {}, "config")
        except KeyError as error:
            raise _malformed(f"there is no {error}") from error
        except ValueError as error:
            raise error if isinstance(error, UserError) else _malformed(str(error)) from error
        return cls(
            config=config,
            step=StepParameters.from_json(step),
            inputs=request.inputs,
            outputs=request.outputs,
            output_file=request.output_file,
        )

    def to_json(self) -> dict[str, object]:
        """The JSON that `parse` reads and that KFP's own proto accepts."""
        return {
            "inputs": {
                "parameterValues": {"config": dict(self.config), "step": asdict(self.step)},
                "artifacts": _artifact_lists(self.inputs),
            },
            "outputs": {
                "artifacts": _artifact_lists({name: (a,) for name, a in self.outputs.items()}),
                "outputFile": str(self.output_file),
            },
        }


def build_executor_input(
    *,
    step: StepParameters,
    config: Mapping[str, Any],
    inputs: Mapping[str, Sequence[Path]],
    outputs: Mapping[str, ArtifactType],
    attempt_dir: Path,
) -> ExecutorInput:
    """What an engine on this machine passes to a step.

    Args:
        step: ids and decisions.
        config: resolved settings.
        inputs: reference files by slot; an optional slot without one is left out.
        outputs: type by output name.
        attempt_dir: gets ``outputs/<name>`` and ``executor_output.json``.
    """
    return ExecutorInput(
        config=config,
        step=step,
        inputs={
            slot: tuple(RuntimeArtifact(slot, path.resolve().as_uri()) for path in paths)
            for slot, paths in inputs.items()
        },
        outputs={
            name: RuntimeArtifact(
                name,
                (attempt_dir.resolve() / "outputs" / name).as_uri(),
                schema_title(kind),
            )
            for name, kind in outputs.items()
        },
        output_file=attempt_dir.resolve() / "executor_output.json",
    )


def write_executor_output(
    path: Path,
    outputs: Mapping[str, RuntimeArtifact],
    *,
    parameters: Mapping[str, float] | None = None,
) -> None:
    """Write KFP's ExecutorOutput; metadata stays flat, since KFP's store keeps it no other way.

    Not synced: an engine makes durable what it reads from it.
    """
    value: dict[str, object] = {
        "artifacts": _artifact_lists({name: (a,) for name, a in outputs.items()})
    }
    if parameters:
        value["parameterValues"] = dict(parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, allow_nan=False).encode(), durable=False)


def read_executor_output(path: Path) -> dict[str, RuntimeArtifact]:
    """What a step that ended well has written, by output name; unwritten ones are missing.

    Raises:
        UserError: the file is no ExecutorOutput.
    """
    try:
        artifacts = _artifacts(json.loads(path.read_text()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no ExecutorOutput: {error}. Run the step again.") from error
    return {name: entries[0] for name, entries in artifacts.items() if entries}


def local_path(uri: str) -> Path:
    """Where the file of an artifact lies on this machine.

    Raises:
        UserError: a scheme that KFP's launcher does not map.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri)
    if scheme == "file":
        return Path(unquote(urlsplit(uri).path))
    if scheme in _MOUNTS:
        return Path(_MOUNTS[scheme], rest)
    schemes = ", ".join(f"{name}://" for name in ("file", *_MOUNTS))
    raise UserError(f"artifact uri {uri!r}: cannot map {scheme}://. Use a path or one of {schemes}")


def _artifacts(holder: Mapping[str, Any]) -> dict[str, tuple[RuntimeArtifact, ...]]:
    return {
        name: tuple(RuntimeArtifact.from_json(entry) for entry in value.get("artifacts") or ())
        for name, value in (holder.get("artifacts") or {}).items()
    }


def _artifact_lists(artifacts: Mapping[str, Sequence[RuntimeArtifact]]) -> dict[str, object]:
    return {
        name: {"artifacts": [entry.to_json() for entry in entries]}
        for name, entries in artifacts.items()
    }


def _struct(value: object, name: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise _malformed(f"parameter {name} is {value!r}, not an object")
    return value


def _malformed(what: str) -> UserError:
    return UserError(
        f"--executor-input: {what}. Pass KFP v2's ExecutorInput as JSON with the parameters `step` "
        "and `config`, as the engines of Crucible do."
    )
