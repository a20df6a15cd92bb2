"""From parsed YAML to spec models: every fault of form as a problem, and what is sound kept.

What has no fault is kept even where its neighbour has one, so that references and component
settings of the rest are checked in the same pass.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from crucible.errors import Problem
from crucible.sdk.suggestion import did_you_mean
from crucible.specs.document import Document, child_path, shown
from crucible.specs.model import PATTERN_RULES

ModelT = TypeVar("ModelT", bound=BaseModel)
Location = tuple[str | int, ...]
_MAX_PRUNINGS = 8
_RULES = {
    "too_short": "wants at least one entry",
    "model_type": "wants a mapping",
    "dict_type": "wants a mapping",
    "list_type": "wants a list",
    "string_type": "wants a string",
    "int_type": "wants an integer",
    "float_type": "wants a number",
    "bool_type": "wants true or false",
}
"""Pydantic's words for a wrong type, in those of a YAML file."""


def form_problems(model: type[BaseModel], value: Any, document: Document) -> list[Problem]:
    """What keeps ``value``, the document's content, from being a ``model``."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)
        return [_problem(detail, model, value, document) for detail in details]
    return []


def sound_part(model: type[ModelT], value: Any) -> ModelT | None:
    """``value`` as a ``model`` without what has a fault; None if too little is left."""
    for _ in range(_MAX_PRUNINGS):
        try:
            return model.model_validate(value)
        except ValidationError as error:
            locations = {_to_remove(detail, value) for detail in error.errors()}
        if () in locations:
            return None
        value = _without(value, (), locations)
    return None


def _to_remove(detail: Mapping[str, Any], value: Any) -> Location:
    """What must go for one error to go: the value, or what lacks a required key."""
    location: Location = detail["loc"]
    return _written(location[:-1] if detail["type"] == "missing" else location, value)


def _written(location: Location, value: Any) -> Location:
    """``location`` as far as the file has it: pydantic adds the members of unions that it tried."""
    for depth, part in enumerate(location):
        try:
            value = _item(value, part)
        except LookupError:
            return location[:depth]
    return location


def _item(value: Any, part: str | int) -> Any:
    if isinstance(value, list) and isinstance(part, int):
        return value[part]
    if isinstance(value, dict):
        return value[part]
    raise LookupError(part)


def _without(value: Any, at: Location, locations: Collection[Location]) -> Any:
    if isinstance(value, dict):
        pairs = ((key, item, (*at, key)) for key, item in value.items())
        kept = ((key, item, here) for key, item, here in pairs if here not in locations)
        return {key: _without(item, here, locations) for key, item, here in kept}
    if isinstance(value, list):
        places = ((item, (*at, index)) for index, item in enumerate(value))
        return [_without(item, here, locations) for item, here in places if here not in locations]
    return value


def _problem(
    detail: Mapping[str, Any], model: type[BaseModel], value: Any, document: Document
) -> Problem:
    location = detail["loc"]
    is_key = location[-1:] == ("[key]",)
    path = ""
    for part in _written(location, value):
        path = child_path(path, part)
    kind, got = detail["type"], shown(detail["input"])
    if kind == "missing":
        path = child_path(path, str(location[-1]))
        return document.problem(path, "is required.", "Add it.", at_key=True)
    if kind == "extra_forbidden":
        fix = did_you_mean(str(location[-1]), _keys_at(model, location[:-1]))
        return document.problem(path, "is not known here.", fix, at_key=True)
    context = detail.get("ctx") or {}
    if kind == "literal_error":
        return document.problem(path, f"got {got}.", f"Valid: {context['expected']}.")
    text = _RULES.get(kind) or PATTERN_RULES.get(str(context.get("pattern"))) or str(detail["msg"])
    return document.problem(path, f"got {got}: {text[:1].lower()}{text[1:]}.", at_key=is_key)


def _keys_at(model: type[BaseModel], location: Location) -> Iterator[str]:
    """The keys that may stand at ``location`` below ``model``."""
    holder: Any = model
    for part in location:
        if isinstance(holder, type) and issubclass(holder, BaseModel):
            by_key = {info.alias or name: info for name, info in holder.model_fields.items()}
            holder = _container(by_key[str(part)].annotation) if part in by_key else None
        else:  # a name or an index inside a mapping or list
            holder = next(iter(typing.get_args(holder)[-1:]), None)
    if isinstance(holder, type) and issubclass(holder, BaseModel):
        for name, info in holder.model_fields.items():
            yield info.alias or name


def _container(annotation: Any) -> Any:
    """``annotation`` without ``| None``."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not types.NoneType)
    return annotation
