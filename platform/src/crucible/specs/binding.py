"""The one namespace under ``with``: which keys fill input slots, which are settings.

Shared by checking, which reports the faults, and by planning, which runs on specs that have none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from crucible.sdk.component import Component, Slot, slots_of
from crucible.sdk.suggestion import did_you_mean
from crucible.specs.document import child_path, shown
from crucible.specs.references import (
    OutputRef,
    lookup_item,
    parse_reference,
    references_in,
    strings_in,
    substitute,
    unescape,
)

NO_ITEM: Any = object()
"""The item of a step without ``foreach``."""
_DIGEST_URI = re.compile(r"artifact:sha256:[0-9a-f]{64}\Z")
_MODEL_URI = re.compile(r"models:/[^/@\s]+@[^/@\s]+\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_SLOT_FORMS = (
    "Write ${steps.NAME.outputs.OUTPUT}, a path relative to this file, "
    "artifact:sha256:<64 hex digits> or models:/NAME@alias."
)


@dataclass(frozen=True)
class Fault:
    """A problem whose place in the file is not looked up yet."""

    path: str
    message: str
    fix: str = ""
    at_key: bool = False


@dataclass(frozen=True)
class External:
    """Fills a slot from outside: ``artifact:…``, ``models:/…`` or a path as written."""

    text: str

    @property
    def is_path(self) -> bool:
        return not self.text.startswith(("artifact:", "models:"))

    def path(self, folder: Path) -> Path:
        """Where a path leads in a pipeline file of ``folder``."""
        if self.text.startswith("file://"):
            return Path(unquote(urlsplit(self.text).path))
        return folder / self.text


@dataclass(frozen=True)
class Place:
    """Which item of its ``foreach`` a step is."""

    index: int
    items: Sequence[Any]

    def pairs_with(self, step: str, fanned: Fanned) -> bool:
        """Whether ``step`` has the same items: then each takes its own one's outputs."""
        return step in fanned and list(fanned[step]) == list(self.items)


Fanned = Mapping[str, Sequence[Any]]
"""Steps that have a ``foreach``, and its items."""


@dataclass
class Binding:
    """What ``with`` says for one item of a step."""

    slots: dict[str, list[tuple[str, OutputRef | External]]] = field(default_factory=dict)
    """By slot: what fills it, each with its path in the file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The component's settings, without those in ``metrics``."""
    metrics: dict[str, OutputRef] = field(default_factory=dict)
    """Settings that another step measures, by dotted name."""
    unknown: set[str] = field(default_factory=set)
    """Paths of settings whose value is not known here: metrics, and references with a problem."""
    faults: list[Fault] = field(default_factory=list)


def bind(
    with_: Mapping[str, Any],
    cls: type[Component],
    path: str,
    *,
    item: Any = NO_ITEM,
    place: Place | None = None,
    fanned: Fanned | None = None,
) -> Binding:
    """Sort the entries of ``with`` by what ``cls`` declares.

    Args:
        with_: entries in which parameters are replaced.
        cls: the step's component.
        path: where they stand, e.g. ``steps.align.with``.
        item: replaces ``${item}``.
        place: of the item.
        fanned: steps that have a ``foreach``.
    """
    slots, settings = input_slots(cls), setting_names(cls)
    binding = Binding()
    others = _Others(fanned or {}, place)
    for key, written in with_.items():
        value = written if item is NO_ITEM else substitute(written, lookup_item(item))
        where = child_path(path, key)
        if key in slots:
            if value is not None:
                binding.slots[key] = list(_sources(slots[key], value, where, others, binding))
        elif key in settings or cls.Config.model_config.get("extra") == "allow":
            _bind_setting(key, value, where, others, binding)
        else:
            message = f"is neither an input nor a setting of {cls.name}."
            fix = did_you_mean(key, {*slots, *settings})
            binding.faults.append(Fault(where, message, fix, at_key=True))
    return binding


@cache
def setting_names(cls: type[Component]) -> frozenset[str]:
    """Names under which the component's settings may be written."""
    fields = cls.Config.model_fields.items()
    return frozenset(
        {name for name, _ in fields} | {info.alias for _, info in fields if info.alias}
    )


@cache
def input_slots(cls: type[Component]) -> Mapping[str, Slot]:
    """The component's inputs by name."""
    return {slot.name: slot for slot in slots_of(cls.Inputs)}


@cache
def output_slots(cls: type[Component]) -> Mapping[str, Slot]:
    """The component's outputs by name."""
    return {slot.name: slot for slot in slots_of(cls.Outputs)}


