"""What a client of KFP's API is told of runs that the driver follows."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import yaml

from crucible.engines.kfp.api import KfpRun, PipelinesApi
from crucible.testing.kfp_driver import Objects, Settings
from crucible.testing.kfp_driver.service import Service, running_kfp

from .conftest import ROOT, Json, ScriptedRunner, leaf, level, parameters, pipeline_text, task

NEVER = {"triggerPolicy": {"condition": "inputs.parameter_values['x'] > 2.0"}, **parameters(x=1)}


@pytest.fixture
def kfp(runner: ScriptedRunner) -> Iterator[Service]:
    with running_kfp(runner, Objects.in_folder(runner.folder), Settings(ROOT)) as service:
        yield service


def submit(kfp: Service, text: str, **given: object) -> KfpRun:
    api = PipelinesApi(kfp.url, "kubeflow")
    pipeline: Json = yaml.safe_load(text)
    run = api.create_run(
        "run", pipeline=pipeline, platform=None, parameters=given,
        experiment_id=api.experiment_id("testing"), root=None, service_account=None,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (found := api.get_run(run.id)).is_final:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_tasks_are_shown_as_nodes_of_argo(kfp: Service, runner: ScriptedRunner) -> None:
    runner.ends = {"bad": ["failed"]}
    components = {name: leaf(name) for name in ("good", "bad", "behind")}
    root = level(task("good"), task("bad"), task("behind", after=("bad",)), task("cond", **NEVER))
    run = submit(kfp, pipeline_text(root, **components, cond=leaf("cond", {"x": "NUMBER_DOUBLE"})))
    assert run.state == "FAILED"
    states = {one.name: one.state for one in run.tasks}
    assert states["good"] == states["good-driver"] == "SUCCEEDED"
    assert states["bad"] == states["root"] == "FAILED"
    assert states["cond"] == "SKIPPED"
    assert states["behind"] == states["behind-driver"] == "PENDING"  # told of without a state
    assert "executor" in states


def test_a_run_that_kfp_refuses_fails(kfp: Service) -> None:
    run = submit(kfp, pipeline_text(level(task("one")), one=leaf("one")), nope=1)
    assert (run.state, "nope" in run.error) == ("FAILED", True)


def test_an_ended_run_fails_and_what_it_ran_is_asked_to_end(
    kfp: Service, runner: ScriptedRunner
) -> None:
    runner.hold_seconds = 0.5
    api = PipelinesApi(kfp.url, "kubeflow")
    root = level(task("one"), task("two", after=("one",)))
    run = api.create_run(
        "run", pipeline=yaml.safe_load(pipeline_text(root, one=leaf("one"), two=leaf("two"))),
        platform=None, parameters={}, experiment_id=api.experiment_id("testing"), root=None,
        service_account=None,
    )  # fmt: skip
    while not runner.pods:
        time.sleep(0.02)
    api.terminate(run.id)
    kfp.join()
    assert api.get_run(run.id).was_cancelled
    assert kfp.runs[run.id].states == {"one": "succeeded", "two": "omitted"}
    assert kfp.runs[run.id].state.value == "failed"
    assert runner.pods[0].terminated()
