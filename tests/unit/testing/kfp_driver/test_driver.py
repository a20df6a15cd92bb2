"""What Argo makes of KFP's tasks. The facts were seen on KFP 2.17 with Argo 4.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crucible.testing.kfp_driver import Run, State
from crucible.testing.kfp_driver.driver import ON_ERROR, ON_FAILURE
from crucible.testing.kfp_driver.pods import PodEnd

from .conftest import ScriptedRunner, leaf, level, parameters, pipeline, task

Drive = Callable[..., Run]
RETRIED = {
    "retryPolicy": {
        "maxRetryCount": 2,
        "backoffDuration": "1s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "600s",
    }
}
NEVER = {"triggerPolicy": {"condition": "inputs.parameter_values['x'] > 2.0"}, **parameters(x=1)}
AFTER_ALL = {"triggerPolicy": {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}}


def loop(*items: str, **fields: Any) -> dict[str, Any]:
    raw = "[" + ", ".join(f'"{item}"' for item in items) + "]"
    return {"parameterIterator": {"items": {"raw": raw}, "itemInput": "item"}, **fields}


def item_level() -> dict[str, Any]:
    given = {"inputs": {"parameters": {"item": {"componentInputParameter": "item"}}}}
    return level(task("inner", **given), item="STRING")


def test_a_task_behind_a_failed_one_is_omitted_and_others_go_on(
    drive: Drive, runner: ScriptedRunner
) -> None:
    runner.ends = {"bad": ["failed"]}
    run = drive(pipeline(
        level(task("bad"), task("behind", after=("bad",)), task("far", after=("behind",)),
              task("other"), task("last", after=("other",))),
        bad=leaf("bad"), behind=leaf("behind"), far=leaf("far"), other=leaf("other"),
        last=leaf("last"),
    ))  # fmt: skip
    assert run.states == {
        "bad": "failed", "behind": "omitted", "far": "omitted", "other": "succeeded",
        "last": "succeeded",
    }  # fmt: skip
    assert run.state is State.FAILED
    assert run.errors == {"bad": "it failed"}


def test_a_task_behind_a_skipped_one_is_omitted_and_the_run_has_succeeded(drive: Drive) -> None:
    run = drive(pipeline(
        level(task("cond", **NEVER), task("behind", after=("cond",))),
        cond=leaf("cond", {"x": "NUMBER_DOUBLE"}), behind=leaf("behind"),
    ))  # fmt: skip
    assert run.states == {"cond": "skipped", "behind": "omitted"}
    assert run.state is State.SUCCEEDED


def test_a_skipped_level_has_nothing_in_it(drive: Drive) -> None:
    run = drive(pipeline(
        level(task("cond", **NEVER), task("behind", after=("cond",))),
        cond=level(task("inner"), x="NUMBER_DOUBLE"), inner=leaf("inner"), behind=leaf("behind"),
    ))  # fmt: skip
    assert run.states == {"cond": "skipped", "behind": "omitted"}


def test_a_loop_whose_condition_does_not_hold_has_succeeded(drive: Drive) -> None:
    looped = loop("a", "b", **NEVER)
    run = drive(pipeline(
        level(task("each", **looped), task("behind", after=("each",))),
        each={**item_level(), "inputDefinitions": {"parameters": {
            "item": {"parameterType": "STRING"}, "x": {"parameterType": "NUMBER_DOUBLE"}}}},
        inner=leaf("inner", {"item": "STRING"}), behind=leaf("behind"),
    ))  # fmt: skip
    assert run.states == {"each": "succeeded", "behind": "succeeded"}


def test_a_loop_runs_all_items_and_fails_if_one_does(drive: Drive, runner: ScriptedRunner) -> None:
    runner.ends = {"each[1]/inner": ["failed"]}
    run = drive(pipeline(
        level(task("each", **loop("a", "b", "c")), task("behind", after=("each",))),
        each=item_level(), inner=leaf("inner", {"item": "STRING"}), behind=leaf("behind"),
    ))  # fmt: skip
    assert [run.task(f"each[{i}]").state.value for i in range(3)] == [
        "succeeded", "failed", "succeeded"
    ]  # fmt: skip
    assert run.task("each").state is State.FAILED
    assert run.task("behind").state is State.OMITTED
    given = [run.task(f"each[{i}]/inner").parameters["item"] for i in range(3)]
    assert given == ["a", "b", "c"]


@pytest.mark.parametrize("limit", [1, 2])
def test_a_loop_keeps_its_limit(drive: Drive, runner: ScriptedRunner, limit: int) -> None:
    runner.hold_seconds = 0.02
    fields = loop(*"abcdef", iteratorPolicy={"parallelismLimit": limit})
    drive(
        pipeline(
            level(task("each", **fields)),
            each=item_level(),
            inner=leaf("inner", {"item": "STRING"}),
        ),
        max_pods=6,
    )
    assert runner.most_at_once == limit


def test_no_more_pods_run_at_once_than_there_is_room_for(
    drive: Drive, runner: ScriptedRunner
) -> None:
    runner.hold_seconds = 0.02
    names = [f"t{number}" for number in range(8)]
    components = {name: leaf(name) for name in names}
    drive(pipeline(level(*map(task, names)), **components), max_pods=3)
    assert runner.most_at_once == 3


@pytest.mark.parametrize(("end", "state"), [("succeeded", "succeeded"), ("failed", "failed")])
def test_an_exit_task_runs_however_the_other_ends(
    drive: Drive, runner: ScriptedRunner, end: str, state: str
) -> None:
    runner.ends = {"body/inner": [end]}
    run = drive(pipeline(
        level(task("body"), task("last", after=("body",), **AFTER_ALL)),
        body=level(task("inner")), inner=leaf("inner"), last=leaf("last"),
    ))  # fmt: skip
    assert run.states == {"body": state, "body/inner": state, "last": "succeeded"}
    assert run.state.value == state


def test_an_exit_task_that_fails_fails_nothing(drive: Drive, runner: ScriptedRunner) -> None:
    runner.ends = {"last": ["failed"]}
    run = drive(pipeline(
        level(task("body"), task("last", after=("body",), **AFTER_ALL),
              task("behind", after=("body",))),
        body=leaf("body"), last=leaf("last"), behind=leaf("behind"),
    ))  # fmt: skip
    assert run.states == {"body": "succeeded", "last": "failed", "behind": "succeeded"}
    assert run.state is State.SUCCEEDED


def test_an_exit_task_does_not_run_for_what_never_began(drive: Drive) -> None:
    undeclared = leaf("body", {"x": "NUMBER_DOUBLE"})
    run = drive(pipeline(
        level(task("body"), task("last", after=("body",), **AFTER_ALL)),
        body=undeclared, last=leaf("last"),
    ))  # fmt: skip
    assert run.states == {"body": "failed", "last": "pending"}
    assert "non-optional parameter 'x'" in run.errors["body"]


@pytest.mark.parametrize(
    ("phases", "ends", "attempts", "state"),
    [
        (ON_FAILURE, ["failed", "failed", "succeeded"], 3, "succeeded"),
        (ON_FAILURE, ["failed"] * 4, 3, "failed"),
        (ON_FAILURE, ["error"], 1, "failed"),
        (ON_ERROR, ["error", "succeeded"], 2, "succeeded"),
        (ON_ERROR, ["failed"], 1, "failed"),
    ],
)
def test_a_pod_is_tried_again_as_the_controller_says(
    drive: Drive,
    runner: ScriptedRunner,
    phases: frozenset[str],
    ends: list[str],
    attempts: int,
    state: str,
) -> None:
    runner.ends = {"shaky": ends}
    text = pipeline(level(task("shaky", **RETRIED)), shaky=leaf("shaky"))
    run = drive(text, retry_phases=phases)
    shaky = run.task("shaky")
    assert (shaky.state.value, len(shaky.attempts)) == (state, attempts)
    assert [pod.environ["KFP_RETRY_INDEX"] for pod in runner.pods] == list(
        map(str, range(attempts))
    )
    assert len({tuple(pod.flags) for pod in runner.pods}) == 1  # all have the same places


def test_without_a_policy_nothing_is_tried_again(drive: Drive, runner: ScriptedRunner) -> None:
    runner.ends = {"bad": ["failed"]}
    run = drive(pipeline(level(task("bad")), bad=leaf("bad")))
    assert len(run.task("bad").attempts) == 1
    assert "KFP_RETRY_INDEX" not in runner.pods[0].environ


def test_a_pod_that_leaves_no_result_has_failed(
    drive: Drive, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run", lambda pod: PodEnd("succeeded"))
    run = drive(pipeline(level(task("odd")), odd=leaf("odd")))
    assert run.errors == {"odd": "the launcher ended well and left no result"}


def test_metadata_that_the_store_cannot_hold_fails_the_task(
    drive: Drive, runner: ScriptedRunner
) -> None:
    runner.metadata = {"odd": {"nothing": None}}
    run = drive(pipeline(level(task("odd")), odd=leaf("odd")))
    assert run.task("odd").state is State.FAILED
    assert "unable to produce MLMD artifact" in run.errors["odd"]
