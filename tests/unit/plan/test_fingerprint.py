"""What a fingerprint depends on, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.plan import Plan
from crucible.plan.fingerprint import fingerprint

MakePlan = Callable[..., Plan]
BODY = (
    "params: {rate: {type: number, default: 1}, go: {type: boolean, default: true}}\n"
    "defaults: {DEFAULTS}\n"
    "steps:\n"
    "  a: {uses: Emit!, with: {values: {rate: '${params.rate}'}}}\n"
    "  b: {uses: Noop!, with: {dataset: '${steps.a.outputs.dataset}'}}\n"
    "  c: {uses: Noop!, with: {dataset: '${steps.b.outputs.dataset}', salt: x}}\n"
    "  d: {uses: Sum!, with: {metrics: ['${steps.a.outputs.metrics}']}}\n"
    "  e: {uses: Noop!}\n"
)


def prints(plan: Plan) -> dict[str, str]:
    return {step.id: step.fingerprint for step in plan.steps}


def changed(plan: Plan, other: Plan) -> set[str]:
    return {name for name, value in prints(plan).items() if prints(other)[name] != value}


@pytest.fixture
def variant(make_plan: MakePlan) -> MakePlan:
    def variant(
        defaults: str = "cache: true", old: str = "", new: str = "", **options: object
    ) -> Plan:
        return make_plan(BODY.replace("DEFAULTS", defaults).replace(old, new, 1), **options)

    return variant


def test_equal_files_have_equal_fingerprints(variant: MakePlan) -> None:
    assert changed(variant(), variant()) == set()


def test_a_setting_changes_the_step_and_all_that_follow(variant: MakePlan) -> None:
    assert changed(variant(), variant(overrides={"rate": "2"})) == {"a", "b", "c", "d"}
    assert changed(variant(), variant(old="salt: x", new="salt: y")) == {"c"}


def test_a_default_that_is_written_out_changes_nothing(variant: MakePlan) -> None:
    assert (
        changed(variant(), variant(old="e: {uses: Noop!", new="e: {uses: Noop!, with: {salt: ''}"))
        == set()
    )


def test_seed_and_environment_change_everything(variant: MakePlan) -> None:
    assert changed(variant(), variant("seed: 1")) == set("abcde")
    assert changed(variant(), variant(images={"base": "img@sha256:a"})) == set("abcde")
    assert changed(variant(), variant(old="  e: {", new="  e: {seed: 3, ")) == {"e"}


@pytest.mark.parametrize(
    "defaults",
    [
        "resources: {cpus: 2, memory_gib: 4}",
        "retry: {limit: 9}",
        "timeout_minutes: 3",
        "cache: false",
    ],
)
def test_how_a_step_runs_changes_nothing(variant: MakePlan, defaults: str) -> None:
    assert changed(variant(), variant(defaults)) == set()


@pytest.mark.parametrize("key", ["after: c", "when: '${params.go} == true'"])
def test_conditions_and_order_change_nothing(variant: MakePlan, key: str) -> None:
    assert changed(variant(), variant(old="  e: {", new=f"  e: {{{key}, ")) == set()


def test_the_name_of_the_step_is_no_part(make_plan: MakePlan) -> None:
    one = make_plan("steps: {a: {uses: Noop!}}\n")
    other = make_plan("steps: {b: {uses: Noop!}}\n")
    assert one.steps[0].fingerprint == other.steps[0].fingerprint


def test_a_file_enters_by_content_and_not_by_place(make_plan: MakePlan, tmp_path: Path) -> None:
    for folder, text in (("x", "1"), ("y", "1"), ("z", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "records.jsonl").write_text(text)
    lines = [f"  {name}: {{uses: Noop!, with: {{dataset: {name}}}}}\n" for name in "xyz"]
    plan = make_plan(f"steps:\n{''.join(lines)}")
    x, y, z = (step.fingerprint for step in plan.steps)
    assert x == y
    assert x != z


def test_the_order_of_a_list_counts(make_plan: MakePlan) -> None:
    head = "steps: {a: {uses: Emit!}, b: {uses: Emit!, with: {text: b}}, s: {uses: Sum!, with: "
    refs = ["'${steps.a.outputs.metrics}'", "'${steps.b.outputs.metrics}'"]
    one = make_plan(f"{head} {{metrics: [{', '.join(refs)}]}}}}}}")
    other = make_plan(f"{head} {{metrics: [{', '.join(reversed(refs))}]}}}}}}")
    assert changed(one, other) == {"s"}


def test_a_metric_in_a_setting_is_a_part(make_plan: MakePlan) -> None:
    steps = (
        "steps: {a: {uses: Emit!, with: {text: TEXT}}, e: {uses: Emit!},\n"
        "  s: {uses: Sum!, with: {metrics: ['${steps.e.outputs.metrics}'], "
        "offset: '${steps.a.outputs.metrics.x}'}}}\n"
    )
    one, other = make_plan(steps.replace("TEXT", "one")), make_plan(steps.replace("TEXT", "two"))
    assert changed(one, other) == {"a", "s"}
    part = one.step("s").fingerprint_parts["metric.offset"]
    assert part == f"{one.step('a').fingerprint}/metrics/x"


def test_parts_say_what_they_are(make_plan: MakePlan) -> None:
    plan = make_plan("steps: {a: {uses: Emit!, with: {values: {x: 1, y: 2}}}}\n")
    parts = plan.steps[0].fingerprint_parts
    assert list(parts) == [
        *("component", "version", "code", "environment", "seed"),
        *("config.text", "config.values.x", "config.values.y", "config.report_html"),
    ]
    assert parts["component"] == "test-emit"
    assert plan.steps[0].fingerprint == fingerprint(parts)


TEXTS = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)


@given(TEXTS, TEXTS)
def test_fingerprints_are_equal_exactly_for_equal_parts(
    one: dict[str, str], other: dict[str, str]
) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert fingerprint(dict(reversed(one.items()))) == fingerprint(one)
