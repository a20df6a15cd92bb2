"""What `why` says of runs that ended in their several ways."""

from __future__ import annotations

import pytest

from crucible.engines.explain import explain
from crucible.engines.state import Failure, FailureCause, RunState, RunStatus, StepState, StepStatus


def state_of(status: RunStatus, message: str = "", **steps: StepStatus) -> RunState:
    state = RunState("r1", "pipeline", "sha256:0", status, message=message)
    for name, step_status in steps.items():
        step = StepState(name, "Noop", step_status)
        if step_status is StepStatus.FAILED:
            fix = "Resume the run."
            step.failure = Failure(FailureCause.ENGINE_LOST, "the engine ended", fix, 1, ("last",))
        state.steps[name] = step
    return state


FAILED, SKIPPED, DONE = StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.SUCCEEDED


@pytest.mark.parametrize(
    "steps", [{"train": DONE}, {"train": FAILED}, {"train": DONE, "z": FAILED}]
)
def test_what_failed_outside_a_step_is_told_whatever_the_steps_did(
    steps: dict[str, StepStatus],
) -> None:
    lost = "the engine was lost: OSError: No space left on device"
    text = str(explain(state_of(RunStatus.INTERRUPTED, lost, **steps)))
    assert text.startswith(f"r1 interrupted: {lost}\n")
    assert text.endswith("platformctl resume r1")
    for name, status in steps.items():
        assert (f"step    {name}\n" in text) == (status is FAILED)


def test_a_failed_release_is_told_beside_a_failed_exit_step() -> None:
    message = "release failed: MLflow does not answer"
    explanation = explain(state_of(RunStatus.FAILED, message, train=DONE, report=FAILED))
    assert explanation.summary == message
    assert [step.step_id for step in explanation.steps] == ["report"]


def test_failed_steps_name_what_was_skipped_for_them() -> None:
    ended = state_of(RunStatus.FAILED, "a failed", a=FAILED, b=SKIPPED, c=DONE)
    assert explain(ended).summary == "a failed; skipped because of it: b"
    running = state_of(RunStatus.RUNNING, a=FAILED, b=SKIPPED, c=StepStatus.RUNNING)
    assert explain(running).summary == "a failed; skipped because of it: b"
    assert explain(running).next_command == ""


def test_a_run_in_which_nothing_failed() -> None:
    assert explain(state_of(RunStatus.SUCCEEDED, a=DONE, b=SKIPPED)).summary == "nothing failed"
    waiting = state_of(RunStatus.RUNNING, a=DONE, b=StepStatus.RUNNING)
    assert explain(waiting).summary == "b running"
    cancelled = state_of(RunStatus.CANCELLED, "cancelled", a=StepStatus.CANCELLED)
    assert str(explain(cancelled)).startswith("r1 cancelled: nothing failed")
