"""The verbs, with KFP's API from memory and pods played by what they write to the journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts import Store
from crucible.cluster.connection import Connection
from crucible.engines.kfp import engine as engine_module
from crucible.engines.kfp import session as session_module
from crucible.engines.kfp.api import PipelinesApi
from crucible.engines.kfp.engine import KfpEngine
from crucible.engines.kfp.session import Session
from crucible.engines.state import FailureCause, RunStatus, StepStatus
from crucible.errors import ClusterUnavailable, RunNotFound, UserError
from crucible.journal import Journal
from crucible.plan.model import Condition, MetricRef, Plan, StepOutput
from crucible.testing.kfp_server import KfpServer
from crucible.testing.plans import make_plan, make_step, noop_chain

from .conftest import MakeContext

FAILURE = {"cause": "raised", "message": "no", "fix": "", "exit_code": 1, "log_tail": []}


class NoCluster:
    """A Kubernetes API that cannot be reached: the engine must do without."""

    def __getattr__(self, name: str) -> Any:
        raise ClusterUnavailable("no cluster here")


@pytest.fixture
def engine(
    make_context: MakeContext,
    api: PipelinesApi,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[KfpEngine]:
    monkeypatch.setenv("CRUCIBLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(engine_module, "_LOOK_SECONDS", 0.01)
    session = Session(make_context())
    known: dict[str, Any] = {"api": api, "store": store, "connection": NoCluster()}
    session.__dict__.update(known)
    yield KfpEngine(session)
    session.close()


@pytest.fixture
def pods(store: Store) -> Callable[[str], Pods]:
    return lambda run_id: Pods(Journal(store.backend, run_id), store)


class Pods:
    """Writes to a run's journal what its pods would."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self.journal = journal
        self._store = store

    def put(self, **metadata: float) -> str:
        with self._store.draft() as draft:
            draft.new_file("metrics.json").write_text(str(metadata))
            return draft.commit(type="Metrics", metadata=metadata).digest

    def succeed(self, step_id: str, attempt: int = 1, **outputs: str) -> None:
        self.journal.attempt(step_id, attempt).start(pod="p")
        self.journal.attempt(step_id, attempt).end(status="succeeded", outputs=outputs)

    def fail(self, step_id: str, attempt: int = 1, **failure: Any) -> None:
        self.journal.attempt(step_id, attempt).start(pod="p")
        told = {**FAILURE, **failure}
        self.journal.attempt(step_id, attempt).end(status="failed", outputs={}, failure=told)


MakePods = Callable[[str], Pods]


def newest(kfp: KfpServer) -> str:
    return list(kfp.runs)[-1]


