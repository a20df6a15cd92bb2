from __future__ import annotations

from typing import Any

import pytest

from crucible.testing.kfp_driver.condition import holds, select

BETWEEN = "inputs.parameter_values['a.b/c'] > 0.5 && inputs.parameter_values['a.b/c'] < 2.0"


@pytest.mark.parametrize(
    ("condition", "value", "result"),
    [
        ("inputs.parameter_values['a.b/c'] >= 0.5", 0.5, True),
        ("inputs.parameter_values['a.b/c'] >= 0.5", 1, True),
        ("inputs.parameter_values['a.b/c'] < 1e-07", 0.0, True),
        ("inputs.parameter_values['a.b/c'] == 5.0", 5, True),
        (BETWEEN, 3, False),
        (BETWEEN, 1, True),
        ("int(inputs.parameter_values['a.b/c']) > 3", 4, True),
        ("!(int(inputs.parameter_values['a.b/c']) > 3)", 4, False),
        ("inputs.parameter_values['a.b/c'] == 'heads'", "heads", True),
        ("inputs.parameter_values['a.b/c'] == true", True, True),
    ],
)  # fmt: skip
def test_the_forms_that_compilers_write(condition: str, value: Any, result: bool) -> None:
    assert holds(condition, {"a.b/c": value}) is result


@pytest.mark.parametrize(
    "condition",
    [
        "inputs.parameter_values['other'] > 1.0",
        "inputs.parameter_values['x'] > 1.0",  # a text: CEL does not compare it with a number
        "inputs.parameter_values['n']",
        "inputs.parameter_values['n'] > inf",
        "no CEL at all",
    ],
)
def test_what_cannot_be_evaluated_is_an_error(condition: str) -> None:
    with pytest.raises(ValueError, match=r"'"):
        holds(condition, {"x": "1.5", "n": 2.0})


def test_selectors_take_a_part_of_a_value() -> None:
    assert select('parseJson(string_value)["a"]', {"a": 1.5, "b": 2}) == 1.5
    assert select("string_value", [1, "b"]) == '[1,"b"]'
