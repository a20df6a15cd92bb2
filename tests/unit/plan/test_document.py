"""The JSON form, the totals and the warnings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from crucible.plan import Plan, plan_document
from crucible.plan.document import Totals, totals, warnings
from crucible.plan.model import CacheOutlook
from crucible.sdk.component import Estimate, Resources

MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    """Three steps of known need: an hour on 2 CPUs, 30 min on 2 nodes of 4 GPUs, unknown."""
    made = make_plan(
        "steps:\n"
        "  a: {uses: Emit!}\n"
        "  b: {uses: Noop!, with: {dataset: '${steps.a.outputs.dataset}'}}\n"
        "  c: {uses: Noop!, when: '${steps.a.outputs.metrics.x} > 0.5'}\n"
    )
    a, b, c = made.steps
    a = dataclasses.replace(
        a, estimate=Estimate(1.0, 3600.0, "rows x 2"), resources=Resources(cpus=2, memory_gib=4)
    )
    b = dataclasses.replace(
        b,
        estimate=Estimate(40.0, 1800.0, "weights x 3"),
        resources=Resources(cpus=8, memory_gib=32, gpus=4, nodes=2),
        timeout_minutes=20,
    )
    return dataclasses.replace(made, steps=(a, b, c))


def test_totals_are_sums_over_what_will_run(plan: Plan) -> None:
    assert totals(plan, {}) == Totals(
        steps=3, cached=0, estimated=2, cpu_hours=2 + 8, gpu_hours=4, largest_memory_gib=32
    )
    outlook = {"b": CacheOutlook(True, "run x")}
    assert totals(plan, outlook) == Totals(
        steps=3, cached=1, estimated=1, cpu_hours=2, gpu_hours=0, largest_memory_gib=4
    )


def test_what_will_not_fit_is_a_warning(plan: Plan) -> None:
    assert list(warnings(plan)) == [
        "step b: needs about 40 GiB of memory (weights x 3) but asks for 32 GiB. "
        "Raise resources.memory_gib.",
        "step b: takes about 30 min (weights x 3) but is stopped after 20. Raise timeout_minutes.",
    ]
    [machine, *_] = warnings(plan, memory_budget_gib=15.6)
    assert machine == "step b: asks for 32 GiB of memory, the machine has 15.6 GiB."


def test_a_fan_out_warns_once(make_plan: MakePlan) -> None:
    fan = make_plan("steps: {a: {uses: Emit!, foreach: [1, 2, 3], resources: {memory_gib: 9}}}\n")
    assert len(list(warnings(fan, memory_budget_gib=8))) == 1


def test_the_document_is_json_and_complete(plan: Plan) -> None:
    outlook = {"a": CacheOutlook(False, "never")}
    value = plan_document(plan, outlook)
    assert json.loads(json.dumps(value)) == value
    a, b, c = value["steps"]
    assert a["cache"] == {"hit": False, "reason": "never"}
    assert b["cache"] is None
    assert b["inputs"] == [{"slot": "dataset", "type": "Dataset", "sources": ["a.dataset"]}]
    assert b["outputs"] == {"dataset": "Dataset"}
    assert b["estimate"] == {"memory_gib": 40.0, "seconds": 1800.0, "formula": "weights x 3"}
    assert c["when"] == ["steps.a.outputs.metrics.x > 0.5"]
    assert c["after"] == ["a"]
    assert value["digest"] == plan.digest
    assert value["totals"]["gpu_hours"] == 4
    assert len(value["warnings"]) == 2


def test_the_release_is_named(make_plan: MakePlan) -> None:
    made = make_plan(
        "steps: {m: {uses: MakeModel!}, e: {uses: Emit!}}\n"
        "on_exit: {uses: Noop!}\n"
        "release: {model: '${steps.m.outputs.model}', register_as: best, "
        "gate: {metrics: '${steps.e.outputs.metrics}', thresholds: {x: {min: 1}}}}\n"
    )
    value = plan_document(made, {})
    assert value["release"]["model"] == "m.model"
    assert value["release"]["gate"]["metrics"] == "e.metrics"
    assert value["release"]["gate"]["thresholds"] == [{"metric": "x", "min": 1.0, "max": None}]
    assert json.loads(json.dumps(value)) == value
    assert value["on_exit"]["id"] == "on_exit"
