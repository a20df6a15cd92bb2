"""What is expected from the cache, and what a miss is blamed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from crucible.artifacts import CacheEntry
from crucible.plan import Plan, cache_outlook
from crucible.plan.model import CacheOutlook

MakePlan = Callable[..., Plan]
BODY = (
    "params: {rate: {type: number, default: 0.001}}\n"
    "steps:\n"
    "  scenes: {uses: Emit!}\n"
    "  train: {uses: Noop!, with: {dataset: '${steps.scenes.outputs.dataset}', "
    "salt: 'r${params.rate}'}}\n"
    "  add: {uses: Sum!, with: {metrics: ['${steps.scenes.outputs.metrics}']}}\n"
    "  shift: {uses: Sum!, with: {metrics: ['${steps.add.outputs.metrics}'], "
    "offset: '${steps.add.outputs.metrics.x}'}}\n"
    "  always: {uses: Noop!, cache: false}\n"
)


def known(*plans: Plan) -> Callable[[str], CacheEntry | None]:
    """A cache that holds every step of the plans."""
    found = {step.fingerprint for plan in plans for step in plan.all_steps}
    return lambda fingerprint: CacheEntry({}, "3f2a") if fingerprint in found else None


def reasons(
    plan: Plan, lookup: Callable[[str], CacheEntry | None], last: Plan | None
) -> dict[str, str]:
    return {name: found.reason for name, found in cache_outlook(plan, lookup, last).items()}


def test_all_known(make_plan: MakePlan) -> None:
    plan = make_plan(BODY)
    outlook = cache_outlook(plan, known(plan), plan)
    assert outlook["train"] == CacheOutlook(True, "run 3f2a")
    assert outlook["always"] == CacheOutlook(False, "runs each time")


def test_nothing_known(make_plan: MakePlan) -> None:
    plan = make_plan(BODY)
    first = cache_outlook(plan, known(), None)
    assert {found.reason for found in first.values()} == {"no earlier run", "runs each time"}
    assert reasons(plan, known(), plan)["train"] == "not in the cache"


def test_a_changed_setting_names_both_values(make_plan: MakePlan) -> None:
    last, plan = make_plan(BODY), make_plan(BODY, {"rate": "0.002"})
    outlook = cache_outlook(plan, known(last), last)
    assert outlook["scenes"].hit
    assert outlook["add"].hit
    assert outlook["train"] == CacheOutlook(False, 'config.salt: "r0.001" -> "r0.002"')


def test_a_changed_producer_is_named(make_plan: MakePlan) -> None:
    last, plan = make_plan(BODY), make_plan(BODY.replace("uses: Emit!}", "uses: Emit!, seed: 5}"))
    found = reasons(plan, known(last), last)
    assert found["scenes"] == "seed: 0 -> 5"
    assert found["train"] == "input dataset: scenes will run"
    assert found["add"] == "input metrics: scenes will run"
    assert found["shift"] == "input metrics: add will run; metric offset: add will run"


def test_a_producer_that_is_known_under_its_new_fingerprint_is_not_blamed(
    make_plan: MakePlan,
) -> None:
    last, plan = make_plan(BODY), make_plan(BODY.replace("uses: Emit!}", "uses: Emit!, seed: 5}"))
    scenes = {plan.step("scenes").fingerprint}
    found = reasons(plan, lambda f: CacheEntry({}, "r") if f in scenes else None, last)
    assert found["train"] == "input dataset changed"


def test_new_steps_and_other_components(make_plan: MakePlan) -> None:
    last = make_plan("steps: {a: {uses: Noop!}}\n")
    plan = make_plan("steps: {a: {uses: Emit!}, b: {uses: MakeModel!}}\n")
    assert reasons(plan, known(), last) == {
        "a": "uses test-emit, was test-noop",
        "b": "new step",
    }


def test_changed_code_and_environment_are_named(make_plan: MakePlan) -> None:
    plan = make_plan("steps: {a: {uses: Noop!}}\n")
    parts = {**plan.steps[0].fingerprint_parts, "code": "sha256:0", "environment": "sha256:1"}
    step = dataclasses.replace(plan.steps[0], fingerprint_parts=parts)
    last = dataclasses.replace(plan, steps=(step,))
    assert reasons(plan, known(), last) == {"a": "code of test-noop changed; environment changed"}


def test_a_new_and_a_dropped_input(make_plan: MakePlan) -> None:
    without = make_plan("steps: {e: {uses: Emit!}, a: {uses: Noop!}}\n")
    with_one = make_plan(
        "steps: {e: {uses: Emit!}, "
        "a: {uses: Noop!, with: {dataset: '${steps.e.outputs.dataset}'}}}\n"
    )
    known_e = known(dataclasses.replace(without, steps=without.steps[:1]))
    assert reasons(with_one, known_e, without)["a"] == "input dataset is new"
    assert reasons(without, known_e, with_one)["a"] == "input dataset is no longer given"
