"""``when``: one comparison of a parameter or a metric with a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Literal, cast, get_args

from crucible.errors import UserError
from crucible.specs.document import parse_value
from crucible.specs.references import OutputRef, ParamRef, parse_reference

FORM = "Write '${params.NAME} == VALUE' or '${steps.NAME.outputs.METRICS.METRIC} >= NUMBER'."
_COMPARISON = re.compile(r"\s*(\$\{[^{}]*\})\s*(==|!=|<=|>=|<|>)\s*(\S.*?)\s*\Z", re.DOTALL)
Operator = Literal["==", "!=", "<", "<=", ">", ">="]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = dict(
    zip(get_args(Operator), (eq, ne, lt, le, gt, ge), strict=True)
)


@dataclass(frozen=True)
class Comparison:
    """``left op right``."""

    left: ParamRef | OutputRef
    op: Operator
    right: Any
    """A scalar; a number where ``left`` is a metric."""


def parse_condition(text: str, params: Mapping[str, Any]) -> Comparison:
    """The comparison that ``text`` is; its right side may be a parameter.

    Raises:
        ValueError: it is none, or compares what cannot be compared; the message says why.
        KeyError: a parameter on the right has no value.
    """
    match = _COMPARISON.match(text)
    left = parse_reference(match[1]) if match else None
    if match is None or not isinstance(left, (ParamRef, OutputRef)):
        raise ValueError(f"got {text!r}. {FORM}")
    comparison = Comparison(left, cast(Operator, match[2]), _right(match[3], params))
    if isinstance(left, OutputRef):
        if left.metric is None:
            raise ValueError(
                f"compares the artifact {left}. Add the name of a metric: {left}.METRIC"
            )
        if not _is_number(comparison.right):
            raise ValueError(f"compares a metric with {comparison.right!r}, which is no number.")
    return comparison


def holds(comparison: Comparison, params: Mapping[str, Any]) -> bool:
    """Whether a comparison of a parameter holds.

    Raises:
        ValueError: its sides have types that cannot be compared.
        KeyError: the parameter has no value.
    """
    name = cast(ParamRef, comparison.left).name
    left, right, op = params[name], comparison.right, comparison.op
    same_type = type(left) is type(right) or (_is_number(left) and _is_number(right))
    is_ordered = _is_number(left) or isinstance(left, str)
    if not same_type or (op not in ("==", "!=") and not is_ordered):
        raise ValueError(f"compares params.{name}, which is {left!r}, by {op} with {right!r}.")
    return _OPERATORS[op](left, right)


def _right(text: str, params: Mapping[str, Any]) -> Any:
    reference = parse_reference(text)
    if isinstance(reference, ParamRef):
        return params[reference.name]
    if reference is not None:
        raise ValueError(f"has {text} on its right side. {FORM}")
    try:
        return parse_value(text, "when")
    except UserError as error:
        raise ValueError(f"has {text!r} on its right side, which is no YAML value.") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
