"""Artifact types of the component contract, and which value fits which slot.

A slot is annotated with one of the classes below: ``Model[VisionLanguage]``, ``list[Model]``,
``Dataset[Conversations] | None``. The same classes are what ``run`` receives: an input artifact is
read through its methods, an output artifact is written through ``new_file`` and committed by the
step process when ``run`` returns. Planning compares the annotations only and opens nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, Protocol

from typing_extensions import TypeVar

MetadataValue = str | int | float


class ModelKind:
    """Any model. Subclasses name what a consumer may rely on."""

    variant: ClassVar[str] = "any"


class CausalLM(ModelKind):
    """A transformers causal language model folder: config, tokenizer, safetensors."""

    variant: ClassVar[str] = "causal-lm"


class VisionLanguage(ModelKind):
    """An image-and-text to text model folder: config, processor, tokenizer, safetensors."""

    variant: ClassVar[str] = "vision-language"


class RecordSchema:
    """Any record. Subclasses name the fields of one line of ``records.jsonl``."""

    variant: ClassVar[str] = "any"


class Conversations(RecordSchema):
    """``{id, image?, category?, conversations: [{from: human|gpt, value}]}``; a caption: 1 turn."""

    variant: ClassVar[str] = "conversations"


class Questions(RecordSchema):
    """``{id, image?, category, question, answer, choices?}``: one verifiable question a record."""

    variant: ClassVar[str] = "questions"


class Predictions(RecordSchema):
    """``{id, image?, category, question, answer, prediction, correct}``: one scored answer a line.

    Answers about one ``image`` are not independent: comparisons resample images.
    """

    variant: ClassVar[str] = "predictions"


KindT = TypeVar("KindT", bound=ModelKind, default=ModelKind)
RecordT = TypeVar("RecordT", bound=RecordSchema, default=RecordSchema)


@dataclass(frozen=True)
class ArtifactType:
    """What a slot wants or an output is: class name and variant, both as written in manifests."""

    name: str
    variant: str = "any"

    def __str__(self) -> str:
        return self.name if self.variant == "any" else f"{self.name}[{self.variant}]"

    def accepts(self, other: ArtifactType) -> bool:
        """True if an artifact of type ``other`` may enter a slot of this type."""
        if self.name not in ("Artifact", other.name):
            return False
        return self.variant in ("any", other.variant)


@dataclass(frozen=True)
class SameVariantAs:
    """Gives an output the variant of an input: ``Annotated[Model, SameVariantAs("models")]``."""

    slot: str


class ArtifactBytes(Protocol):
    """Where an artifact's files come from or go to. Implemented by `crucible.artifacts`."""

    def paths(self) -> tuple[str, ...]: ...
    def open(self, path: str) -> BinaryIO: ...
    def local_path(self, path: str) -> Path: ...
    def local_dir(self) -> Path: ...
    def new_file(self, path: str) -> Path: ...


@dataclass
class Artifact:
    """One artifact of a step: its metadata and, through ``source``, its files.

    ``metadata`` is flat, short, strings and numbers, and must be a function of the step's inputs
    only (no times, no host names): it is part of the artifact's digest.
    """

    type_name: ClassVar[str] = "Artifact"

    name: str
    """Slot or output name."""
    source: ArtifactBytes
    type: ArtifactType = field(default_factory=lambda: ArtifactType("Artifact"))
    digest: str | None = None
    """``sha256:<hex>`` of the manifest; None while an output is being written."""
    metadata: dict[str, MetadataValue] = field(default_factory=dict)

    def paths(self) -> tuple[str, ...]:
        """Relative POSIX paths of the files, sorted."""
        return self.source.paths()

    def open(self, path: str) -> BinaryIO:
        """A seekable, verified stream of one file: in place on file://, range reads on s3://."""
        return self.source.open(path)

    def local_path(self, path: str) -> Path:
        """One file as a verified local path, for memory mapping. Read-only; no copy on file://."""
        return self.source.local_path(path)

    def local_dir(self) -> Path:
        """A folder that shows all files under their names. Read-only; links, not copies, on file://."""
        return self.source.local_dir()

    def new_file(self, path: str) -> Path:
        """Where to write output file ``path``; its parent folder exists. Outputs only.

        The file enters the store when the step ends well, by renaming where the store allows it.
        """
        return self.source.new_file(path)

    def read_json(self, path: str) -> Any:
        with self.open(path) as stream:
            return json.load(stream)

    def write_json(self, path: str, value: object) -> None:
        self.new_file(path).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


class Model(Artifact, Generic[KindT]):
    """A model folder that transformers loads: config, tokenizer or processor, safetensors."""

    type_name: ClassVar[str] = "Model"


class Dataset(Artifact, Generic[RecordT]):
    """``records.jsonl``, one record a line; pictures are stored members of ``images.zip``."""

    type_name: ClassVar[str] = "Dataset"


class Metrics(Artifact):
    """``metrics.json``: a flat object of numbers. The same numbers stand in the metadata."""

    type_name: ClassVar[str] = "Metrics"

    def write(self, values: Mapping[str, float]) -> None:
        self.metadata.update(values)
        self.write_json("metrics.json", dict(values))

    def read(self) -> dict[str, float]:
        values: dict[str, float] = self.read_json("metrics.json")
        return values


class Report(Artifact):
    """``report.html``: one page that needs nothing else."""

    type_name: ClassVar[str] = "Report"


class RunRecord(Artifact):
    """``run.json``: plan, states, durations, metrics, output digests. Made by the engine."""

    type_name: ClassVar[str] = "RunRecord"


ARTIFACT_CLASSES: dict[str, type[Artifact]] = {
    cls.type_name: cls for cls in (Artifact, Model, Dataset, Metrics, Report, RunRecord)
}
