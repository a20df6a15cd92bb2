"""Scheduling decisions on random graphs: budget, order, progress, skips."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from crucible.engines.events import History
from crucible.engines.local import schedule
from crucible.engines.local.machine import Machine
from crucible.engines.state import StepStatus
from crucible.plan.model import Condition, Import, MetricRef, Plan, PlanStep, SlotInput
from crucible.sdk.component import Resources
from crucible.sdk.types import ArtifactType
from crucible.testing.plans import make_plan, make_step

NOOP = make_step("noop", "Noop")


def step(number: int, after: set[int], resources: Resources) -> PlanStep:
    names = tuple(f"s{other}" for other in sorted(after))
    return replace(NOOP, id=f"s{number}", name=f"s{number}", after=names, resources=resources)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 12))
    resources = st.builds(
        Resources,
        cpus=st.sampled_from([0.1, 0.5, 1.0, 1.5, 2.0, 5.0]),
        memory_gib=st.sampled_from([0.1, 1.0, 3.0, 9.0]),
    )
    steps = []
    for number in range(count):
        after = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        steps.append(step(number, after, draw(resources)))
    return make_plan(*steps)


MACHINE = Machine(cpus=2.0, memory_gib=4.0)


@given(plan=plans(), choose=st.randoms(use_true_random=False), failing=st.sets(st.integers(0, 11)))
def test_every_run_ends_within_the_budget_and_in_order(plan: Plan, choose, failing) -> None:
    history = History.of(plan)
    states = history.state.steps
    running: dict[str, PlanStep] = {}
    while not all(state.status.is_final for state in states.values()):
        for each in plan.steps:
            if states[each.id].status is StepStatus.PENDING and schedule.skip_reason(each, history):
                states[each.id].status = StepStatus.SKIPPED
        ready = list(schedule.waiting_steps(plan, history, now=0.0))
        chosen = schedule.steps_with_room(ready, running.values(), MACHINE)
        for each in chosen:
            assert all(states[other].status.has_outputs for other in each.after)
            running[each.id] = each
            states[each.id].status = StepStatus.RUNNING
        busy = [each.resources for each in running.values()]
        within = (
            sum(each.cpus for each in busy) <= 2.0 + 1e-6
            and sum(each.memory_gib for each in busy) <= 4.0 + 1e-6
        )
        assert within or len(busy) == 1
        if running:
            ended = choose.choice(sorted(running))
            failed = int(ended[1:]) in failing
            states[ended].status = StepStatus.FAILED if failed else StepStatus.SUCCEEDED
            del running[ended]
    for each in plan.steps:
        lost = [other for other in each.after if not states[other].status.has_outputs]
        assert (states[each.id].status is StepStatus.SKIPPED) == bool(lost)


def test_a_small_step_fills_the_room_that_a_large_one_leaves() -> None:
    large, small = step(0, set(), Resources(cpus=2)), step(1, set(), Resources(cpus=0.5))
    busy = [step(2, set(), Resources(cpus=1.5))]
    assert schedule.steps_with_room([large, small], busy, MACHINE) == [small]


def test_ten_tenths_of_a_cpu_fit_one_cpu() -> None:
    tenths = [step(n, set(), Resources(cpus=0.1, memory_gib=0.1)) for n in range(11)]
    assert len(schedule.steps_with_room(tenths, [], Machine(1.0, 4.0))) == 10


def test_a_backoff_holds_a_step_until_it_is_over() -> None:
    plan = make_plan(step(0, set(), Resources()))
    history = History.of(plan)
    history.state.steps["s0"].status = StepStatus.RETRYING
    history.retry_at["s0"] = 100.0
    assert list(schedule.waiting_steps(plan, history, now=99.9)) == []
    assert schedule.next_retry_at(history, now=99.9) == 100.0
    assert list(schedule.waiting_steps(plan, history, now=100.0)) == list(plan.steps)
    assert schedule.next_retry_at(history, now=100.0) is None


def test_a_step_waits_for_its_imports() -> None:
    wanted = Import("file:///data", "sha256:0")
    slot = SlotInput("dataset", ArtifactType("Dataset"), (wanted,))
    plan = make_plan(replace(NOOP, inputs=(slot,)))
    history = History.of(plan)
    assert list(schedule.waiting_steps(plan, history, now=0.0)) == []
    history.imports["file:///data"] = "sha256:1"
    assert list(schedule.waiting_steps(plan, history, now=0.0)) == list(plan.steps)


@given(left=st.floats(-2, 2), right=st.floats(-2, 2))
def test_conditions_mean_what_python_means(left: float, right: float) -> None:
    ref = MetricRef("evaluate", "metrics", "loss")
    meanings = {
        "==": left == right,
        "!=": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }
    for op, holds in meanings.items():
        gated = replace(NOOP, when=(Condition(ref, op, right),))
        failed = schedule.failed_condition(gated, lambda _: left)
        assert (failed is None) == holds


def test_descendants_are_all_that_depend_on_a_step() -> None:
    chain = [step(0, set(), Resources()), step(1, {0}, Resources()), step(2, {1}, Resources())]
    other = step(3, {0}, Resources())
    plan = make_plan(*chain, other)
    assert schedule.descendants_of(plan, "s1") == {"s1", "s2"}
    assert schedule.descendants_of(plan, "s0") == {"s0", "s1", "s2", "s3"}
