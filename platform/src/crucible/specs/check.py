"""What a pipeline of sound form must still satisfy: components, types, settings, conditions, order.

Everything is looked at even if something is wrong elsewhere; a fault is reported once, where it
can be mended, and not again where it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crucible.errors import UserError
from crucible.sdk.catalogue import load_component
from crucible.sdk.component import Component
from crucible.sdk.suggestion import did_you_mean
from crucible.sdk.types import ArtifactType
from crucible.sdk.validation import config_problems
from crucible.specs.binding import NO_ITEM, Binding, External, Fault, Place, bind, input_slots
from crucible.specs.conditions import holds, parse_condition
from crucible.specs.document import child_path, shown
from crucible.specs.edges import OutputTypes, edge_faults, misfit, output_types
from crucible.specs.graph import cycles, topological_order
from crucible.specs.model import GateSpec, StepSpec, TaskSpec
from crucible.specs.reference_check import Names, output_references, reference_faults
from crucible.specs.references import OutputRef, ParamRef, has_item, parse_reference
from crucible.specs.spec import EXIT


@dataclass(frozen=True)
class Draft:
    """A pipeline file as far as its form is sound."""

    raw: Mapping[str, Any]
    """The file's content before parameters were put in."""
    dir: Path
    params: Mapping[str, Any]
    param_names: frozenset[str]
    """Also of those that have no value because of another problem."""
    steps: Mapping[str, StepSpec]
    on_exit: TaskSpec | None
    gate: GateSpec | None

    @property
    def raw_steps(self) -> Mapping[str, Any]:
        """All steps as written, sound or not."""
        return _map(self.raw.get("steps"))

    @cached_property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Steps and exit step by their path in the file."""
        found: dict[str, TaskSpec] = {f"steps.{name}": step for name, step in self.steps.items()}
        return found if self.on_exit is None else {**found, EXIT: self.on_exit}

    @cached_property
    def fanned(self) -> Mapping[str, Sequence[Any]]:
        """Steps that have a ``foreach``, and its items, none where it is not sound."""
        steps = self.raw_steps.items()
        named = [name for name, step in steps if _map(step).get("foreach") is not None]
        return {n: (self.steps[n].foreach or []) if n in self.steps else [] for n in named}


def check(draft: Draft) -> list[Fault]:
    """All faults of ``draft``, in no particular order."""
    classes, faults = _load_components(draft)
    by_name = {path.removeprefix("steps."): cls for path, cls in classes.items() if path != EXIT}
    names = Names(draft.param_names, draft.raw_steps.keys(), by_name)
    faults += reference_faults(draft.raw, names)
    faults += _condition_faults(draft)
    needs, order_faults = _needs(draft)
    faults += order_faults
    bindings: dict[str, Binding] = {}
    for path, cls in classes.items():
        first, found = _check_items(draft, path, cls)
        bindings[path.removeprefix("steps.")] = first
        faults += found
    order = [name for name in topological_order(needs) if name in by_name]
    types = output_types(order, by_name, bindings)
    for path, cls in classes.items():
        faults += edge_faults(cls, bindings[path.removeprefix("steps.")], types)
    faults += _release_faults(draft, types)
    if draft.gate is not None:
        faults += _threshold_faults(draft.gate)
    return faults


def _load_components(draft: Draft) -> tuple[dict[str, type[Component]], list[Fault]]:
    """The component of each task, by path; those that cannot be loaded are faults."""
    classes: dict[str, type[Component]] = {}
    faults: list[Fault] = []
    for path, task in draft.tasks.items():
        if "${" in task.uses:
            continue
        try:
            classes[path] = load_component(task.uses)
        except UserError as error:
            faults.append(Fault(f"{path}.uses", error.message))
    return classes, faults


def _check_items(draft: Draft, path: str, cls: type[Component]) -> tuple[Binding, list[Fault]]:
    """The binding of the first item, and the faults of all; one at most for each place."""
    task = draft.tasks[path]
    items = foreach = task.foreach if isinstance(task, StepSpec) else None
    faults: dict[str, Fault] = {}
    if items == []:
        fix = "Use `when` to leave the step out."
        faults[f"{path}.foreach"] = Fault(f"{path}.foreach", "has no items.", fix)
    varying: tuple[str, ...] = ()
    if items:
        entries = task.with_.items()
        varying = tuple(f"{path}.with.{key}" for key, value in entries if has_item(value))
        items = items if varying else items[:1]
    bindings = []
    for index, item in enumerate(items or [NO_ITEM]):
        place = Place(index, foreach) if foreach else None
        binding = bind(task.with_, cls, f"{path}.with", item=item, place=place, fanned=draft.fanned)
        bindings.append(binding)
        for fault in _binding_faults(binding, cls, path, draft):
            if fault.path.startswith(varying):
                message = f"{fault.message.rstrip('.')} (item {index}: {shown(item)})."
                fault = replace(fault, message=message)
            faults.setdefault(fault.path, fault)
    return bindings[0], list(faults.values())


def _binding_faults(
    binding: Binding, cls: type[Component], path: str, draft: Draft
) -> Iterator[Fault]:
    yield from binding.faults
    task = draft.tasks[path]
    for slot in input_slots(cls).values():
        if slot.name in binding.slots or slot.optional or task.with_.get(slot.name) is not None:
            continue
        if slot.type.name != "RunRecord":
            kind = f"list[{slot.type}]" if slot.many else str(slot.type)
            where = f"{path}.with.{slot.name}"
            yield Fault(where, f"is required: {kind}.", "Name what fills it.", at_key=True)
        elif path != EXIT:
            message = f"{cls.name} reads the run's record, which exists when the run has ended."
            yield Fault(f"{path}.uses", message, "Use it as on_exit.")
    for sources in binding.slots.values():
        for where, source in sources:
            if isinstance(source, External) and source.is_path:
                yield from _path_faults(source, where, draft.dir)
    if path == EXIT:
        for name, source in binding.metrics.items():
            message = f"{source} may be missing: the exit step runs whatever happened."
            yield Fault(f"{path}.with.{name}", message, "Take the artifact as an input.")
    yield from _setting_faults(binding, cls, f"{path}.with")


def _path_faults(source: External, where: str, folder: Path) -> Iterator[Fault]:
    path = source.path(folder)
    try:
        is_there = path.exists()
    except (OSError, ValueError):  # names that no file can have: too long, NUL bytes
        is_there = False
    if not is_there:
        message = f"no file or folder {shown(str(path))}."
        yield Fault(where, message, "Paths start at this file's folder.")


def _setting_faults(binding: Binding, cls: type[Component], path: str) -> Iterator[Fault]:
    try:
        cls.Config.model_validate(binding.settings)
    except ValidationError as error:
        for problem in config_problems(error, cls, binding.settings, where=path):
            if problem.path not in binding.unknown:
                yield Fault(problem.path, problem.message, problem.fix)
    except Exception as error:  # a validator of a user's component may raise anything
        message = f"the settings of {cls.name} cannot be checked: {type(error).__name__}: {error}."
        yield Fault(path, message, "Mend the component's Config.")


def _condition_faults(draft: Draft) -> Iterator[Fault]:
    for name, step in draft.steps.items():
        for index, text in enumerate(step.when):
            path = _entry_path(draft, name, "when", index)
            try:
                comparison = parse_condition(text, draft.params)
                if isinstance(comparison.left, ParamRef):
                    holds(comparison, draft.params)
                elif comparison.left.step in draft.fanned:
                    message = f"{comparison.left} is one number for each item."
                    yield Fault(path, message, "Name a step without foreach.")
            except ValueError as error:
                yield Fault(path, str(error))
            except KeyError:  # a parameter without a value, which is reported where it is named
                continue


def _entry_path(draft: Draft, name: str, key: str, index: int) -> str:
    """Path of one of the texts under ``key``, which may be a list or the text itself."""
    path = f"steps.{name}.{key}"
    return child_path(path, index) if isinstance(draft.raw_steps[name][key], list) else path


def _needs(draft: Draft) -> tuple[dict[str, list[str]], list[Fault]]:
    """What each step waits for, as written, and the faults of that order."""
    needs: dict[str, dict[str, str]] = {}
    faults: list[Fault] = []
    for name, task in draft.raw_steps.items():
        path = f"steps.{name}"
        needs[name] = {}
        for where, reference in output_references(task, path):
            needs[name].setdefault(reference.step, where)
        step = draft.steps.get(name)
        for index, other in enumerate(step.after if step else ()):
            where = _entry_path(draft, name, "after", index)
            needs[name].setdefault(other, where)
            if other not in draft.raw_steps:
                fix = did_you_mean(other, draft.raw_steps)
                faults.append(Fault(where, f"there is no step {other!r}.", fix))
    graph = {name: list(wanted) for name, wanted in needs.items()}
    for cycle in cycles(graph):
        message = f"steps wait for each other: {' -> '.join(cycle)} (each needs the next)."
        fix = "Remove one of these references."
        faults.append(Fault(needs[cycle[0]][cycle[1]], message, fix))
    return graph, faults


def _release_faults(draft: Draft, types: OutputTypes) -> Iterator[Fault]:
    release = _map(draft.raw.get("release"))
    gate = _map(release.get("gate"))
    wanted = {
        "release.model": (release.get("model"), ArtifactType("Model")),
        "release.gate.metrics": (gate.get("metrics"), ArtifactType("Metrics")),
        "release.gate.predictions": (
            gate.get("predictions"),
            ArtifactType("Dataset", "predictions"),
        ),
    }
    for path, (text, kind) in wanted.items():
        reference = parse_reference(text) if isinstance(text, str) else None
        if isinstance(reference, OutputRef) and reference.metric is None:
            if reference.step in draft.fanned:
                message = f"wants one {kind}, {reference} is the list of all items."
                yield Fault(path, message, "Name a step without foreach.")
            elif fault := misfit(reference, kind, path, types):
                yield fault
        elif isinstance(text, str):
            fix = "Write ${steps.NAME.outputs.OUTPUT}."
            yield Fault(path, f"got {shown(text)}, wants {kind}.", fix)


def _threshold_faults(gate: GateSpec) -> Iterator[Fault]:
    for name, threshold in gate.thresholds.items():
        path = f"release.gate.thresholds.{name}"
        low, high = threshold.min, threshold.max
        if low is None and high is None:
            yield Fault(path, "bounds nothing.", "Give min, max or both.")
        elif low is not None and high is not None and low > high:
            yield Fault(path, f"min {low:g} is above max {high:g}.", "Swap them.")


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