@dataclass(frozen=True)
class _Others:
    """The other steps, as one item of a step sees them."""

    fanned: Fanned
    place: Place | None

    def seen(self, reference: OutputRef) -> OutputRef:
        """Of a step with the same items the output of this item."""
        if self.place is None or not self.place.pairs_with(reference.step, self.fanned):
            return reference
        return replace(reference, item=self.place.index)

    def is_many(self, source: object) -> bool:
        """Whether it stands for the outputs of all items."""
        if not isinstance(source, OutputRef):
            return False
        return source.step in self.fanned and source.item is None


def _sources(
    slot: Slot, value: Any, path: str, others: _Others, binding: Binding
) -> Iterator[tuple[str, OutputRef | External]]:
    """What fills ``slot``; faults of form and number go to ``binding``."""
    if isinstance(value, list) and slot.many:
        if not value and not slot.optional:
            binding.faults.append(Fault(path, f"is empty, wants at least one {slot.type}."))
        entries = [(child_path(path, index), entry) for index, entry in enumerate(value)]
    elif isinstance(value, list):
        message = f"got a list of {len(value)}, wants one {slot.type}."
        binding.faults.append(Fault(path, message, "Write one value."))
        return
    else:
        entries = [(path, value)]
    for where, entry in entries:
        source, fault = _source(entry, slot)
        if isinstance(source, OutputRef) and not slot.many:
            source = others.seen(source)
        is_many = others.is_many(source)
        if is_many and not slot.many:
            message = f"wants one {slot.type}, {source} is the list of all items."
            fault = message, "Give it to a list input, or to a step with the same foreach."
        elif source is not None and slot.many and not is_many and not isinstance(value, list):
            fault = f"wants a list of {slot.type}, got one.", f'Write ["{entry}"].'
        if fault is not None:
            binding.faults.append(Fault(where, *fault))
        elif source is not None:
            yield where, source


def _source(entry: Any, slot: Slot) -> tuple[OutputRef | External | None, tuple[str, str] | None]:
    """What ``entry`` names, or why it names nothing; neither where another check tells why."""
    wrong = f"got {shown(entry)}, wants {slot.type}.", _SLOT_FORMS
    if not isinstance(entry, str):
        return None, wrong
    reference = parse_reference(entry)
    if isinstance(reference, OutputRef):
        if reference.metric is None:
            return reference, None
        message = f"wants {slot.type}, {reference} is a number."
        return None, (message, f"Write ${{{replace(reference, metric=None)}}}.")
    inner = list(references_in(entry))
    if inner:
        is_partial = any(isinstance(found, OutputRef) for found in inner)
        return None, wrong if is_partial else None
    text = str(unescape(entry))
    is_uri = _DIGEST_URI.match(text) or _MODEL_URI.match(text)
    if not text or (_SCHEME.match(text) and not is_uri and not text.startswith("file:///")):
        return None, wrong
    return External(text), None


def _bind_setting(key: str, value: Any, path: str, others: _Others, binding: Binding) -> None:
    taken: set[str] = set()
    for where, text in strings_in(value, path):
        for reference in references_in(text):
            name = f"{key}{where.removeprefix(path)}"
            taken.add(name)
            binding.unknown.add(where)
            if not isinstance(reference, OutputRef):
                continue  # unknown or misplaced, which is reported where all references are read
            seen = others.seen(reference)
            fault = _metric_fault(seen, text, name, others)
            if fault is None:
                binding.metrics[name] = seen
            else:
                binding.faults.append(Fault(where, *fault))
    kept = _without({key: value}, "", taken) if taken else {key: value}
    binding.settings |= unescape(kept)


def _metric_fault(
    reference: OutputRef, text: str, name: str, others: _Others
) -> tuple[str, str] | None:
    """Why a metric cannot be this setting, and the fix."""
    if reference.metric is None:
        return (
            f"is a setting, {reference} is an artifact.",
            f"Name one of its metrics: ${{{reference}.METRIC}}.",
        )
    if parse_reference(text) is None:
        return "a metric is known only when its step has ended.", "Make it the whole value."
    if others.is_many(reference):
        fix = "Name a step without foreach, or with the same items."
        return f"{reference} is one number for each item.", fix
    if "[" in name:
        return "a metric cannot be an item of a list.", "Use a setting that is one number."
    return None


def _without(value: Any, path: str, taken: Collection[str]) -> Any:
    """``value`` without the mapping entries whose path is in ``taken``."""
    if isinstance(value, dict):
        return {
            key: _without(item, where, taken)
            for key, item in value.items()
            if (where := child_path(path, key)) not in taken
        }
    return value
