"""Scalars follow YAML 1.2, nothing recurses without a limit, and syntax errors have a place."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crucible.specs.yaml_nodes import MAX_DEPTH, Scalar, YamlError, read_nodes, scalar_value


def value_of(text: str) -> object:
    node = read_nodes(text, "f")
    assert isinstance(node, Scalar)
    return scalar_value(node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-7", -7),
        ("007", 7),
        ("0o17", 15),
        ("0xfF", 255),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("on", "on"),
        ("No", "No"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("Null", None),
        ("2024-01-31", "2024-01-31"),
        ("'5'", "5"),
        ('"null"', "null"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("! 5", "5"),
        ("|\n  5", "5"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


@given(st.integers(-(10**50), 10**50) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_that_python_writes_are_read_back(number: float) -> None:
    found = value_of(repr(number))
    assert found == number
    assert isinstance(found, type(number))


@given(st.text())
def test_strings_that_pyyaml_quotes_are_read_back(text: str) -> None:
    dumped = yaml.safe_dump(text, default_style='"')
    assert value_of(dumped) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (".inf", "not a finite number"),
        ("-.INF", "not a finite number"),
        (".nan", "not a finite number"),
        ("1e999", "too large"),
        ("9" * 5000, "5000 digits"),
        ("!!int x", "not a YAML int"),
        ("!!python/name:os.system x", "not supported"),
        ("!mine x", "not supported"),
    ],
)
def test_what_nobody_can_mean_is_refused(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        value_of(text)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_where_it_gets_too_deep(opening: str) -> None:
    with pytest.raises(YamlError, match="deep") as caught:
        read_nodes(opening * 100_000, "f")
    assert caught.value.problem.column == MAX_DEPTH * len(opening) + 1


def test_nesting_up_to_the_limit_is_read() -> None:
    assert read_nodes("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f") is not None


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\n\tb: 2\n", (2, 1), "spaces"),
        ("a: {b: ${params.x}}\n", (1, 9), "Quote references"),
        ("a: [1, 2\nb: 3\n", (2, 2), "quotes, colons"),
        ("a: *b\n", (1, 4), "no anchor"),
        ("a: 1\n---\nb: 2\n", (3, 1), "second document"),
        ("a: b\0c\n", (1, 5), "character"),
        ("a: 'b\n", (2, 1), "quotes"),
    ],
)
def test_a_syntax_error_has_a_place_and_a_hint(
    text: str, place: tuple[int, int], words: str
) -> None:
    with pytest.raises(YamlError) as caught:
        read_nodes(text, "f.yaml")
    problem = caught.value.problem
    assert (problem.line, problem.column) == place
    assert problem.file == "f.yaml"
    assert words in str(problem)


def test_a_lone_surrogate_is_an_error_and_no_traceback() -> None:
    with pytest.raises(YamlError, match="not Unicode"):
        read_nodes("a: \ud800", "f")
