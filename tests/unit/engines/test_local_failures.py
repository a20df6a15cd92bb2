"""Steps that misbehave: each is one clear failure, and the run stays inspectable."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from crucible.engines.explain import explain
from crucible.engines.local.engine import LocalEngine
from crucible.engines.state import Failure, FailureCause, RunState, RunStatus, StepStatus
from crucible.errors import UserError
from crucible.plan.model import PlanStep, Retry
from crucible.sdk.component import Resources
from crucible.testing.plans import make_plan, make_step


def failure_of(state: RunState, step_id: str = "step") -> Failure:
    failure = state.steps[step_id].failure
    assert failure is not None, state
    return failure


def one(component: str, **fields: object) -> PlanStep:
    return make_step("step", component, **fields)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for_status(engine: LocalEngine, run_id: str, step_id: str, status: StepStatus) -> None:
    deadline = time.monotonic() + 20
    while engine.state(run_id).steps[step_id].status is not status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def no_process_is_left(home_dir: Path, run_id: str) -> bool:
    """True as soon as none is; a supervisor says how its run ended just before it ends."""
    deadline = time.monotonic() + 5
    while processes_of(home_dir, run_id):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes_of(home_dir: Path, run_id: str) -> list[int]:
    """Every process that names the run's folder in its arguments, forks included."""
    wanted = str(home_dir / "runs" / run_id).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (path / "cmdline").read_bytes() and alive(int(path.name)):
                found.append(int(path.name))
        except OSError:
            continue
    return found


BAD_ENDS = [
    ("Raise", {"message": "no such file"}, FailureCause.RAISED, 1, "ValueError: no such file"),
    ("WriteNothing", {}, FailureCause.NO_OUTPUT, 1, "without writing its output dataset"),
    ("Exit", {"code": 3}, FailureCause.RAISED, 3, "ended with exit code 3"),
    ("Exit", {"code": 0}, FailureCause.NO_OUTPUT, 0, "left no usable executor output"),
    ("KillSelf", {"signal_number": 9}, FailureCause.KILLED, -9, "SIGKILL from outside"),
    ("KillSelf", {"signal_number": 11}, FailureCause.KILLED, -11, "SIGSEGV"),
]


def test_a_bad_end_names_cause_and_fix(run) -> None:
    steps = [
        make_step(f"bad[{number}]", component, config=config, retry=Retry(2, 0.01))
        for number, (component, config, *_) in enumerate(BAD_ENDS)
    ]
    state = run(make_plan(*steps, make_step("below", "Noop", after=("bad[0]",))))
    assert state.status is RunStatus.FAILED
    for step, (*_, cause, exit_code, said) in zip(steps, BAD_ENDS, strict=True):
        failure = failure_of(state, step.id)
        assert (failure.cause, failure.exit_code) == (cause, exit_code)
        assert said in failure.message
        assert failure.fix
        assert state.steps[step.id].attempt == 1, "only temporary failures are tried again"
    log_tail = failure_of(state, "bad[0]").log_tail
    assert 1 < len(log_tail) <= 20
    assert log_tail[-1] == "ValueError: no such file"
    text = str(explain(state))
    for part in ("skipped because of it: below", "raised", f"resume {state.run_id}"):
        assert part in text


class TestRetries:
    """Temporary failures are tried again after a growing pause."""

    def step(self, tmp_path: Path, failures: int, **retry: float) -> PlanStep:
        config = {"state_path": str(tmp_path / "tries"), "failures": failures}
        return one("RaiseTemporary", config=config, retry=Retry(**retry))

    def test_success_on_the_third_try(self, run, tmp_path: Path) -> None:
        step = self.step(tmp_path, 2, limit=2, backoff_seconds=0.2, backoff_factor=2)
        state = run(make_plan(step))
        assert state.status is RunStatus.SUCCEEDED
        assert state.steps["step"].attempt == 3
        assert (tmp_path / "tries").read_bytes() == b"..."
        begin, end = state.steps["step"].started_at, state.steps["step"].ended_at
        assert begin is not None
        assert end is not None
        assert end - begin >= 0.75 * (0.2 + 0.4), "jitter takes at most a quarter"

    def test_the_limit_ends_it(self, run, tmp_path: Path) -> None:
        state = run(make_plan(self.step(tmp_path, 9, limit=1, backoff_seconds=0.05)))
        assert failure_of(state).cause is FailureCause.TEMPORARY
        assert failure_of(state).exit_code == 75
        assert state.steps["step"].attempt == 2

    def test_others_run_during_the_pause(self, run, tmp_path: Path) -> None:
        step = self.step(tmp_path, 1, limit=1, backoff_seconds=1.5)
        state = run(make_plan(step, make_step("other", "Noop")))
        assert state.steps["other"].ended_at < state.steps["step"].ended_at

    def test_each_attempt_keeps_its_log(self, engine, run, tmp_path: Path) -> None:
        state = run(make_plan(self.step(tmp_path, 1, limit=1, backoff_seconds=0.05)))
        folders = sorted((engine._settings.runs_dir / state.run_id / "steps/step").iterdir())
        assert [folder.name for folder in folders] == ["1", "2"]
        assert "on purpose" in (folders[0] / "log.txt").read_text()
        assert "on purpose" not in "\n".join(engine.logs(state.run_id, "step"))


