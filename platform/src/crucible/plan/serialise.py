"""Plans as JSON: canonical for digests, readable for files.

Encoding and decoding follow the annotations of `crucible.plan.model`, so a field added there is
stored without a change here. Reading ignores keys it does not know: a plan written by a newer
version stays inspectable. What is missing takes its default, or is an error that names the path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from crucible.errors import UserError
from crucible.plan.model import Plan

_FIX = "Submit the pipeline again."


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """``plan`` as a JSON value: dataclasses as objects, tuples as arrays."""
    return cast(dict[str, Any], _encode(plan))


def plan_from_json(value: Mapping[str, Any]) -> Plan:
    """The plan that `plan_to_json` stored; keys of newer versions are ignored.

    Raises:
        UserError: a required key is missing or a value has the wrong form; names its path.
    """
    return cast(Plan, _decode(Plan, value, "plan"))


def plan_digest(plan: Plan) -> str:
    """``sha256:<hex>`` of the canonical JSON of ``plan`` without its spec's path and text."""
    value = plan_to_json(plan)
    del value["spec_path"], value["spec_text"]
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _encode(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    fields = _hints(value.__class__)
    return {name: _encode(getattr(value, name)) for name in fields}


def _decode(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _decode_object(hint, value, path)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _decode(_member(args, value), value, path)
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), "an array", value, path)
        return tuple(_decode(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _require(isinstance(value, Mapping), "an object", value, path)
        return {key: _decode(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if origin is typing.Literal:
        _require(value in args, f"one of {', '.join(map(str, args))}", value, path)
        return value
    # A float that is a whole number may come back as an int; bool is an int that is none.
    fits = isinstance(value, (int, float) if hint is float else hint)
    _require(fits and (hint is bool or not isinstance(value, bool)), hint.__name__, value, path)
    return value


def _decode_object(cls: type, value: Any, path: str) -> Any:
    _require(isinstance(value, Mapping), "an object", value, path)
    hints = _hints(cls)
    present = {
        name: _decode(hint, value[name], f"{path}.{name}")
        for name, hint in hints.items()
        if name in value
    }
    missing = [name for name in _required(cls) if name not in present]
    if missing:
        raise UserError(f"{path}.{missing[0]}: is missing in the stored plan. {_FIX}")
    return cls(**present)


def _member(members: tuple[Any, ...], value: Any) -> Any:
    """The member of a union that ``value`` is: the first whose required keys it has."""
    classes = [cast(type, member) for member in members if member is not types.NoneType]
    fitting = (
        cls
        for cls in classes
        if isinstance(value, Mapping)
        and dataclasses.is_dataclass(cls)
        and all(name in value for name in _required(cls))
    )
    return next(fitting, classes[0])


def _require(holds: bool, wanted: str, value: Any, path: str) -> None:
    if not holds:
        raise UserError(f"{path}: the stored plan has {value!r:.60}, not {wanted}. {_FIX}")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@cache
def _required(cls: type) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
