"""Datasets as artifacts: ``records.jsonl``, one JSON object a line, and ``images.zip`` if any.

Every reader and writer of the data plane goes through here, so a record that breaks its schema is
reported once, with file, line, field and rule, before any training step is spent on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING

from crucible.errors import Problem, UserError
from crucible_components.data.images import (
    IMAGES_PATH,
    ImageArchive,
    ImageArchiveWriter,
    Pixels,
)
from crucible_components.data.schema import Record, record_problems

if TYPE_CHECKING:
    from PIL.Image import Image

    from crucible.sdk.types import Artifact

__all__ = [
    "RECORDS_PATH",
    "DatasetWriter",
    "ImageArchive",
    "Record",
    "iter_records",
    "read_records",
]

RECORDS_PATH = "records.jsonl"
MAX_REPORTED_PROBLEMS = 20


class DatasetWriter:
    """Streams records and pictures into a dataset artifact; use it as a context manager.

    Files are complete when the block ends. If it ends in an error nothing is finished, and the
    step that fails with it commits nothing.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._records: IO[str] = artifact.new_file(RECORDS_PATH).open(
            "w", encoding="utf-8", newline="\n"
        )
        self._images_stream: IO[bytes] | None = None
        self._images: ImageArchiveWriter | None = None
        self._num_records = 0

    def add_image(self, image: Image | Pixels | bytes) -> str:
        """Name of ``image`` for a record's ``image`` field. Equal pictures are kept once."""
        if self._images is None:
            self._images_stream = self._artifact.new_file(IMAGES_PATH).open("w+b")
            self._images = ImageArchiveWriter(self._images_stream)
        return self._images.add(image)

    def add_record(self, record: Record) -> None:
        """Append one record.

        Raises:
            UserError: the record breaks the schema of the artifact's type.
        """
        line = self._num_records + 1
        problems = record_problems(record, self._artifact.type.variant)
        image = _own_image(record, self._artifact.type.variant)
        if image is not None and (self._images is None or image not in self._images):
            problems.append(Problem("image", f"{image!r} was not added.", "Use add_image's name."))
        if problems:
            raise _invalid(self._artifact, [_at_line(problem, line) for problem in problems])
        self._records.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._num_records = line

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._records.close()
        if self._images is not None and self._images_stream is not None:
            self._images.close()
            self._images_stream.close()
        if error_type is None:
            self._artifact.metadata["num_records"] = self._num_records
            self._artifact.metadata["num_images"] = len(self._images) if self._images else 0


def read_records(artifact: Artifact) -> list[Record]:
    """All records of a dataset, in order, each valid under the schema of the artifact's type.

    Raises:
        UserError: lines that break the schema; the first twenty problems are listed.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    for record, found in _checked_lines(artifact):
        problems += found
        if len(problems) >= MAX_REPORTED_PROBLEMS:
            break
        records.append(record)
    if problems:
        raise _invalid(artifact, problems[:MAX_REPORTED_PROBLEMS])
    return records


def iter_records(artifact: Artifact) -> Iterator[Record]:
    """The records of a dataset one by one, for data larger than memory.

    Raises:
        UserError: at the first line that breaks the schema.
    """
    for record, problems in _checked_lines(artifact):
        if problems:
            raise _invalid(artifact, problems)
        yield record


def _checked_lines(artifact: Artifact) -> Iterator[tuple[Record, list[Problem]]]:
    with ImageArchive(artifact) as archive:
        images = set(archive.names()) if IMAGES_PATH in artifact.paths() else frozenset[str]()
    with artifact.open(RECORDS_PATH) as stream:
        for line, raw in enumerate(stream, start=1):
            record, problems = _parse(raw, artifact.type.variant, images)
            yield record, [_at_line(problem, line) for problem in problems]


def _parse(
    raw: bytes, variant: str, images: set[str] | frozenset[str]
) -> tuple[Record, list[Problem]]:
    try:
        record = json.loads(raw)
    except ValueError as error:
        return {}, [Problem("", f"is not JSON: {error}.", "Write one JSON object a line.")]
    problems = record_problems(record, variant)
    image = _own_image(record, variant) if isinstance(record, dict) else None
    if isinstance(image, str) and image not in images:
        rule = f"{image!r} is not in {IMAGES_PATH}."
        problems.append(Problem("image", rule, "Add the picture or remove the field."))
    return record, problems


def _at_line(problem: Problem, line: int) -> Problem:
    return Problem(problem.path, problem.message, problem.fix, file=RECORDS_PATH, line=line)


def _invalid(artifact: Artifact, problems: list[Problem]) -> UserError:
    listed = "\n".join(f"- {problem}" for problem in problems)
    return UserError(f"{artifact.name}: invalid {artifact.type} records:\n{listed}", problems)


def _own_image(record: Record, variant: str) -> object:
    """The picture that must lie beside ``record``; predictions name one of their questions'."""
    return None if variant == "predictions" else record.get("image")
