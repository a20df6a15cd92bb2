"""``when``: what is a comparison, and what it decides."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.specs.conditions import Comparison, holds, parse_condition
from crucible.specs.references import OutputRef, ParamRef

PARAMS = {"n": 3, "x": 0.5, "mode": "fast", "deep": True, "xs": [1]}


@pytest.mark.parametrize(
    ("text", "comparison"),
    [
        ("${params.n} == 3", Comparison(ParamRef("n"), "==", 3)),
        ("${params.n}>=1e-1", Comparison(ParamRef("n"), ">=", 0.1)),
        ("${params.mode} != 'a b'", Comparison(ParamRef("mode"), "!=", "a b")),
        ("${params.mode} == a == b", Comparison(ParamRef("mode"), "==", "a == b")),
        ("${params.n} < ${params.x}", Comparison(ParamRef("n"), "<", 0.5)),
        (
            "${steps.e.outputs.metrics.acc/all} >= 0.5",
            Comparison(OutputRef("e", "metrics", "acc/all"), ">=", 0.5),
        ),
        (
            "${steps.e.outputs.metrics.acc} > ${params.x}",
            Comparison(OutputRef("e", "metrics", "acc"), ">", 0.5),
        ),
    ],
)
def test_comparisons(text: str, comparison: Comparison) -> None:
    assert parse_condition(text, PARAMS) == comparison


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Write"),
        ("params.n == 3", "Write"),
        ("${params.n} = 3", "Write"),
        ("${params.n} ==", "Write"),
        ("3 == ${params.n}", "Write"),
        ("${item} == 3", "Write"),
        ("${params.n} == ${item}", "right side"),
        ("${params.n} == [1", "no YAML value"),
        ("${steps.e.outputs.metrics} >= 0.5", "name of a metric"),
        ("${steps.e.outputs.metrics.acc} >= high", "no number"),
        ("${steps.e.outputs.metrics.acc} == true", "no number"),
    ],
)
def test_what_is_no_comparison(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_condition(text, PARAMS)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${params.deep} == true", True),
        ("${params.deep} != true", False),
        ("${params.mode} == fast", True),
        ("${params.mode} < slow", True),
        ("${params.n} == 3.0", True),
        ("${params.xs} == [1]", True),
    ],
)
def test_what_holds(text: str, result: bool) -> None:
    assert holds(parse_condition(text, PARAMS), PARAMS) is result


@given(
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    st.integers(-3, 3) | st.floats(-3, 3),
    st.integers(-3, 3),
)
def test_numbers_compare_as_python_does(op: str, left: float, right: int) -> None:
    names = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
    comparison = parse_condition(f"${{params.p}} {op} {right}", {})
    assert holds(comparison, {"p": left}) is getattr(operator, names[op])(left, right)


@pytest.mark.parametrize(
    "text",
    ["${params.deep} > true", "${params.n} == fast", "${params.deep} == 1", "${params.xs} < [2]"],
)
def test_sides_that_cannot_be_compared(text: str) -> None:
    with pytest.raises(ValueError, match="compares"):
        holds(parse_condition(text, PARAMS), PARAMS)


def test_a_parameter_without_value_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        parse_condition("${params.n} == ${params.zz}", PARAMS)
