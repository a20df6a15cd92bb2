"""Every ``${…}`` of a pipeline file: has it a known form, a target, and may it stand there?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crucible.sdk.component import Component
from crucible.sdk.suggestion import did_you_mean
from crucible.specs.binding import Fault, output_slots
from crucible.specs.model import StepSpec
from crucible.specs.references import (
    FORMS,
    ItemRef,
    OutputRef,
    ParamRef,
    Reference,
    references_in,
    strings_in,
)

_RELEASE_OUTPUTS = ("release.model", "release.gate.metrics", "release.gate.predictions")


@dataclass(frozen=True)
class Names:
    """What references may name."""

    params: Collection[str]
    steps: Collection[str]
    classes: Mapping[str, type[Component]]
    """Components of the steps whose ``uses`` is sound."""


@dataclass(frozen=True)
class Place:
    """Where a string stands, as far as it decides which references may be in it."""

    path: str
    takes_outputs: bool = False
    takes_item: bool = False


def reference_faults(raw: Mapping[str, Any], names: Names) -> Iterator[Fault]:
    """Faults of all references in ``raw``, the file's content before anything is replaced."""
    for place, text in _strings(raw):
        for reference in references_in(text):
            fault = _fault(reference, place, names)
            if fault is not None:
                yield fault


def output_references(task: Any, path: str) -> Iterator[tuple[str, OutputRef]]:
    """Path and target of every reference to an output in one step's entries."""
    for key in ("with", "when"):
        for where, text in strings_in(_map(task).get(key), f"{path}.{key}"):
            for reference in references_in(text):
                if isinstance(reference, OutputRef):
                    yield where, reference


def needs_of(step: StepSpec) -> list[str]:
    """Names of the steps that ``step`` waits for, in the order in which it names them."""
    references = output_references({"with": step.with_, "when": step.when}, "")
    return list(dict.fromkeys([*(found.step for _, found in references), *step.after]))


def _strings(raw: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for path, text in strings_in(raw.get("defaults"), "defaults"):
        yield Place(path), text
    for path, text in strings_in(raw.get("release"), "release"):
        yield Place(path, takes_outputs=path in _RELEASE_OUTPUTS), text
    steps = raw.get("steps")
    if isinstance(steps, dict):
        for name, task in steps.items():
            yield from _task_strings(task, f"steps.{name}")
    else:
        yield from _task_strings(steps, "steps")
    yield from _task_strings(raw.get("on_exit"), "on_exit")


def _task_strings(task: Any, path: str) -> Iterator[tuple[Place, str]]:
    for key, value in _map(task).items():
        has_entries = key == "with" and isinstance(value, dict)
        has_items = has_entries and task.get("foreach") is not None
        for where, text in strings_in(value, f"{path}.{key}"):
            yield Place(where, has_entries or key == "when", has_items), text
    if not isinstance(task, dict):
        for where, text in strings_in(task, path):
            yield Place(where), text


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _fault(reference: Reference | str, place: Place, names: Names) -> Fault | None:
    if isinstance(reference, str):
        return Fault(place.path, f"{reference} is no reference.", FORMS)
    if isinstance(reference, ParamRef):
        if reference.name in names.params:
            return None
        message = f"there is no parameter {reference.name!r}."
        return Fault(place.path, message, did_you_mean(reference.name, names.params))
    if isinstance(reference, ItemRef):
        message = "${item} has a value only under `with` of a step that has a foreach."
        return None if place.takes_item else Fault(place.path, message)
    if not place.takes_outputs:
        message = f"{reference} is known only when that step has ended."
        return Fault(place.path, message, "Use a value or a parameter.")
    return _output_fault(reference, place.path, names)


def _output_fault(reference: OutputRef, path: str, names: Names) -> Fault | None:
    if reference.step not in names.steps:
        message = f"there is no step {reference.step!r}."
        return Fault(path, message, did_you_mean(reference.step, names.steps))
    cls = names.classes.get(reference.step)
    if cls is None:
        return None
    outputs = output_slots(cls)
    if reference.output not in outputs:
        message = f"step {reference.step} ({cls.name}) has no output {reference.output!r}."
        return Fault(path, message, did_you_mean(reference.output, outputs))
    kind = outputs[reference.output].type
    if reference.metric is not None and kind.name != "Metrics":
        message = f"{reference} names a metric, but {reference.output} is {kind}."
        metrics = [name for name, slot in outputs.items() if slot.type.name == "Metrics"]
        return Fault(path, message, did_you_mean(reference.output, metrics))
    return None
