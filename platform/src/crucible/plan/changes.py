"""What changed between two plans of one pipeline, in a user's words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from crucible.plan.model import Import, Plan, PlanStep, SlotInput, StepOutput
from crucible.specs.document import shown

_SHOWN_CHARS = 40
_SETTINGS = ("resources", "retry", "timeout_minutes", "cache_enabled", "when", "image")
"""What a step may change in without losing its cached outputs."""


def diff(plan: Plan, last: Plan) -> list[str]:
    """What changed from ``last`` to ``plan``, one line each; empty if nothing did.

    Consequences are left out: a step whose input changed because its producer did has no line.
    """
    params, before = (
        {name: shown(value) for name, value in found.params.items()} for found in (plan, last)
    )
    lines = [f"params.{name}: {then} -> {now}" for name, then, now in _pairs(before, params)]
    steps = {step.id: step for step in plan.all_steps}
    earlier = {step.id: step for step in last.all_steps}
    changes: dict[tuple[str, str], list[str]] = {}
    for step_id in dict.fromkeys((*steps, *earlier)):
        name = (steps.get(step_id) or earlier[step_id]).name
        for change in _step_changes(steps.get(step_id), earlier.get(step_id)):
            changes.setdefault((name, change), []).append(step_id)
    lines += [f"{_label(name, ids)}: {change}" for (name, change), ids in changes.items()]
    if plan.release != last.release:
        lines.append("release: changed")
    return lines


def part_changes(step: PlanStep, earlier: PlanStep) -> Iterator[tuple[str, str]]:
    """Name and change of each part in which the fingerprints of two steps differ."""
    now, then = step.fingerprint_parts, earlier.fingerprint_parts
    if now.get("component") != then.get("component"):
        yield "component", f"uses {now.get('component')}, was {then.get('component')}"
        return
    for part, old, new in _pairs(then, now):
        if part == "code":
            yield part, f"code of {now['component']} changed"
        elif part == "environment":
            yield part, "environment changed"
        elif part.startswith(("input.", "metric.")):
            change = "is new" if part not in then else "changed"
            change = change if part in now else "is no longer given"
            yield part, f"{part.replace('.', ' ', 1)} {change}"
        else:
            yield part, f"{part}: {old} -> {new}"


def _step_changes(step: PlanStep | None, earlier: PlanStep | None) -> Iterator[str]:
    if earlier is None or step is None:
        yield "new" if step is not None else "removed"
        return
    for part, change in part_changes(step, earlier):
        if not part.startswith(("input.", "metric.")):
            yield change
    yield from _input_changes(step.inputs, earlier.inputs)
    for name, then, now in _pairs(_metrics(earlier), _metrics(step)):
        yield f"{name}: {then} -> {now}"
    for name in _SETTINGS:
        for field, then, now in _pairs(_fields(earlier, name), _fields(step, name)):
            yield f"{field}: {then} -> {now}"


def _input_changes(inputs: Collection[SlotInput], earlier: Collection[SlotInput]) -> Iterator[str]:
    """Slots that are filled from elsewhere, or whose import has other content."""
    now = {slot.slot: slot.sources for slot in inputs}
    then = {slot.slot: slot.sources for slot in earlier}
    for slot in dict.fromkeys((*now, *then)):
        new, old = now.get(slot, ()), then.get(slot, ())
        if [_place(source) for source in new] != [_place(source) for source in old]:
            yield f"input {slot}: {_places(old)} -> {_places(new)}"
        elif new != old:
            yield f"input {slot}: content of {_places(new)} changed"


def _metrics(step: PlanStep) -> dict[str, str]:
    refs = step.metric_refs.items()
    return {f"metric {name}": f"{ref.step_id}.{ref.output}.{ref.metric}" for name, ref in refs}


def _place(source: StepOutput | Import) -> str:
    return source.uri if isinstance(source, Import) else f"{source.step_id}.{source.output}"


def _places(sources: Collection[StepOutput | Import]) -> str:
    return _short(", ".join(_place(source) for source in sources) or "unset")


def _fields(step: PlanStep, name: str) -> Mapping[str, Any]:
    """One attribute by dotted name; that of a dataclass field by field."""
    value = getattr(step, name)
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is None:
        return {name: value}
    return {f"{name}.{field}": getattr(value, field) for field in fields}


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, old and new value of every entry that differs."""
    for key in dict.fromkeys((*now, *then)):
        if key not in now or key not in then or now[key] != then[key]:
            old = _short(then[key]) if key in then else "unset"
            yield key, old, _short(now[key]) if key in now else "unset"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _label(name: str, ids: Collection[str]) -> str:
    return f"step {name}, {len(ids)} items" if len(ids) > 1 else f"step {next(iter(ids))}"
