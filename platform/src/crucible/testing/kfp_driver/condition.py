"""Conditions and selectors of KFP, which are written in CEL, evaluated by a library of CEL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from crucible.testing.kfp_driver.values import to_text

_FIELDS: dict[type, str] = {
    str: "string_value",
    bool: "bool_value",
    int: "number_value",
    float: "number_value",
    list: "list_value",
    dict: "struct_value",
}


def holds(condition: str, parameters: Mapping[str, Any]) -> bool:
    """True if a task with those input parameters is to run.

    Raises:
        ValueError: the condition cannot be evaluated.
    """
    values = {name: _double(value) for name, value in parameters.items()}
    result = _evaluate(condition, {"inputs": {"parameter_values": values}})
    if not isinstance(result, bool):
        raise ValueError(f"condition {condition!r}: return type is not bool, got {result!r}")
    return result


def select(selector: str, value: Any) -> Any:
    """A part of ``value``, as in ``parseJson(string_value)["name"]``.

    Raises:
        ValueError: the selector cannot be evaluated.
    """
    fields = {_FIELDS[type(value)]: value, "string_value": to_text(value)}
    return _evaluate(selector, fields)


def _evaluate(expression: str, variables: Mapping[str, Any]) -> Any:
    import cel

    context = cel.Context(dict(variables))
    context.add_function("parseJson", json.loads)
    try:
        return cel.evaluate(expression, context)
    except Exception as error:  # the library raises built-in ones of many kinds
        raise ValueError(f"{expression!r}: {type(error).__name__}: {error}") from error


def _double(value: Any) -> Any:
    """CEL tells 1 from 1.0, and a number of KFP is always the latter."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
