"""Stored plans: what is written is read back, by this version and by older ones."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible import plan as plan_package
from crucible.errors import UserError
from crucible.plan import plan_digest, plan_from_json, plan_to_json
from crucible.plan.model import (
    Condition,
    Gate,
    Import,
    MetricRef,
    Plan,
    PlanStep,
    Release,
    SlotInput,
    StepOutput,
    Threshold,
)
from crucible.sdk.component import Estimate, Resources
from crucible.sdk.types import ArtifactType

TEXT = st.text(max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def _tuple(of: st.SearchStrategy[typing.Any]) -> st.SearchStrategy[typing.Any]:
    return st.lists(of, max_size=2).map(tuple)


TYPES = st.builds(ArtifactType, TEXT, TEXT)
OUTPUTS = st.builds(StepOutput, TEXT, TEXT)
METRICS = st.builds(MetricRef, TEXT, TEXT, TEXT)
INPUTS = st.builds(
    SlotInput, TEXT, TYPES, _tuple(OUTPUTS | st.builds(Import, TEXT, TEXT)), st.booleans()
)
STEPS = st.builds(
    PlanStep,
    id=TEXT,
    name=TEXT,
    component=TEXT,
    config=st.dictionaries(TEXT, JSON, max_size=2),
    inputs=_tuple(INPUTS),
    outputs=st.dictionaries(TEXT, TYPES, max_size=2),
    fingerprint=TEXT,
    fingerprint_parts=st.dictionaries(TEXT, TEXT, max_size=2),
    seed=st.integers(),
    after=_tuple(TEXT),
    when=_tuple(st.builds(Condition, METRICS, st.sampled_from(["==", "<="]), NUMBER)),
    timeout_minutes=st.none() | NUMBER,
    metric_refs=st.dictionaries(TEXT, METRICS, max_size=1),
    resources=st.builds(Resources, cpus=NUMBER, gpus=st.integers(0, 8)),
    estimate=st.none() | st.builds(Estimate, memory_gib=st.none() | NUMBER),
)
GATES = st.builds(
    Gate,
    metrics=OUTPUTS,
    thresholds=_tuple(st.builds(Threshold, TEXT, st.none() | NUMBER)),
    predictions=st.none() | OUTPUTS,
)
PLANS = st.builds(
    Plan,
    name=TEXT,
    description=TEXT,
    spec_path=TEXT,
    spec_text=TEXT,
    params=st.dictionaries(TEXT, JSON, max_size=2),
    steps=_tuple(STEPS),
    on_exit=st.none() | STEPS,
    release=st.none() | st.builds(Release, model=OUTPUTS, register_as=TEXT, gate=GATES),
    skipped=st.dictionaries(TEXT, TEXT, max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(PLANS)
def test_a_plan_survives_json_text(plan: Plan) -> None:
    again = plan_from_json(json.loads(json.dumps(plan_to_json(plan))))
    assert again == plan
    assert again.digest == plan.digest


def _plan(**changes: typing.Any) -> Plan:
    step = PlanStep("a", "a", "noop", {"n": 1}, (), {}, "sha256:0", {"code": "c"})
    plan = Plan("p", "", "p.yaml", "text", {}, (step,))
    return dataclasses.replace(plan, **changes)


def test_keys_of_a_newer_version_are_ignored() -> None:
    value = plan_to_json(_plan())
    value["colour"] = "red"
    value["steps"][0]["priority"] = 3
    assert plan_from_json(value) == _plan()


def test_keys_that_an_older_version_lacked_take_their_default() -> None:
    value = plan_to_json(_plan())
    del value["skipped"], value["steps"][0]["metric_refs"]
    assert plan_from_json(value) == _plan()


def test_the_digest_is_of_the_plan_not_of_the_file() -> None:
    assert plan_digest(_plan(spec_path="q.yaml", spec_text="other")) == plan_digest(_plan())
    assert plan_digest(_plan(name="q")) != plan_digest(_plan())


@pytest.mark.parametrize(
    ("break_it", "path"),
    [
        (lambda v: v["steps"][0].pop("component"), "plan.steps[0].component"),
        (lambda v: v.update(steps=3), "plan.steps"),
        (lambda v: v["steps"][0].update(seed="7"), "plan.steps[0].seed"),
        (lambda v: v["steps"][0].update(seed=True), "plan.steps[0].seed"),
        (lambda v: v["steps"].append([]), "plan.steps[1]"),
        (lambda v: v["steps"][0].update(outputs=[]), "plan.steps[0].outputs"),
    ],
)
def test_a_damaged_plan_names_the_place(
    break_it: typing.Callable[[dict[str, typing.Any]], object], path: str
) -> None:
    value = plan_to_json(_plan())
    break_it(value)
    with pytest.raises(UserError, match=path.replace("[", r"\[")) as caught:
        plan_from_json(value)
    assert "Submit the pipeline again" in str(caught.value)


def test_reading_plans_loads_neither_yaml_nor_the_specs() -> None:
    """Engines and step processes read plans on every start."""
    program = "import sys, crucible.plan; print({'yaml', 'crucible.specs'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_public_names_are_there() -> None:
    for name in plan_package.__all__:
        assert getattr(plan_package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = plan_package.missing
