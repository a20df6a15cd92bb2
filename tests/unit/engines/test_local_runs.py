"""Whole runs with real processes: order, budget, conditions, cache, exit step."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from crucible.artifacts import open_store
from crucible.engines.state import RunState, RunStatus, StepStatus
from crucible.plan.model import Condition, MetricRef, PlanStep, StepOutput
from crucible.sdk.component import Resources
from crucible.settings import Settings
from crucible.testing.plans import make_plan, make_step, noop_chain


def dataset_of(step: PlanStep) -> StepOutput:
    return StepOutput(step.id, "dataset")


def statuses(state: RunState) -> dict[str, str]:
    return {step_id: str(step.status) for step_id, step in state.steps.items()}


def spans(state: RunState) -> dict[str, tuple[float, float]]:
    return {
        step.step_id: (step.started_at, step.ended_at)
        for step in state.steps.values()
        if step.started_at is not None and step.ended_at is not None
    }


def most_at_once(state: RunState) -> int:
    moments = [moment for begin, end in spans(state).values() for moment in ((begin, 1), (end, -1))]
    return max(itertools.accumulate(change for _, change in sorted(moments)))


def sleeper(name: str, seconds: float = 0.6, **fields: object) -> PlanStep:
    return make_step(name, "Sleep", config={"seconds": seconds, "salt": name}, **fields)


def test_a_chain_hands_artifacts_on(run, record, settings: Settings) -> None:
    state = run(noop_chain(3))
    assert state.status is RunStatus.SUCCEEDED
    store = open_store(settings.store_uri)
    digests = [state.steps[f"step{n}"].outputs["dataset"] for n in range(3)]
    for earlier, later in itertools.pairwise(digests):
        assert store.manifest(later).parents == (earlier,)
    assert record(state, "step2")["input"] == digests[1]


def test_branches_of_a_diamond_overlap_and_their_join_waits(run, monkeypatch) -> None:
    monkeypatch.setenv("CRUCIBLE_LOCAL_CPUS", "2")
    first = make_step("first", "Noop")
    branches = [
        make_step(
            name,
            "Sleep",
            {"dataset": dataset_of(first)},
            config={"seconds": 0.5, "salt": name},
            resources=Resources(cpus=1, memory_gib=0.1),
        )
        for name in ("left", "right")
    ]
    last = make_step("last", "Noop", {"dataset": dataset_of(branches[0])}, after=("right",))
    state = run(make_plan(first, *branches, last))
    assert state.status is RunStatus.SUCCEEDED
    span = spans(state)
    assert max(span["left"][0], span["right"][0]) < min(span["left"][1], span["right"][1])
    assert span["first"][1] <= min(span["left"][0], span["right"][0])
    assert span["last"][0] >= max(span["left"][1], span["right"][1])


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(cpus=1, memory_gib=0.1), 2),
        (Resources(cpus=0.1, memory_gib=0.6), 3),
        (Resources(cpus=1.5, memory_gib=0.1), 1),
    ],
)
def test_no_more_runs_at_once_than_the_budget_holds(
    run, monkeypatch, resources: Resources, expected: int
) -> None:
    monkeypatch.setenv("CRUCIBLE_LOCAL_CPUS", "2")
    monkeypatch.setenv("CRUCIBLE_LOCAL_MEMORY_GIB", "2")
    steps = [sleeper(f"s{n}", 0.3, resources=resources) for n in range(expected + 2)]
    state = run(make_plan(*steps))
    assert state.status is RunStatus.SUCCEEDED
    assert most_at_once(state) == expected


def test_a_step_beyond_the_whole_budget_runs_alone_with_a_warning(run, monkeypatch) -> None:
    monkeypatch.setenv("CRUCIBLE_LOCAL_CPUS", "1")
    big = sleeper("big", 0.3, resources=Resources(cpus=8, memory_gib=0.1))
    small = sleeper("small", 0.3)
    state = run(make_plan(big, small))
    assert state.status is RunStatus.SUCCEEDED
    assert most_at_once(state) == 1
    assert len(state.warnings) == 1
    assert "big asks for 8 cpus" in state.warnings[0]


def test_after_orders_without_data(run) -> None:
    first = sleeper("first", 0.3)
    state = run(make_plan(first, make_step("second", "Noop", after=("first",))))
    assert spans(state)["second"][0] >= spans(state)["first"][1]


def accuracy(op: str, right: float) -> tuple[Condition, ...]:
    return (Condition(MetricRef("evaluate", "metrics", "accuracy"), op, right),)


def test_when_compares_a_metric_and_skips_what_depends_on_it(run) -> None:
    evaluate = make_step("evaluate", "Emit", config={"values": {"accuracy": 0.4}})
    good = make_step("good", "Noop", when=accuracy(">=", 0.5), after=("evaluate",))
    after_good = make_step("after_good", "Noop", {"dataset": dataset_of(good)})
    bad = make_step("bad", "Noop", when=accuracy("<", 0.5), after=("evaluate",))
    state = run(make_plan(evaluate, good, after_good, bad))
    assert state.status is RunStatus.SUCCEEDED
    assert statuses(state) == {
        "evaluate": "succeeded",
        "good": "skipped",
        "after_good": "skipped",
        "bad": "succeeded",
    }
    assert state.steps["good"].reason == "evaluate.metrics.accuracy is 0.4, not >= 0.5"
    assert state.steps["after_good"].reason == "good was skipped"
    assert state.steps["evaluate"].last_metrics == {"accuracy": 0.4}


def test_when_on_a_metric_that_was_not_written_fails_with_what_there_is(run) -> None:
    evaluate = make_step("evaluate", "Emit", config={"values": {"loss": 0.4}})
    gated = make_step("gated", "Noop", when=accuracy(">=", 0.5), after=("evaluate",))
    state = run(make_plan(evaluate, gated))
    assert state.status is RunStatus.FAILED
    failure = state.steps["gated"].failure
    assert failure is not None
    assert "no metric 'accuracy'. It has: loss" in failure.message


def test_equal_steps_of_a_second_run_come_from_the_cache(run) -> None:
    first = run(noop_chain(3))
    second = run(noop_chain(3))
    assert second.run_id != first.run_id
    assert set(statuses(second).values()) == {"cached"}
    assert {s.reason for s in second.steps.values()} == {f"run {first.run_id}"}
    outputs = [[s.outputs for s in state.steps.values()] for state in (first, second)]
    assert outputs[0] == outputs[1]


def test_a_failed_branch_lets_the_other_finish(run) -> None:
    broken = make_step("broken", "Raise", config={"message": "no such file"})
    below = make_step("below", "Noop", {"dataset": dataset_of(broken)})
    further = make_step("further", "Noop", {"dataset": dataset_of(below)})
    other = sleeper("other", 0.5)
    state = run(make_plan(broken, below, further, other))
    assert state.status is RunStatus.FAILED
    assert state.message == "broken failed"
    assert statuses(state) == {
        "broken": "failed",
        "below": "skipped",
        "further": "skipped",
        "other": "succeeded",
    }
    assert state.steps["below"].reason == "broken failed"


class TestExitStep:
    """The exit step runs last whatever happened and gets the run as an artifact."""

    def exit_step(self, *steps: PlanStep) -> PlanStep:
        sources = [StepOutput(step.id, "metrics") for step in steps]
        return make_step(
            "on_exit", "crucible.testing.observers:DescribeRun", {"run": [], "metrics": sources}
        )

    def test_after_success(self, run, record) -> None:
        emit = make_step("emit", "Emit", config={"values": {"loss": 2.5}})
        state = run(make_plan(emit, on_exit=self.exit_step(emit)))
        assert state.status is RunStatus.SUCCEEDED
        assert spans(state)["on_exit"][0] >= spans(state)["emit"][1]
        told = record(state, "on_exit")
        assert told["statuses"] == {"emit": "succeeded", "on_exit": "pending"}
        assert told["num_metrics"] == 1
        assert told["series"]["emit"]["loss"][0][:2] == [0, 2.5]

    def test_after_failure_without_the_inputs_that_were_not_made(self, run, record) -> None:
        emit = make_step("emit", "Emit", config={"values": {"loss": 2.5}})
        broken = make_step("broken", "Raise")
        never = make_step("never", "Emit", after=("broken",))
        state = run(make_plan(emit, broken, never, on_exit=self.exit_step(emit, never)))
        assert state.status is RunStatus.FAILED
        assert state.steps["on_exit"].status is StepStatus.SUCCEEDED
        assert record(state, "on_exit")["num_metrics"] == 1

    def test_metrics_of_a_cached_step_come_from_the_run_that_did_the_work(
        self, run, record
    ) -> None:
        emit = make_step("emit", "Emit", config={"values": {"loss": 2.5}})
        run(make_plan(emit))
        state = run(make_plan(emit, on_exit=self.exit_step(emit)))
        assert state.steps["emit"].status is StepStatus.CACHED
        assert record(state, "on_exit")["series"]["emit"]["loss"][0][:2] == [0, 2.5]

    def test_its_own_failure_is_told_and_fails_nothing(self, run) -> None:
        state = run(make_plan(make_step("noop", "Noop"), on_exit=make_step("on_exit", "Raise")))
        assert state.status is RunStatus.SUCCEEDED
        assert state.message == "the exit step failed; everything else is done"
        assert [step.step_id for step in state.failed_steps] == ["on_exit"]


def test_own_components_are_found_in_the_folder_of_the_submission(
    engine, run, monkeypatch, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "random.py").write_text("raise RuntimeError('not the one you want')\n")
    (folder / "engine_test_component.py").write_text(
        "from crucible.testing.components import Noop\nclass Own(Noop): name = 'own'\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    plan = make_plan(make_step("own", "engine_test_component:Own"))
    state = run(plan)
    assert state.status is RunStatus.SUCCEEDED, state.steps["own"].failure
    monkeypatch.chdir(elsewhere)
    assert run.resume(state.run_id, "own").status is RunStatus.SUCCEEDED


def test_every_step_is_a_process_of_its_own(run, record) -> None:
    state = run(
        make_plan(*(make_step(f"s{n}", "crucible.testing.observers:TellProcess") for n in range(3)))
    )
    told = [record(state, step_id) for step_id in state.steps]
    assert len({each["pid"] for each in told}) == 3
    assert all(each["pid"] == each["session"] for each in told)
    for step_id, each in zip(state.steps, told, strict=True):
        assert Path(each["events"]).parent.parent.name == step_id
