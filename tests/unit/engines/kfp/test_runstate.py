"""Runs that are not ours, as a real KFP 2.17 told of them."""

from __future__ import annotations

from crucible.engines.kfp.api import KfpRun, KfpTask
from crucible.engines.kfp.runstate import foreign_state
from crucible.engines.state import RunStatus, StepStatus

NAMES = {
    "facts-65jhd": "FAILED",
    "root": "FAILED",
    "root-driver": "SUCCEEDED",
    "once": "SUCCEEDED",
    "once-driver": "SUCCEEDED",
    "executor": "SUCCEEDED",
    "executor(0)": "FAILED",
    "executor(1)": "SUCCEEDED",
    "iteration-driver": "SUCCEEDED",
    "iteration-iterations": "SUCCEEDED",
    "once.onExit": "SUCCEEDED",
    "twice": "FAILED",
    "behind": "PENDING",  # told without a state
}


def run(state: str) -> KfpRun:
    tasks = tuple(KfpTask(name, name, known, 1.0, 2.0, "") for name, known in NAMES.items())
    spec = {"pipelineInfo": {"name": "facts"}}
    return KfpRun("id", "a run", state, 1.0, 3.0, "", False, tasks, spec, {})


def test_only_what_the_author_wrote_is_a_step() -> None:
    state = foreign_state(run("FAILED"))
    assert state.status is RunStatus.FAILED
    assert {name: step.status for name, step in state.steps.items()} == {
        "once": StepStatus.SUCCEEDED,
        "twice": StepStatus.FAILED,
        "behind": StepStatus.SKIPPED,
    }
    assert state.message == "twice failed"


def test_a_task_without_a_state_waits_while_the_run_goes_on() -> None:
    behind = foreign_state(run("RUNNING")).steps["behind"]
    assert (behind.status, behind.attempt) == (StepStatus.PENDING, 0)
