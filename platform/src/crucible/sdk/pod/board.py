"""What the launcher of a step on several nodes and its nodes write for each other.

They share nothing but the artifact store, so all of it stands below the attempt's part of the run's
journal: a request of any size goes there by value, which no argument of a pod could take. Every
document has one writer::

    nodes/request.json          launcher: the executor input, and the references that it names
    nodes/<n>/log/, events/     node n: `crucible.journal.stream`; events are those of rank 0
    nodes/<n>/failures.json     node n: why its processes ended badly
    nodes/0/output.json         node 0: the executor output, and the references that it names
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crucible.artifacts.backend import Backend
from crucible.errors import UserError
from crucible.sdk.executor import ExecutorInput, RuntimeArtifact, read_executor_output
from crucible.sdk.failure import FailureRecord

PREFIX_VARIABLE = "CRUCIBLE_BOARD"
"""Tells a node where the board is in the store."""
Json = Mapping[str, Any]


@dataclass(frozen=True)
class RankFailure:
    """Why one process ended badly."""

    rank: int
    node: int
    at: float
    """By the clock of its node, in seconds since the epoch."""
    record: FailureRecord


@dataclass(frozen=True)
class Board:
    """The place in the store."""

    backend: Backend
    attempt_prefix: str
    """Of `crucible.journal.AttemptJournal`; ends in ``/``."""

    def log_prefix(self, node: int) -> str:
        return self._key(f"{node}/log/")

    def events_prefix(self, node: int) -> str:
        return self._key(f"{node}/events/")

    def write_request(self, request: ExecutorInput) -> None:
        """Put the step up for its nodes, which do not look into the cache: that is done."""
        references = {
            slot: [artifact.path.read_text() for artifact in artifacts]
            for slot, artifacts in request.inputs.items()
        }
        step = replace(request.step, cache=False)
        value = {"input": replace(request, step=step).to_json(), "references": references}
        self._write("request.json", value)

    def read_request(self, folder: Path) -> ExecutorInput:
        """The step, with its references below ``folder``, where outputs belong too.

        Raises:
            UserError: nothing was put up.
        """
        value = self._read("request.json")
        if value is None:
            place = self.backend.place(self._key("request.json"))
            raise UserError(f"{place} is not there. {PREFIX_VARIABLE} is set by the launcher.")
        request = ExecutorInput.parse(json.dumps(value["input"]))
        inputs = {
            slot: tuple(_placed(folder / "inputs" / slot, slot, texts))
            for slot, texts in value["references"].items()
        }
        outputs = {
            name: replace(output, uri=(folder / "outputs" / name).as_uri())
            for name, output in request.outputs.items()
        }
        output_file = folder / "executor_output.json"
        return replace(request, inputs=inputs, outputs=outputs, output_file=output_file)

    def write_output(self, output_file: Path) -> None:
        """Put up what rank 0 has stored."""
        written = read_executor_output(output_file)
        value = {
            name: {"reference": artifact.path.read_text(), "artifact": artifact.to_json()}
            for name, artifact in written.items()
        }
        self._write("0/output.json", value)

    def read_output(self, request: ExecutorInput) -> dict[str, RuntimeArtifact] | None:
        """Put the references where ``request`` wants them; None if rank 0 has stored nothing."""
        value = self._read("0/output.json")
        if value is None:
            return None
        found = {}
        for name, entry in value.items():
            place = request.outputs[name]
            place.path.parent.mkdir(parents=True, exist_ok=True)
            place.path.write_text(entry["reference"])
            metadata = RuntimeArtifact.from_json(entry["artifact"]).metadata
            found[name] = replace(place, metadata=metadata)
        return found

    def write_failures(self, node: int, failures: list[RankFailure]) -> None:
        """Say why processes of ``node`` ended badly; replaces what it said before."""
        self._write(f"{node}/failures.json", {"failures": [asdict(each) for each in failures]})

    def read_failures(self, num_nodes: int) -> list[RankFailure]:
        """What all nodes have said, in no order."""
        return [each for node in range(num_nodes) for each in self._failures_of(node)]

    def _failures_of(self, node: int) -> Iterator[RankFailure]:
        value = self._read(f"{node}/failures.json") or {}
        for entry in value.get("failures", ()):
            record = FailureRecord(**entry["record"])
            yield RankFailure(entry["rank"], entry["node"], entry["at"], record)

    def _key(self, name: str) -> str:
        return f"{self.attempt_prefix}nodes/{name}"

    def _write(self, name: str, value: Json) -> None:
        self.backend.write(self._key(name), json.dumps(value).encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        document = self.backend.read(self._key(name))
        if document is None:
            return None
        value: dict[str, Any] = json.loads(document.data)
        return value


def _placed(folder: Path, slot: str, texts: list[str]) -> Iterator[RuntimeArtifact]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        path = folder / str(number)
        path.write_text(text)
        yield RuntimeArtifact(slot, path.as_uri())
