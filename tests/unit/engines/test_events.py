"""The event log: durable appends, torn tails, and the fold."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.engines.events import (
    EventLog,
    History,
    failure_from_json,
    failure_to_json,
    read_events,
)
from crucible.engines.state import Failure, FailureCause, RunStatus, StepStatus
from crucible.errors import CrucibleError
from crucible.testing.plans import make_plan, make_step, noop_chain

FAILURE = Failure(FailureCause.TEMPORARY, "busy", "wait", 75, ("last", "lines"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_what_was_appended_is_read_back_in_order(path: Path) -> None:
    log = EventLog(path)
    written = [log.append("run.warning", message=f"zäh\n{number}") for number in range(3)]
    log.close()
    events, offset = read_events(path)
    assert events == written
    assert offset == path.stat().st_size
    assert read_events(path, offset) == ([], offset)


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_log_cut_anywhere_reads_as_its_whole_lines(cut: int) -> None:
    lines = [json.dumps({"type": "run.warning", "message": "x" * n}) for n in range(5)]
    data = "".join(f"{line}\n" for line in lines).encode()[:cut]
    path = Path(f"/tmp/crucible-test-events-{os.getpid()}.jsonl")
    path.write_bytes(data)
    try:
        events, offset = read_events(path)
        assert [json.dumps(event) for event in events] == lines[: data.count(b"\n")]
        log = EventLog(path)
        log.append("run.warning", message="next")
        log.close()
        assert len(read_events(path)[0]) == len(events) + 1
        assert [e["message"] for e in read_events(path, offset)[0]] == ["next"]
    finally:
        path.unlink()


def test_a_reader_in_the_middle_of_a_write_takes_the_rest_later(path: Path) -> None:
    whole, torn = b'{"type": "a"}\n', b'{"type": "b"'
    path.write_bytes(whole + torn)
    events, offset = read_events(path)
    assert (events, offset) == ([{"type": "a"}], len(whole))
    path.write_bytes(whole + torn + b"}\n")
    assert read_events(path, offset)[0] == [{"type": "b"}]


def test_a_damaged_line_inside_is_an_error_that_names_it(path: Path) -> None:
    path.write_bytes(b'{"type": "a"}\n\0\0\0\n{"type": "b"}\n')
    with pytest.raises(CrucibleError, match=r"events.jsonl: .* damaged: b'\\x00"):
        read_events(path)


def test_an_append_that_fails_leaves_the_log_as_it_was(path: Path) -> None:
    log = EventLog(path)
    log.append("run.warning", message="first")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match=r"No space left|File too large"):
            log.append("run.warning", message="second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    log.append("run.warning", message="third")
    log.close()
    assert [event["message"] for event in read_events(path)[0]] == ["first", "third"]


def test_a_failure_survives_the_log() -> None:
    stored = json.loads(json.dumps(failure_to_json(FAILURE)))
    assert failure_from_json(stored) == FAILURE


SUBMITTED = {
    "type": "run.submitted",
    "run_id": "r",
    "pipeline": "testing",
    "plan_digest": "sha256:0",
}
STARTED = {"type": "run.started", "pid": 1}


class TestFold:
    plan = make_plan(
        make_step("one", "Noop"), make_step("two", "Noop"), on_exit=make_step("on_exit", "Noop")
    )

    def history(self, *events: dict[str, object]) -> History:
        stamped = [{"time": float(at), **event} for at, event in enumerate(events)]
        return History.of(self.plan, json.loads(json.dumps(stamped)))

    @staticmethod
    def start(step: str, attempt: int = 1) -> dict[str, object]:
        return {"type": "step.started", "step": step, "attempt": attempt}

    @staticmethod
    def end(step: str, status: str, **fields: object) -> dict[str, object]:
        return {"type": "step.ended", "step": step, "attempt": 1, "status": status, **fields}

    def test_no_events_is_a_run_that_waits(self) -> None:
        state = History.of(self.plan).state
        assert state.status is RunStatus.PENDING
        assert list(state.steps) == ["one", "two", "on_exit"]
        assert state.plan_digest == self.plan.digest

    def test_success(self) -> None:
        state = self.history(
            SUBMITTED,
            STARTED,
            self.start("one"),
            self.end("one", "succeeded", outputs={"dataset": "sha256:1"}, peak_memory_gib=0.5),
            {"type": "run.ended", "status": "succeeded", "message": ""},
        ).state
        assert (state.status, state.started_at, state.ended_at) == (RunStatus.SUCCEEDED, 0, 4)
        step = state.steps["one"]
        assert (step.status, step.started_at, step.ended_at) == (StepStatus.SUCCEEDED, 2, 3)
        assert (step.outputs, step.peak_memory_gib) == ({"dataset": "sha256:1"}, 0.5)

    def test_retries_count_tries_and_keep_the_first_start(self) -> None:
        retrying = {
            "type": "step.retrying",
            "step": "one",
            "attempt": 1,
            "failure": failure_to_json(FAILURE),
            "delay_seconds": 10.0,
        }
        waiting = self.history(SUBMITTED, STARTED, self.start("one"), retrying)
        step = waiting.state.steps["one"]
        assert (step.status, step.failure) == (StepStatus.RETRYING, FAILURE)
        assert step.reason == "again in 10 s: busy"
        assert waiting.retry_at == {"one": 13.0}
        waiting.apply({"time": 14.0, **self.start("one", 2)})
        assert (step.status, step.failure, step.reason) == (StepStatus.RUNNING, None, "")
        assert (step.attempt, step.started_at) == (2, 2)
        assert (waiting.tries, waiting.retry_at) == ({"one": 2}, {})

    def test_resuming_resets_what_it_names_and_keeps_attempts(self) -> None:
        history = self.history(
            SUBMITTED,
            STARTED,
            self.start("one"),
            self.end("one", "cached", cached_from="earlier", outputs={"dataset": "sha256:1"}),
            {"type": "import.done", "uri": "file:///x", "digest": "sha256:2"},
            self.start("two"),
            self.end("two", "failed", failure=failure_to_json(FAILURE)),
            {"type": "release.decided", "release": {"version": 1}},
            {"type": "run.ended", "status": "failed", "message": "failed: two"},
            {"type": "run.resumed", "reset": ["two", "on_exit"], "fresh": ["two"]},
        )
        state = history.state
        assert (state.status, state.message, state.release) == (RunStatus.PENDING, "", None)
        assert state.ended_at is None
        assert state.steps["one"].status is StepStatus.CACHED
        assert dataclasses.asdict(state.steps["two"])["attempt"] == 1
        assert state.steps["two"].status is StepStatus.PENDING
        assert state.steps["two"].failure is None
        assert (history.tries, history.fresh) == ({"one": 1}, {"two"})
        assert (history.imports, history.cached_from) == ({}, {"one": "earlier"})

    def test_events_of_a_newer_engine_change_nothing(self) -> None:
        history = self.history(SUBMITTED, {"type": "run.dreamt", "of": "sheep"})
        assert history.state == self.history(SUBMITTED).state

    def test_a_warning_is_told_once(self) -> None:
        warning = {"type": "run.warning", "message": "careful"}
        assert self.history(warning, warning).state.warnings == ["careful"]


def test_folding_in_pieces_is_folding_at_once() -> None:
    plan = noop_chain(2)
    events = [
        {"type": "run.submitted", "time": 0, "run_id": "r", "pipeline": "p", "plan_digest": "d"},
        {"type": "step.started", "time": 1, "step": "step0", "attempt": 1},
        {"type": "step.ended", "time": 2, "step": "step0", "attempt": 1, "status": "succeeded"},
    ]
    pieces = History.of(plan)
    for event in events:
        pieces.apply(event)
    assert pieces == History.of(plan, events)
