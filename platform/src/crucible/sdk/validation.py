"""A component's settings from what a user wrote: all mistakes at once, with paths and fixes."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from crucible.errors import Problem, UserError
from crucible.sdk.component import Component, ComponentConfig, slots_of
from crucible.sdk.suggestion import did_you_mean

_MAX_VALUE_CHARS = 60


def validate_config(
    cls: type[Component], values: Mapping[str, Any], *, where: str
) -> ComponentConfig:
    """The settings of one step of ``cls``, defaults filled in.

    Args:
        cls: the component.
        values: settings by name, input slots left out.
        where: dotted path of the settings for messages, e.g. ``steps.align.with``.

    Raises:
        UserError: with one problem for every setting that is wrong.
    """
    try:
        return cls.Config.model_validate(dict(values))
    except ValidationError as error:
        problems = config_problems(error, cls, values, where=where)
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise UserError(f"settings of {cls.name} are wrong:\n{lines}", problems) from None


def config_problems(
    error: ValidationError, cls: type[Component], values: Mapping[str, Any], *, where: str
) -> list[Problem]:
    """Errors of pydantic as problems whose paths are those of the user's file."""
    slots = [slot.name for slot in slots_of(cls.Inputs)]
    return model_problems(error, cls.Config, values, where=where, name=cls.name, slots=slots)


def model_problems(
    error: ValidationError,
    model: type[BaseModel],
    values: Mapping[str, Any],
    *,
    name: str,
    where: str = "",
    slots: Iterable[str] = (),
) -> list[Problem]:
    """The same for any document.

    Args:
        error: of ``model``.
        model: the document's.
        values: what the user wrote.
        name: what the settings are of.
        where: dotted path of the document.
        slots: names that stand beside its settings.
    """
    found = []
    for detail in error.errors(include_url=False, include_context=False):
        path = "".join((where, *_path_parts(detail["loc"], values))).removeprefix(".")
        found.append(_problem(detail, model, path, name=name, slots=frozenset(slots)))
    return found


def _problem(
    detail: Mapping[str, Any],
    model: type[BaseModel],
    path: str,
    *,
    name: str,
    slots: frozenset[str],
) -> Problem:
    location = detail["loc"]
    if detail["type"] == "missing":
        return Problem(path, "is required.", f"Set it: {path.rpartition('.')[2]}: <value>")
    if detail["type"] == "extra_forbidden":
        options = set(_fields_at(model, location[:-1]))
        if len(location) == 1:
            options |= slots
        return Problem(path, f"is not a setting of {name}.", did_you_mean(location[-1], options))
    text = str(detail["msg"]).removeprefix("Value error, ").rstrip(".")
    shown = repr(detail["input"])
    if len(shown) > _MAX_VALUE_CHARS:
        shown = f"{shown[: _MAX_VALUE_CHARS - 1]}…"
    return Problem(path, f"got {shown}. {text[:1].upper()}{text[1:]}.")


def _path_parts(location: tuple[str | int, ...], values: Any) -> Iterator[str]:
    """Parts of a path in the user's file: pydantic also names union members, which are skipped."""
    for index, part in enumerate(location):
        if isinstance(part, int):
            yield f"[{part}]"
            values = values[part] if isinstance(values, (list, tuple)) else None
        elif isinstance(values, Mapping) and (part in values or index == len(location) - 1):
            yield f".{part}"
            values = values.get(part)


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> Iterator[str]:
    """Field names of the models that may stand at ``location`` below ``model``."""
    models = {model}
    for part in location:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if fields:
            models = {found for field in fields for found in _models_in(field.annotation)}
    for found in models:
        yield from found.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def with_metric_refs(values: Mapping[str, Any], numbers: Mapping[str, float]) -> dict[str, Any]:
    """A copy of ``values`` with numbers of other steps put in.

    Args:
        values: settings as the plan holds them.
        numbers: by dotted setting name; a part that is a number indexes a list.

    Raises:
        UserError: a name leads through something that is no map or list.
    """
    filled = copy.deepcopy(dict(values))
    for path, number in numbers.items():
        *parents, last = path.split(".")
        holder: Any = filled
        try:
            for part in parents:
                holder = holder[_key(holder, part)]
            holder[_key(holder, last)] = number
        except (KeyError, IndexError, TypeError, ValueError) as error:
            problem = Problem(path, "is to be set to a metric, but there is no such setting.")
            raise UserError(str(problem), [problem]) from error
    return filled


def _key(holder: Any, part: str) -> str | int:
    return int(part) if isinstance(holder, list) else part
