"""References are found, kept apart from literals, and replaced without being read twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.specs.references import (
    ItemRef,
    OutputRef,
    ParamRef,
    escape,
    has_item,
    lookup_item,
    lookup_params,
    parse_reference,
    references_in,
    substitute,
    unescape,
)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("${params.seed}", ParamRef("seed")),
        ("${ params.seed }", ParamRef("seed")),
        ("${item}", ItemRef()),
        ("${steps.a.outputs.model}", OutputRef("a", "model")),
        ("${steps.a-b.outputs.m.acc/x.y}", OutputRef("a-b", "m", "acc/x.y")),
        ("${params.a.b}", None),
        ("${params.}", None),
        ("${env.HOME}", None),
        ("${steps.a.model}", None),
        ("x ${item}", None),
        ("$${item}", None),
        ("${item", None),
        ("", None),
    ],
)
def test_whole_references(text: str, reference: object) -> None:
    assert parse_reference(text) == reference


def test_all_references_of_a_text_are_found_and_literals_are_not() -> None:
    text = "${params.a} $${params.b} ${item} ${what} ${steps.s.outputs.o.m} ${open"
    assert list(references_in(text)) == [
        ParamRef("a"),
        ItemRef(),
        "${what}",
        OutputRef("s", "o", "m"),
        "${open",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${params.n}", 3),
        ("${params.flag}", True),
        ("${params.xs}", [1, 2]),
        ("n=${params.n}", "n=3"),
        ("${params.flag}/${params.x}", "true/0.5"),
        ("${params.xs}!", "[1, 2]!"),
        ("${params.other}", "${params.other}"),
        ("${params.other} ${params.n}", "${params.other} 3"),
        ("$${params.n}", "$${params.n}"),
        ("${item}", "${item}"),
        ({"a": ["${params.n}"]}, {"a": [3]}),
        (7, 7),
    ],
)
def test_substitution_keeps_types_of_whole_values(text: object, value: object) -> None:
    params = {"n": 3, "flag": True, "xs": [1, 2], "x": 0.5}
    found = substitute(text, lookup_params(params))
    assert found == value
    assert type(found) is type(value)


def test_a_parameter_that_looks_like_a_reference_stays_data() -> None:
    params = {"evil": "${item} ${steps.a.outputs.b} $${x}"}
    step_one = substitute({"a": "${params.evil}", "b": "<${params.evil}>"}, lookup_params(params))
    step_two = substitute(step_one, lookup_item("ITEM"))
    assert unescape(step_two) == {"a": params["evil"], "b": f"<{params['evil']}>"}


FRAGMENTS = st.lists(st.sampled_from(["$", "{", "}", "${", "$${", "a", "${item}"])).map("".join)


@given(FRAGMENTS)
def test_escaped_text_holds_no_reference_and_comes_back(text: str) -> None:
    assert unescape(escape(text)) == text
    assert list(references_in(escape(text))) == []
    assert substitute(escape(text), lookup_item("X")) == escape(text)


@given(FRAGMENTS)
def test_nothing_is_lost_where_nothing_is_replaced(text: str) -> None:
    assert substitute(text, lookup_params({})) == text


def test_has_item_looks_everywhere_but_not_at_literals() -> None:
    assert has_item({"a": [{"b": "x ${item}"}]})
    assert not has_item({"a": ["$${item}", "${params.item}", 3]})
