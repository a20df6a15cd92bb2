"""Submitting, finding and following runs."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from crucible.engines import get_engine
from crucible.engines.local import launch
from crucible.engines.local.engine import LocalEngine
from crucible.engines.local.run_dir import RunDir
from crucible.engines.state import RunStatus
from crucible.errors import CrucibleError, RunNotFound, UserError
from crucible.sdk.component import Resources
from crucible.settings import Settings
from crucible.testing.plans import make_plan, make_step, noop_chain


def test_the_engine_of_an_installation_is_the_local_one(settings: Settings) -> None:
    assert isinstance(get_engine(settings), LocalEngine)


def test_plan_and_spec_come_back_as_submitted(engine, run, home_dir) -> None:
    plan = noop_chain(2)
    state = run(plan)
    assert re.fullmatch(r"noop-chain-\d{8}-\d{6}-[0-9a-f]{4}", state.run_id)
    assert engine.plan_of(state.run_id) == plan
    assert state.plan_digest == plan.digest
    assert (home_dir / "runs" / state.run_id / "spec.yaml").read_text() == plan.spec_text


def test_submitting_twice_under_one_id_is_one_run(engine, run) -> None:
    plan = noop_chain(1)
    assert engine.submit(plan, run_id="mine") == "mine"
    assert engine.submit(plan, run_id="mine") == "mine"
    assert run.end("mine").steps["step0"].attempt == 1
    engine.submit(plan, run_id="mine")
    assert engine.state("mine").steps["step0"].attempt == 1


def test_one_id_cannot_mean_two_plans(engine, run) -> None:
    run.end(engine.submit(noop_chain(1), run_id="mine"))
    with pytest.raises(UserError, match="another plan"):
        engine.submit(noop_chain(2), run_id="mine")


def test_a_submission_that_died_before_its_supervisor_is_taken_up(engine, run, home_dir) -> None:
    plan = noop_chain(1)
    lock = launch.create_run(RunDir(home_dir / "runs" / "mine"), plan)
    assert lock is not None
    os.close(lock)
    assert engine.state("mine").status is RunStatus.INTERRUPTED
    engine.submit(plan, run_id="mine")
    assert run.end("mine").status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("run_id", ["../up", "a/b", "", ".hidden", "-x", "a b", "x" * 129])
def test_an_id_must_be_fit_for_a_folder(engine, home_dir, run_id: str) -> None:
    with pytest.raises(UserError, match="letters, digits"):
        engine.submit(noop_chain(1), run_id=run_id)
    assert not (home_dir / "runs").exists()


def test_what_this_machine_cannot_do_is_told_at_once(engine, monkeypatch, home_dir) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    plan = make_plan(
        make_step("train[0]", "Noop", resources=Resources(gpus=8)),
        make_step("train[1]", "Noop", resources=Resources(gpus=8)),
        make_step("tune", "Noop", resources=Resources(nodes=2)),
    )
    with pytest.raises(UserError) as caught:
        engine.submit(plan)
    assert [problem.path for problem in caught.value.problems] == [
        "steps.train.resources.gpus",
        "steps.tune.resources.nodes",
    ]
    assert not (home_dir / "runs").exists()


def test_gpus_are_handed_out_one_step_each(run, record, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    wants_one = Resources(cpus=0.1, memory_gib=0.1, gpus=1)
    steps = [
        make_step(f"s{n}", "crucible.testing.observers:TellProcess", resources=wants_one)
        for n in range(2)
    ]
    without = make_step("without", "crucible.testing.observers:TellProcess")
    state = run(make_plan(*steps, without))
    seen = [record(state, step.id)["cuda_visible_devices"] for step in (*steps, without)]
    assert set(seen[:2]) <= {"4", "7"}
    assert seen[2] == ""


def test_an_unwritable_home_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"CRUCIBLE_HOME": str(tmp_path / "file"), "CRUCIBLE_STORE": (tmp_path / "s").as_uri()}
    engine = LocalEngine(Settings.load(environ))
    with pytest.raises(CrucibleError, match=r"cannot be written .* CRUCIBLE_HOME"):
        engine.submit(noop_chain(1))


def test_an_unusable_store_is_told_before_anything_runs(home_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"CRUCIBLE_HOME": str(home_dir), "CRUCIBLE_STORE": (tmp_path / "file/s").as_uri()}
    with pytest.raises(CrucibleError, match=str(tmp_path / "file")):
        LocalEngine(Settings.load(environ)).submit(noop_chain(1))
    assert not (home_dir / "runs").exists()


@pytest.mark.parametrize("name", ["CRUCIBLE_LOCAL_CPUS", "CRUCIBLE_LOCAL_MEMORY_GIB"])
@pytest.mark.parametrize("value", ["many", "0", "-1", "nan", "inf"])
def test_a_budget_must_be_a_positive_number(engine, monkeypatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"{name}: '{value}': must be a number above 0"):
        engine.submit(noop_chain(1))


class TestFinding:
    @pytest.fixture
    def three(self, engine, home_dir) -> LocalEngine:
        """Three runs whose supervisors were never started."""
        for number, run_id in enumerate(["alpha-1", "alpha-2", "beta"]):
            plan = noop_chain(1, salt=str(number))
            lock = launch.create_run(RunDir(home_dir / "runs" / run_id), plan)
            assert lock is not None
            os.close(lock)
        return engine

    def test_a_prefix_will_do_if_it_is_unique(self, three) -> None:
        assert three.state("be").run_id == "beta"
        with pytest.raises(RunNotFound, match="beginning of 2 run ids"):
            three.state("alpha")

    @pytest.mark.parametrize("run_id", ["gamma", "", "../beta"])
    def test_an_unknown_id_says_what_there_is(self, three, run_id: str) -> None:
        with pytest.raises(RunNotFound, match="Valid: alpha-1, alpha-2, beta"):
            three.state(run_id)

    def test_newest_first(self, three) -> None:
        assert [state.run_id for state in three.states()] == ["beta", "alpha-2", "alpha-1"]

    def test_the_last_plan_is_that_of_the_newest_run(self, three) -> None:
        found = three.last_plan("noop-chain")
        assert found is not None
        assert found == ("beta", noop_chain(1, salt="2"))
        assert three.last_plan("other") is None


def test_an_empty_home_has_no_runs(engine) -> None:
    assert engine.states() == []
    assert engine.last_plan("noop-chain") is None


def test_watch_shows_progress_ten_times_a_second_at_most_and_ends(engine) -> None:
    count = make_step("count", "Count", config={"until": 30, "pause_seconds": 0.02})
    run_id = engine.submit(make_plan(count))
    began = time.monotonic()
    states = list(engine.watch(run_id))
    assert len(states) <= 10 * (time.monotonic() - began) + 2
    assert states[-1].status is RunStatus.SUCCEEDED
    assert not any(state.status.is_final for state in states[:-1])
    seen = [state.steps["count"].progress for state in states]
    done = [progress.done for progress in seen if progress is not None]
    assert done == sorted(done)
    assert len(set(done)) > 1
    assert done[-1] == 30
    json.dumps([state.steps["count"].last_metrics for state in states])