def test_a_run_goes_from_submission_to_its_end(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    run_id = engine.submit(noop_chain(2), run_id="r1")
    assert engine.state(run_id).status is RunStatus.PENDING
    written = pods("r1").put(score=1.0)
    pods("r1").succeed("step0", dataset=written)
    kfp.set_state(newest(kfp), "RUNNING")
    state = engine.state("r1")
    assert state.status is RunStatus.RUNNING
    assert [str(step.status) for step in state.steps.values()] == ["succeeded", "pending"]
    pods("r1").succeed("step1", dataset=written)
    kfp.set_state(newest(kfp), "SUCCEEDED")
    *_, last = engine.watch("r1")
    assert last.status is RunStatus.SUCCEEDED
    assert last.steps["step1"].outputs == {"dataset": written}
    assert engine.plan_of("r1") == noop_chain(2)
    assert engine.last_plan("noop-chain") == ("r1", noop_chain(2))


def test_submitting_again_changes_nothing(engine: KfpEngine, kfp: KfpServer) -> None:
    assert engine.submit(noop_chain(1), run_id="r1") == engine.submit(noop_chain(1), run_id="r1")
    assert len(kfp.runs) == 1
    with pytest.raises(UserError, match="another plan"):
        engine.submit(noop_chain(2), run_id="r1")


def test_what_failed_and_what_was_skipped_because_of_it(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(3), run_id="r1")
    pods("r1").fail("step0", message="broken", log_tail=["last words"])
    kfp.set_state(newest(kfp), "FAILED")
    state = engine.state("r1")
    assert state.status is RunStatus.FAILED
    assert state.message == "step0 failed"
    assert [step.reason for step in state.steps.values()] == [
        "",
        "step0 failed",
        "step1 was skipped",
    ]
    text = str(engine.explain("r1"))
    assert "broken" in text
    assert "last words" in text


def test_a_step_that_was_lost_with_its_pod_is_not_running_for_ever(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(1), run_id="r1")
    pods("r1").journal.attempt("step0", 1).start(pod="p")
    kfp.set_state(newest(kfp), "FAILED")
    state = engine.state("r1")
    failure = state.steps["step0"].failure
    assert failure is not None
    assert failure.cause is FailureCause.ENGINE_LOST
    assert any("no cluster here" in warning for warning in state.warnings)


def test_a_run_whose_pod_never_started_says_so(engine: KfpEngine, kfp: KfpServer) -> None:
    engine.submit(noop_chain(2), run_id="r1")
    task = {"task_id": "t", "display_name": "step0-driver", "state": "FAILED"}
    kfp.set_state(newest(kfp), "FAILED", run_details={"task_details": [task]})
    state = engine.state("r1")
    assert state.steps["step0"].failure is not None
    assert "did not start" in state.steps["step0"].failure.message
    assert state.steps["step1"].status is StepStatus.SKIPPED


def test_cancelled_is_cancelled_though_kfp_says_failed(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(2), run_id="r1")
    pods("r1").fail("step0", cause="killed", message="cancelled by signal 15")
    state = engine.cancel("r1")
    assert kfp.runs[newest(kfp)]["state"] == "FAILED"
    assert state.status is RunStatus.CANCELLED
    assert {step.status for step in state.steps.values()} == {StepStatus.CANCELLED}
    assert state.failed_steps == []


def test_retry_is_kfps_own(engine: KfpEngine, kfp: KfpServer, pods: MakePods) -> None:
    engine.submit(noop_chain(2), run_id="r1")
    written = pods("r1").put()
    pods("r1").succeed("step0", dataset=written)
    pods("r1").fail("step1")
    kfp.set_state(newest(kfp), "FAILED")
    assert engine.retry("r1") == "r1"
    state = engine.state("r1")
    assert len(kfp.runs) == 1
    assert state.status is RunStatus.RUNNING
    assert [str(step.status) for step in state.steps.values()] == ["succeeded", "pending"]
    with pytest.raises(UserError, match="nothing to retry"):
        engine.retry("r1")


def test_resume_is_a_new_run_of_kfp_with_what_is_left(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(3), run_id="r1")
    with pytest.raises(UserError, match="is running"):
        engine.resume("r1")
    written = pods("r1").put()
    pods("r1").succeed("step0", dataset=written)
    pods("r1").fail("step1")
    kfp.set_state(newest(kfp), "FAILED")
    engine.resume("r1")
    assert len(kfp.runs) == 2
    again = kfp.runs[newest(kfp)]
    assert again["display_name"] == "r1-resume-2"
    assert set(again["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]) == {
        "step1",
        "step2",
    }
    assert [str(s.status) for s in engine.state("r1").steps.values()] == [
        "succeeded",
        "pending",
        "pending",
    ]
    pods("r1").succeed("step1", attempt=2, dataset=written)
    pods("r1").succeed("step2", dataset=written)
    kfp.set_state(newest(kfp), "SUCCEEDED")
    state = engine.state("r1")
    assert (state.status, state.steps["step1"].attempt) == (RunStatus.SUCCEEDED, 2)
    with pytest.raises(UserError, match="has succeeded"):
        engine.resume("r1")


def test_an_output_that_is_gone_from_the_store_is_made_again(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(2), run_id="r1")
    pods("r1").succeed("step0", dataset=f"sha256:{'0' * 64}")
    pods("r1").fail("step1")
    kfp.set_state(newest(kfp), "FAILED")
    engine.resume("r1")
    tasks = kfp.runs[newest(kfp)]["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert set(tasks) == {"step0", "step1"}


def test_resume_from_a_step_uses_no_earlier_result(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(3), run_id="r1")
    written = pods("r1").put()
    for step in ("step0", "step1", "step2"):
        pods("r1").succeed(step, dataset=written)
    kfp.set_state(newest(kfp), "SUCCEEDED")
    with pytest.raises(UserError, match="Did you mean 'step1'"):
        engine.resume("r1", from_step="stp1")
    engine.resume("r1", from_step="step1")
    tasks = kfp.runs[newest(kfp)]["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert set(tasks) == {"step1", "step2"}
    step = tasks["step1"]["inputs"]["parameters"]["step"]["runtimeValue"]["constant"]
    assert step["cache"] is False


def gated(threshold: float) -> Plan:
    ref = MetricRef("probe", "metrics", "score")
    when = (Condition(ref, ">=", threshold),)
    return make_plan(
        make_step("probe", "Emit"),
        make_step("train", "Noop", when=when, after=("probe",)),
        make_step("next", "Noop", {"dataset": StepOutput("train", "dataset")}),
        make_step("other", "Raise"),
    )


@pytest.mark.parametrize(
    ("threshold", "left"), [(0.5, {"train", "next", "other"}), (2.0, {"other"})]
)
def test_a_condition_on_a_done_step_is_decided_when_resuming(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods, threshold: float, left: set[str]
) -> None:
    engine.submit(gated(threshold), run_id="r1")
    pods("r1").succeed("probe", metrics=pods("r1").put(score=1.0))
    pods("r1").fail("other")
    kfp.set_state(newest(kfp), "FAILED")
    engine.resume("r1")
    tasks = kfp.runs[newest(kfp)]["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert set(tasks) == left
    assert all("condition" not in task.get("triggerPolicy", {}) for task in tasks.values())
    skipped = {s.step_id for s in engine.state("r1").steps.values() if s.status == "skipped"}
    assert skipped == {"train", "next"} - left


def test_progress_and_numbers_of_a_running_step_are_seen(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(1), run_id="r1")
    attempt = pods("r1").journal.attempt("step0", 1)
    attempt.start(pod="p")
    lines = (
        '{"time": 1, "type": "progress", "done": 3, "total": 9, "unit": "steps", "message": ""}\n'
        '{"time": 2, "type": "metrics", "step": 1, "values": {"loss": 0.5}}\n'
    )
    attempt.backend.write(f"{attempt.events_prefix}000000", lines.encode())
    attempt.backend.write(f"{attempt.log_prefix}000000", b"hello\nworld")
    kfp.set_state(newest(kfp), "RUNNING")
    step = engine.state("r1").steps["step0"]
    assert step.progress is not None
    assert (step.progress.done, step.progress.total) == (3, 9)
    assert step.last_metrics == {"loss": 0.5}
    assert list(engine.logs("r1", "step0")) == ["hello", "world"]
    with pytest.raises(UserError, match="Did you mean 'step0'"):
        list(engine.logs("r1", "step"))


def test_runs_are_listed_once_each_newest_first(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    for run_id in ("r1", "r2"):
        engine.submit(noop_chain(1), run_id=run_id)
    pods("r1").fail("step0")
    first = next(i for i, run in kfp.runs.items() if run["display_name"] == "r1")
    kfp.set_state(first, "FAILED")
    engine.resume("r1")
    assert [state.run_id for state in engine.states()] == ["r1", "r2"]
    assert [state.run_id for state in engine.states(1)] == ["r1"]


def test_a_run_is_found_by_the_beginning_of_its_id(engine: KfpEngine) -> None:
    for run_id in ("alpha-1", "alpha-2", "beta"):
        engine.submit(noop_chain(1), run_id=run_id)
    assert engine.state("be").run_id == "beta"
    with pytest.raises(RunNotFound, match="beginning of 2 run ids: alpha-1, alpha-2"):
        engine.state("alpha")
    with pytest.raises(RunNotFound, match="in context test"):
        engine.state("gamma")


def test_a_run_that_kfp_has_forgotten_is_told_as_such(
    engine: KfpEngine, kfp: KfpServer, pods: MakePods
) -> None:
    engine.submit(noop_chain(1), run_id="r1")
    pods("r1").journal.attempt("step0", 1).start(pod="p")
    kfp.runs.clear()
    state = engine.state("r1")
    assert state.status is RunStatus.INTERRUPTED
    assert "does not know the run any more" in state.message


def test_connections_are_made_when_they_are_needed(make_context: MakeContext) -> None:
    session = Session(make_context("kubernetes: {kubeconfig: /nowhere/config}"))
    assert isinstance(session.connection, Connection)
    session.close()


def test_the_environment_is_as_it_was_when_a_session_ends(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(make_context("mlflow: {uri: 'http://mlflow.example:5000'}"))
    monkeypatch.setattr(session_module, "open_store", lambda uri: uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "before")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("CRUCIBLE_STORE", raising=False)
    before = dict(os.environ)
    assert session.settings.mlflow_tracking_uri == os.environ["MLFLOW_TRACKING_URI"] != "before"
    assert os.environ["CRUCIBLE_STORE"].startswith("s3://")
    session.close()
    assert dict(os.environ) == before
