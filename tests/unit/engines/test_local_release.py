"""Runs that end in MLflow: the relay beside the steps, the release behind them."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator

import pytest

from crucible.engines.local.engine import LocalEngine
from crucible.engines.local.run_dir import is_locked
from crucible.engines.state import RunState, RunStatus, StepStatus
from crucible.plan.model import (
    Condition,
    Gate,
    MetricRef,
    Plan,
    Release,
    StepOutput,
    Threshold,
)
from crucible.settings import Settings
from crucible.testing.plans import make_plan, make_step
from crucible.tracking.client import connect

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _with_tracking(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRUCIBLE_TRACKING")


def releasing(accuracy: float, *, gated: bool = False) -> Plan:
    """Trains and evaluates a pretended model; it is good enough from 0.5 on."""
    evaluate = make_step("evaluate", "Emit", config={"values": {"accuracy": accuracy}})
    when = (Condition(MetricRef("evaluate", "metrics", "accuracy"), ">", 0.9),) if gated else ()
    train = make_step("train", "MakeModel", after=("evaluate",), when=when)
    gate = Gate(StepOutput("evaluate", "metrics"), (Threshold("accuracy", min=0.5),))
    return make_plan(
        evaluate,
        train,
        name=f"releasing-{gated}",
        on_exit=make_step("on_exit", "crucible.testing.observers:DescribeRun", {"run": []}),
        release=Release(StepOutput("train", "model"), "tiny", gate),
    )


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalEngine, str]]:
    """A run whose MLflow does not answer. It is patient, so it is begun before the other tests."""
    home_dir = tmp_path_factory.mktemp("unreachable")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CRUCIBLE_TRACKING", raising=False)
        patch.setenv("CRUCIBLE_HOME", str(home_dir))
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # discard: nobody listens
        engine = LocalEngine(Settings.load())
        run_id = engine.submit(releasing(0.8))
    yield engine, run_id
    os.kill(int((home_dir / "runs" / run_id / "lock").read_text()), signal.SIGTERM)


def wait_for_relay(settings: Settings, state: RunState) -> None:
    deadline = time.monotonic() + 120
    while is_locked(settings.runs_dir / state.run_id / "lock"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.usefixtures("unreachable")
def test_release_decisions_are_results_and_mlflow_shows_the_runs(
    engine, run, record, settings: Settings
) -> None:
    good = run(releasing(0.8))
    assert good.status is RunStatus.SUCCEEDED, good
    assert good.release is not None
    assert (good.release["name"], good.release["version"]) == ("tiny", 1)
    assert good.release["outcome"] == "promoted"
    assert record(good, "on_exit")["release"]["version"] == 1

    run_id = engine.submit(releasing(0.8))
    relay_log = settings.runs_dir / run_id / "relay.log"
    for _ in engine.watch(run_id):
        started = relay_log.exists()
        assert not started or engine.state(run_id).status.is_final, "it comes after a cached run"
    again = engine.state(run_id)
    assert again.steps["train"].status is StepStatus.CACHED
    assert again.release is not None
    assert (again.release["version"], again.release["outcome"]) == (1, "unchanged")

    skipped = run(releasing(0.8, gated=True))
    assert skipped.status is RunStatus.SUCCEEDED
    assert skipped.release is None
    assert skipped.warnings == ["nothing was released: train did not run"]

    wait_for_relay(settings, good)
    mlflow_run_id = engine.state(good.run_id).mlflow_run_id
    assert mlflow_run_id is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow and SQLAlchemy among themselves
        found = connect(settings).get_run(mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["crucible.plan_digest"] == good.plan_digest


def test_an_mlflow_that_does_not_answer_fails_the_release_and_nothing_else(
    unreachable: tuple[LocalEngine, str],
) -> None:
    engine, run_id = unreachable
    *_, state = engine.watch(run_id)
    assert state.status is RunStatus.FAILED
    assert state.message.startswith("release failed: ")
    assert state.steps["train"].status is StepStatus.SUCCEEDED
    assert state.steps["on_exit"].status is StepStatus.SUCCEEDED
