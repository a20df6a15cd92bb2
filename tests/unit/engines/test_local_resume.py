"""Going on after failures, cancellations and lost engines."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from crucible.engines.explain import explain
from crucible.engines.local import launch
from crucible.engines.local.run_dir import RunDir
from crucible.engines.state import FailureCause, RunStatus, StepStatus
from crucible.errors import UserError
from crucible.plan.model import PlanStep, Retry, StepOutput
from crucible.sdk.events import read_events
from crucible.testing.plans import make_plan, make_step, noop_chain

pytestmark = pytest.mark.slow  # all in all: each test is two runs


def fails_once(tmp_path: Path) -> PlanStep:
    config = {"state_path": str(tmp_path / "tries"), "failures": 1}
    return make_step("flaky", "RaiseTemporary", config=config, after=("first",), retry=Retry(0))


def attempts(state) -> dict[str, int]:
    return {step_id: step.attempt for step_id, step in state.steps.items()}


def test_a_failed_run_goes_on_from_the_last_good_step(run, tmp_path: Path) -> None:
    below = make_step("below", "Noop", {"dataset": StepOutput("flaky", "dataset")})
    exit_step = make_step("on_exit", "crucible.testing.observers:TellProcess")
    plan = make_plan(make_step("first", "Noop"), fails_once(tmp_path), below, on_exit=exit_step)
    failed = run(plan)
    assert failed.status is RunStatus.FAILED
    assert failed.steps["below"].status is StepStatus.SKIPPED
    state = run.resume(failed.run_id)
    assert state.status is RunStatus.SUCCEEDED
    assert attempts(state) == {"first": 1, "flaky": 2, "below": 1, "on_exit": 2}
    assert state.steps["first"] == failed.steps["first"]
    assert state.started_at == failed.started_at


def test_from_a_step_on_everything_runs_again_without_the_cache(run) -> None:
    before = run(noop_chain(3))
    state = run.resume(before.run_id, "step1")
    assert attempts(state) == {"step0": 1, "step1": 2, "step2": 2}
    assert {str(step.status) for step in state.steps.values()} == {"succeeded"}
    assert [s.outputs for s in state.steps.values()] == [s.outputs for s in before.steps.values()]


def test_a_step_whose_output_has_left_the_store_runs_again(run, home_dir, tmp_path: Path) -> None:
    failed = run(make_plan(make_step("first", "Noop"), fails_once(tmp_path)))
    for blob in (home_dir / "store/blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    state = run.resume(failed.run_id)
    assert state.status is RunStatus.SUCCEEDED
    assert attempts(state) == {"first": 2, "flaky": 2}


def test_references_that_a_power_cut_took_are_made_anew(run, home_dir, tmp_path: Path) -> None:
    below = make_step("below", "Noop", {"dataset": StepOutput("first", "dataset")})
    plan = make_plan(make_step("first", "Noop"), fails_once(tmp_path), below)
    failed = run(plan)
    steps_dir = home_dir / "runs" / failed.run_id / "steps"
    (steps_dir / "first/1/outputs/dataset").write_bytes(b"")
    (steps_dir / "below/1/outputs/dataset").unlink()
    state = run.resume(failed.run_id, "below")
    assert state.status is RunStatus.SUCCEEDED
    assert attempts(state) == {"first": 1, "flaky": 2, "below": 2}


def test_a_lost_engine_leaves_an_interrupted_run(engine, home_dir, run) -> None:
    count = make_step(
        "count", "Count", config={"until": 40, "checkpoint_every": 2, "pause_seconds": 0.03}
    )
    run_id = engine.submit(make_plan(count))
    progress = home_dir / "runs" / run_id / "steps/count/1/events.jsonl"
    while not (progress.exists() and read_events(progress)[0][-1]["done"] >= 10):
        time.sleep(0.02)
    os.kill(int((home_dir / "runs" / run_id / "lock").read_text()), signal.SIGKILL)
    state = run.end(run_id)
    assert state.status is RunStatus.INTERRUPTED
    assert f"resume {run_id}" in state.message
    failure = state.steps["count"].failure
    assert failure is not None
    assert failure.cause is FailureCause.ENGINE_LOST
    state = run.resume(run_id)
    assert state.status is RunStatus.SUCCEEDED
    events, _ = read_events(home_dir / "runs" / run_id / "steps/count/2/events.jsonl")
    assert events[0]["done"] > 8, "the second attempt went on from a checkpoint"


def test_cancelling_a_lost_run_puts_its_end_on_record(engine, home_dir, run) -> None:
    run_id = engine.submit(make_plan(make_step("hang", "Hang"), make_step("below", "Noop")))
    lock = home_dir / "runs" / run_id / "lock"
    while engine.state(run_id).steps["hang"].status is not StepStatus.RUNNING:
        time.sleep(0.02)
    os.kill(int(lock.read_text()), signal.SIGKILL)
    assert run.end(run_id).status is RunStatus.INTERRUPTED
    state = engine.cancel(run_id)
    assert state.status is RunStatus.CANCELLED
    assert state.steps["hang"].status is StepStatus.CANCELLED
    assert engine.cancel(run_id) == state, "a second time changes nothing"


def test_the_step_server_may_die(engine, home_dir, run) -> None:
    from crucible.sdk import kernel

    run_id = engine.submit(make_plan(make_step("sleep", "Sleep", config={"seconds": 1.0})))
    supervisor = int((home_dir / "runs" / run_id / "lock").read_text())
    while engine.state(run_id).steps["sleep"].status is not StepStatus.RUNNING:
        time.sleep(0.02)
    server = [p.pid for p in kernel.process_table() if p.parent_pid == supervisor]
    assert len(server) == 1
    os.kill(server[0], signal.SIGKILL)
    state = run.end(run_id)
    assert state.status is RunStatus.INTERRUPTED
    assert "step server" in state.message
    assert run.resume(run_id).status is RunStatus.SUCCEEDED


def test_a_full_disk_stops_the_engine_and_loses_nothing(engine, home_dir, run) -> None:
    """The kernel's limit on file sizes stands in for the disk: the event log hits it first."""
    plan = noop_chain(12)
    run_dir = RunDir(home_dir / "runs" / "full")
    lock = launch.create_run(run_dir, plan)
    assert lock is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        launch.start_supervisor(run_dir, lock, engine._settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state = run.end("full")
    assert state.status is RunStatus.INTERRUPTED
    assert "No space left on device" in state.message
    assert "No space left on device" in str(explain(state))
    done = {step.step_id for step in state.steps.values() if step.status.has_outputs}
    assert 0 < len(done) < 12
    state = run.resume("full")
    assert state.status is RunStatus.SUCCEEDED
    assert {step_id for step_id in done if state.steps[step_id].attempt != 1} == set()


class TestRefusals:
    def test_a_running_run(self, engine) -> None:
        run_id = engine.submit(make_plan(make_step("hang", "Hang")))
        with pytest.raises(UserError, match="is running"):
            engine.resume(run_id)
        engine.cancel(run_id)

    def test_a_run_that_has_succeeded_and_a_step_that_is_not_there(self, engine, run) -> None:
        run_id = run(noop_chain(1)).run_id
        with pytest.raises(UserError, match="--from STEP"):
            engine.resume(run_id)
        with pytest.raises(UserError, match="Did you mean 'step0'"):
            engine.resume(run_id, from_step="stepO")