def hanging_steps(**fields: object) -> list[PlanStep]:
    """One that ends when it is asked to, and one that must be killed."""
    return [
        make_step(f"hang[{number}]", "Hang", config={"ignore_sigterm": stubborn}, **fields)
        for number, stubborn in enumerate((False, True))
    ]


def test_a_hanging_step_ends_at_its_timeout(run, monkeypatch) -> None:
    monkeypatch.setenv("CRUCIBLE_LOCAL_GRACE_SECONDS", "0.5")
    steps = hanging_steps(timeout_minutes=0.01)
    state = run(make_plan(*steps))
    for step in steps:
        failure = failure_of(state, step.id)
        assert failure.cause is FailureCause.TIMEOUT
        assert "timeout of 0.01 minutes" in failure.message
        assert "steps.hang.timeout_minutes" in failure.fix


def test_of_two_steps_the_one_above_its_declaration_goes_when_memory_is_short(
    run, monkeypatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_LOCAL_MEMORY_GIB", "0.6")
    greedy = make_step(
        "greedy",
        "EatMemory",
        config={"max_gib": 0.7, "hold_seconds": 30},
        resources=Resources(cpus=0.5, memory_gib=0.1),
    )
    modest = make_step("modest", "Sleep", config={"seconds": 2}, resources=greedy.resources)
    state = run(make_plan(greedy, modest))
    failure = failure_of(state, "greedy")
    assert failure.cause is FailureCause.OUT_OF_MEMORY
    assert "steps.greedy.resources.memory_gib" in failure.fix
    assert state.steps["modest"].status is StepStatus.SUCCEEDED
    assert state.steps["greedy"].peak_memory_gib > 0.5


def test_alone_a_step_may_use_more_than_it_declares(run) -> None:
    step = one("EatMemory", config={"max_gib": 0.3}, resources=Resources(cpus=0.5, memory_gib=0.05))
    state = run(make_plan(step))
    assert state.status is RunStatus.SUCCEEDED
    assert 0.3 < state.steps["step"].peak_memory_gib < 0.5


def test_a_gigabyte_of_output_leaves_a_bounded_log_with_both_ends(engine, run) -> None:
    state = run(make_plan(one("PrintMuch", config={"size_bytes": 300 << 20})))
    assert state.status is RunStatus.SUCCEEDED
    folder = engine._settings.runs_dir / state.run_id / "steps/step/1"
    assert sum(path.stat().st_size for path in folder.glob("log.txt*")) < 65 << 20
    lines = list(engine.logs(state.run_id, "step"))
    assert "test-print-much version 1" in lines[0]
    assert '"dataset": "sha256:' in lines[-1]
    assert any("bytes of this log were dropped here" in line for line in lines)


def test_following_a_log_ends_with_the_step(engine) -> None:
    step = one("Count", config={"until": 5, "pause_seconds": 0.1})
    run_id = engine.submit(make_plan(make_step("first", "Noop"), step))
    lines = list(engine.logs(run_id, "step", follow=True))
    assert "done: outputs" in lines[-1]
    assert engine.state(run_id).steps["step"].status is StepStatus.SUCCEEDED


def test_a_log_of_no_step_is_a_user_error(engine, run) -> None:
    state = run(make_plan(one("Noop")))
    with pytest.raises(UserError, match=r"no step 'stop'. Did you mean 'step'"):
        list(engine.logs(state.run_id, "stop"))


def test_cancel_ends_everything(engine, home_dir, monkeypatch) -> None:
    monkeypatch.setenv("CRUCIBLE_LOCAL_GRACE_SECONDS", "0.5")
    steps = hanging_steps()
    below = make_step("below", "Noop", after=("hang[0]",))
    exit_step = make_step("on_exit", "crucible.testing.observers:TellProcess")
    run_id = engine.submit(make_plan(*steps, below, on_exit=exit_step))
    for step in steps:
        wait_for_status(engine, run_id, step.id, StepStatus.RUNNING)
    state = engine.cancel(run_id)
    assert state.status is RunStatus.CANCELLED
    for step in (*steps, below):
        assert state.steps[step.id].status is StepStatus.CANCELLED
    assert state.steps["on_exit"].status is StepStatus.SUCCEEDED
    assert no_process_is_left(home_dir, run_id)


def test_a_signal_to_the_engine_leaves_a_resumable_run(engine, home_dir, run) -> None:
    count = one("Count", config={"until": 30, "checkpoint_every": 1, "pause_seconds": 0.05})
    run_id = engine.submit(
        make_plan(count, on_exit=make_step("on_exit", "crucible.testing.observers:TellProcess"))
    )
    wait_for_status(engine, run_id, "step", StepStatus.RUNNING)
    pid = int((home_dir / "runs" / run_id / "lock").read_text())
    os.kill(pid, signal.SIGTERM)
    state = run.end(run_id)
    assert state.status is RunStatus.INTERRUPTED
    assert state.steps["step"].status is StepStatus.CANCELLED
    assert state.steps["on_exit"].status is StepStatus.PENDING
    state = run.resume(run_id)
    assert state.status is RunStatus.SUCCEEDED
    assert state.steps["step"].attempt == 2
    assert no_process_is_left(home_dir, run_id)
