"""Steps that fail and pods that are lost, on the KFP engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crucible.artifacts.backend import CHECKPOINTS
from crucible.engines.state import RunStatus
from crucible.plan.model import Condition, MetricRef, Retry, StepOutput
from crucible.testing.kfp_driver import Fault
from crucible.testing.plans import make_plan, make_step

from .conftest import Installation, imaged, outputs, phases, record, same, statuses


def test_a_failed_run_goes_on_where_it_stopped(installation: Installation, tmp_path: Path) -> None:
    """What was done stays done, a condition on it is decided when resuming."""
    once_too_often = {"state_path": str(tmp_path / "tries"), "failures": 3}
    when = (Condition(MetricRef("probe", "metrics", "score"), ">", 0.5),)
    plan = imaged(make_plan(
        make_step("probe", "Emit", config={"values": {"score": 1.0}}),
        make_step("shaky", "RaiseTemporary", config=once_too_often),
        make_step("guarded", "Noop", after=("probe", "shaky"), when=when),
        make_step("behind", "Noop", {"dataset": StepOutput("guarded", "dataset")}),
    ))  # fmt: skip
    failed = installation.submit(plan)
    assert failed.status is RunStatus.FAILED
    assert statuses(failed) == {
        "probe": "succeeded", "shaky": "failed", "guarded": "skipped", "behind": "skipped"
    }  # fmt: skip
    failure = failed.steps["shaky"].failure
    assert failure is not None
    assert (failure.cause.value, failure.exit_code) == ("temporary", 75)

    state = installation.end(installation.engine.resume(failed.run_id))
    assert set(statuses(state).values()) == {"succeeded"}
    assert state.run_id == failed.run_id
    assert state.steps["probe"].attempt == 1
    assert set(installation.last.states) == {"shaky", "guarded", "behind"}


def test_temporary_failures_are_met_inside_the_pod(
    installation: Installation, tmp_path: Path
) -> None:
    retry = Retry(limit=2, backoff_seconds=0.05)
    config = {"state_path": str(tmp_path / "tries"), "failures": 2}
    plan = imaged(make_plan(make_step("shaky", "RaiseTemporary", config=config, retry=retry)))
    state = installation.submit(plan)
    assert statuses(state) == {"shaky": "succeeded"}
    assert state.steps["shaky"].attempt == 3
    assert len(installation.last.task("shaky").attempts) == 1


def test_what_trying_again_cannot_mend_is_not_tried_again(installation: Installation) -> None:
    """KFP starts the pod again all the same; the step does not run in it."""
    plan = imaged(make_plan(make_step("bad", "Raise", config={"message": "broken for good"})))
    state = installation.submit(plan)
    failure = state.steps["bad"].failure
    assert failure is not None
    assert "broken for good" in failure.message
    assert state.steps["bad"].attempt == 1
    pods = installation.last.task("bad").attempts
    assert len(pods) == 1 + installation.context.step_retries
    assert "not tried again" in pods[-1].log


def test_a_killed_pod_goes_on_from_its_checkpoint(installation: Installation, locally: Any) -> None:
    config = {"until": 12, "checkpoint_every": 3, "pause_seconds": 0.25}
    plan = imaged(make_plan(make_step("count", "Count", config=config)))

    def has_checkpoint() -> bool:
        return any(installation.store.backend.listing(CHECKPOINTS))

    installation.kfp.faults.append(Fault("count", "kill", when=has_checkpoint))
    state = installation.submit(plan)
    assert [pod.phase for pod in installation.last.task("count").attempts] == [
        "failed",
        "succeeded",
    ]
    assert state.steps["count"].attempt == 2
    assert outputs(state) == outputs(locally(plan))
    assert not has_checkpoint()


def test_a_deleted_pod_is_lost_until_the_run_is_resumed(installation: Installation) -> None:
    """Argo tries a pod again that failed, and not one that somebody has deleted."""
    config = {"until": 12, "checkpoint_every": 3, "pause_seconds": 0.25}
    plan = imaged(make_plan(make_step("count", "Count", config=config)))
    backend = installation.store.backend
    fault = Fault("count", "delete", when=lambda: any(backend.listing(CHECKPOINTS)))
    installation.kfp.faults.append(fault)
    lost = installation.submit(plan)
    assert statuses(lost) == {"count": "failed"}
    assert phases(installation.last, "count") == ["error"]
    failure = lost.steps["count"].failure
    assert failure is not None
    assert failure.cause.value in ("killed", "engine-lost")

    installation.kfp.faults.clear()
    state = installation.end(installation.engine.resume(lost.run_id))
    assert statuses(state) == {"count": "succeeded"}


def test_a_cancelled_run_ends_its_pods_and_can_be_resumed(installation: Installation) -> None:
    config = {"until": 60, "checkpoint_every": 5, "pause_seconds": 0.1}
    plan = imaged(make_plan(
        make_step("count", "Count", config=config),
        make_step("behind", "Noop", {"dataset": StepOutput("count", "dataset")}),
    ))  # fmt: skip
    run_id = installation.engine.submit(plan)
    for state in installation.engine.watch(run_id):
        if any(installation.store.backend.listing(CHECKPOINTS)):
            break
        assert not state.status.is_final
    assert installation.engine.cancel(run_id).status is RunStatus.CANCELLED
    installation.kfp.join()
    assert phases(installation.last, "count") == ["failed"]
    state = installation.engine.state(run_id)
    assert statuses(state) == {"count": "cancelled", "behind": "cancelled"}
    state = installation.end(installation.engine.resume(run_id))
    assert statuses(state) == {"count": "succeeded", "behind": "succeeded"}


def test_no_step_needs_an_artifact_of_kfp(installation: Installation, locally: Any) -> None:
    """The references come from the journal: a file that KFP lost is missed by nobody."""
    plan = imaged(make_plan(
        make_step("first", "Noop"),
        make_step("second", "Noop", {"dataset": StepOutput("first", "dataset")}),
    ))  # fmt: skip
    installation.kfp.faults.append(Fault("first", "lose", artifact="dataset"))
    state = installation.submit(plan)
    lost = installation.last.task("first").outputs["dataset"]
    assert installation.kfp.objects.read(lost.uri) is None
    assert same(state, locally(plan))


def test_the_exit_step_knows_what_failed(installation: Installation) -> None:
    plan = imaged(make_plan(
        make_step("good", "Noop"),
        make_step("bad", "Raise"),
        make_step("behind", "Noop", {"dataset": StepOutput("bad", "dataset")}),
        on_exit=make_step("last", "crucible.testing.observers:DescribeRun", {"run": []}),
    ))  # fmt: skip
    state = installation.submit(plan)
    assert state.status is RunStatus.FAILED
    assert statuses(state) == {
        "good": "succeeded", "bad": "failed", "behind": "skipped", "last": "succeeded"
    }  # fmt: skip
    assert record(installation, state, "last")["statuses"] == {
        "good": "succeeded", "bad": "failed", "behind": "skipped", "last": "pending"
    }  # fmt: skip
