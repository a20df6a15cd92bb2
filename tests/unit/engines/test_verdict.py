"""What the engine makes of an attempt's end, case by case."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from crucible.engines.local.machine import GIB
from crucible.engines.local.protocol import Exited
from crucible.engines.local.run_dir import AttemptDir
from crucible.engines.local.verdict import StopReason, Verdict, judge
from crucible.engines.state import Failure, FailureCause
from crucible.sdk.component import Resources
from crucible.sdk.executor import RuntimeArtifact, write_executor_output
from crucible.testing.plans import make_step

STEP = replace(
    make_step("step[2]", "Noop", timeout_minutes=5.0), resources=Resources(memory_gib=2.0)
)
DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def attempt_dir(tmp_path: Path) -> AttemptDir:
    return AttemptDir(tmp_path)


def exited(exit_code: int, *, rss_gib: float = 0.1, oom_kills: int | None = 0) -> Exited:
    return Exited("step/1", exit_code, int(rss_gib * GIB), oom_kills)


def failure_of(verdict: Verdict) -> Failure:
    assert verdict.failure is not None
    return verdict.failure


def write_output(attempt_dir: AttemptDir, **metadata: str) -> None:
    artifact = RuntimeArtifact(
        "dataset", "file:///x", metadata={"crucible_digest": DIGEST, **metadata}
    )
    write_executor_output(attempt_dir.executor_output, {"dataset": artifact})


def test_outputs_are_read_off_the_executor_output(attempt_dir: AttemptDir) -> None:
    write_output(attempt_dir)
    assert judge(STEP, attempt_dir, exited(0), None) == Verdict(outputs={"dataset": DIGEST})


def test_outputs_from_the_cache_name_their_run(attempt_dir: AttemptDir) -> None:
    write_output(attempt_dir, crucible_cached_from="earlier")
    assert judge(STEP, attempt_dir, exited(0), None).cached_from == "earlier"


@pytest.mark.parametrize("stopped", list(StopReason))
def test_a_step_that_finished_before_the_signal_has_finished(
    attempt_dir: AttemptDir, stopped: StopReason
) -> None:
    write_output(attempt_dir)
    assert judge(STEP, attempt_dir, exited(0), stopped).outputs == {"dataset": DIGEST}


@pytest.mark.parametrize("text", ["", "{", '{"artifacts": {"dataset": {"artifacts": [{}]}}}'])
def test_a_damaged_executor_output_is_no_output(attempt_dir: AttemptDir, text: str) -> None:
    attempt_dir.executor_output.write_text(text)
    failure = failure_of(judge(STEP, attempt_dir, exited(0), None))
    assert failure.cause is FailureCause.NO_OUTPUT


def test_a_cancelled_step_is_no_failure(attempt_dir: AttemptDir) -> None:
    for code in (-signal.SIGTERM, -signal.SIGKILL, 143, 1):
        verdict = judge(STEP, attempt_dir, exited(code), StopReason.CANCELLED)
        assert verdict == Verdict(cancelled=True)


@pytest.mark.parametrize(
    ("rss_gib", "oom_kills", "cause"),
    [
        (0.5, 1, FailureCause.OUT_OF_MEMORY),
        (1.9, 0, FailureCause.KILLED),
        (1.9, None, FailureCause.OUT_OF_MEMORY),
        (0.5, None, FailureCause.KILLED),
    ],
)
def test_a_kill_is_for_memory_if_the_kernel_says_so_or_says_nothing_near_the_limit(
    attempt_dir: AttemptDir, rss_gib: float, oom_kills: int | None, cause: FailureCause
) -> None:
    ended = exited(-signal.SIGKILL, rss_gib=rss_gib, oom_kills=oom_kills)
    failure = failure_of(judge(STEP, attempt_dir, ended, None))
    assert failure.cause is cause
    if cause is FailureCause.OUT_OF_MEMORY:
        assert "steps.step.resources.memory_gib (now 2)" in failure.fix


def test_the_engine_says_why_it_killed(attempt_dir: AttemptDir) -> None:
    killed = exited(-signal.SIGKILL, rss_gib=3.0)
    memory = failure_of(judge(STEP, attempt_dir, killed, StopReason.MEMORY))
    assert memory.cause is FailureCause.OUT_OF_MEMORY
    assert "at 3.0 GiB" in memory.message
    assert "declares (2 GiB)" in memory.message
    timeout = failure_of(judge(STEP, attempt_dir, killed, StopReason.TIMEOUT))
    assert timeout.cause is FailureCause.TIMEOUT
    assert "5 minutes" in timeout.message


def test_what_the_step_wrote_itself_counts_with_the_last_lines(attempt_dir: AttemptDir) -> None:
    written = {"cause": "store", "message": "no space", "fix": "free some", "exit_code": 1}
    attempt_dir.failure.write_text(json.dumps(written))
    attempt_dir.log.write_text("".join(f"line {n}\n" for n in range(30)))
    failure = failure_of(judge(STEP, attempt_dir, exited(1), None))
    assert failure == Failure(
        FailureCause.STORE,
        "no space",
        "free some",
        1,
        tuple(f"line {n}" for n in range(10, 30)),
    )


@pytest.mark.parametrize("text", ["", "[]", '{"cause": "bad luck", "message": "", "fix": ""}'])
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (1, FailureCause.RAISED),
        (2, FailureCause.USER_ERROR),
        (75, FailureCause.TEMPORARY),
        (-signal.SIGSEGV, FailureCause.KILLED),
    ],
)
def test_without_a_readable_reason_the_exit_code_counts(
    attempt_dir: AttemptDir, text: str, code: int, cause: FailureCause
) -> None:
    attempt_dir.failure.write_text(text)
    verdict = judge(STEP, attempt_dir, exited(code), None)
    assert failure_of(verdict).cause is cause
    assert verdict.is_temporary == (code == 75)


def test_a_process_that_could_not_start_is_tried_again(attempt_dir: AttemptDir) -> None:
    ended = Exited("step/1", 1, error="OSError: [Errno 12] Cannot allocate memory")
    verdict = judge(STEP, attempt_dir, ended, None)
    assert verdict.is_temporary
    assert "Cannot allocate memory" in failure_of(verdict).message
