"""What is known of a run: the tree of its tasks, as KFP's metadata store would have it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class State(StrEnum):
    """Of a task."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Its condition does not hold."""
    OMITTED = "omitted"
    """Something that it depends on did not end well, or was skipped."""


@dataclass(frozen=True)
class Attempt:
    """One pod of a task."""

    phase: str
    """``succeeded``, ``failed``, or ``error``: gone without an end of its own."""
    message: str
    seconds: float
    log: str
    """The last of what it printed."""


@dataclass(frozen=True)
class Artifact:
    """An output that is registered, whether its file was written or not."""

    id: int
    name: str
    uri: str
    schema_title: str
    metadata: Mapping[str, Any]
    """As it comes out of the metadata store."""

    def as_input(self) -> Json:
        """What a consumer is told of it."""
        own = {"display_name": self.name, "store_session_info": '{"Provider":"s3","Params":{}}'}
        return {
            "name": str(self.id),
            "type": {"instanceSchema": ""},
            "uri": self.uri,
            "metadata": {**own, **self.metadata},
        }


@dataclass
class Execution:
    """A task of a run; of a loop, or of one iteration of it."""

    path: str
    """Names of the tasks from the root, as in ``steps/trial-items[3]/trial``."""
    component: Json
    parent: Execution | None = None
    iteration: int | None = None
    id: int = 0
    state: State = State.PENDING
    error: str = ""
    driver_failed: bool = False
    """The task never began: its inputs or its condition could not be made out."""
    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[Artifact]] = field(default_factory=dict)
    """Inputs."""
    output_parameters: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Artifact] = field(default_factory=dict)
    children: dict[str, Execution] = field(default_factory=dict)
    iterations: list[Execution] | None = None
    """Of a loop; it has no children."""
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def has_ended(self) -> bool:
        """True if it ran to some end, as exit tasks want of what they wait for."""
        return self.state in (State.SUCCEEDED, State.FAILED) and not self.driver_failed

    def tree(self) -> Iterator[Execution]:
        """This task and all below it."""
        yield self
        for child in (*self.children.values(), *(self.iterations or ())):
            yield from child.tree()


@dataclass
class Ids:
    """Numbers of executions and artifacts, as the metadata store counts."""

    _last: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> int:
        with self._lock:
            self._last += 1
            return self._last


def output_parameter(producer: Execution, key: str) -> Any:
    """An output parameter of a task; of a loop, the list of all its iterations'."""
    if producer.iterations is not None:
        return [output_parameter(one, key) for one in producer.iterations]
    if "dag" not in producer.component:
        return producer.output_parameters.get(key)
    spec = producer.component["dag"]["outputs"]["parameters"][key]
    if "valueFromOneof" in spec:
        selectors = spec["valueFromOneof"]["parameterSelectors"]
    else:
        selectors = [spec["valueFromParameter"]]
    chosen = _ended_well(producer, selectors, key)
    child = producer.children[chosen["producerSubtask"]]
    return output_parameter(child, chosen["outputParameterKey"])


def output_artifacts(producer: Execution, key: str) -> list[Artifact]:
    """An output artifact of a task; of a loop, those of all its iterations in order."""
    if producer.iterations is not None:
        return [found for one in producer.iterations for found in output_artifacts(one, key)]
    if "dag" not in producer.component:
        if key not in producer.outputs:
            raise LookupError(f"cannot find output artifact key {key!r} in {producer.path!r}")
        return [producer.outputs[key]]
    selectors = producer.component["dag"]["outputs"]["artifacts"][key]["artifactSelectors"]
    chosen = _ended_well(producer, selectors, key)
    child = producer.children[chosen["producerSubtask"]]
    return output_artifacts(child, chosen["outputArtifactKey"])


def _ended_well(producer: Execution, selectors: list[Json], key: str) -> Json:
    """The selector whose task ran; with one there is no choice."""
    if len(selectors) == 1:
        return selectors[0]
    for selector in selectors:
        if producer.children[selector["producerSubtask"]].state is State.SUCCEEDED:
            return selector
    raise LookupError(
        f"processing OneOf: no successful task found for output key {key!r} in {producer.path!r}"
    )
