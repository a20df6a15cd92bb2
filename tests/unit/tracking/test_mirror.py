"""What a run directory becomes in MLflow, read back through MLflow's own client."""

from __future__ import annotations

import contextlib
import json
import random
from typing import TYPE_CHECKING

import pytest

from crucible.errors import TrackingUnavailable, UserError
from crucible.settings import Settings
from crucible.tracking.mirror import Mirror
from crucible.tracking.relay import sync_run
from crucible.tracking.step_run import StepRun

if TYPE_CHECKING:
    from tests.unit.tracking.conftest import Reader, RunWriter


T0 = 1_700_000_000.0


def test_whole_run_is_a_run_with_nested_runs(run: RunWriter, mlflow: Reader) -> None:
    run.whole_run()
    run_id = sync_run(run.run_dir, run.settings)

    parent = mlflow.parent()
    assert parent.info.run_id == run_id
    assert parent.info.run_name == "r1"
    assert parent.info.status == "FINISHED"
    assert parent.info.start_time == round((T0 + 1) * 1000)
    assert parent.info.end_time == round(run.now * 1000)
    assert parent.data.params == {"samples": "20", "seed": "7"}
    assert parent.data.tags["crucible.plan_digest"] == run.plan.digest
    assert parent.data.tags["crucible.release.version"] == "1"
    assert parent.data.metrics == {"accuracy": 0.75}
    assert mlflow.client.get_experiment(parent.info.experiment_id).name == "pico"

    train = mlflow.step("train")
    assert train.info.status == "FINISHED"
    assert train.data.tags["mlflow.parentRunId"] == run_id
    assert train.data.params == {
        "optimizer.name": "adamw",
        "optimizer.lr": "0.001",
        "stages": "[1, 2]",
        "seed": "7",
        "num_parameters": "1234",
    }
    assert [(s, v) for s, v, _ in mlflow.history(train, "loss")] == [
        (i, 1.0 / (i + 1)) for i in range(5)
    ]
    assert train.data.metrics["progress/fraction"] == 0.5
    tags = train.data.tags
    assert tags["crucible.fingerprint"] == "sha256:" + "a" * 64
    assert tags["crucible.input.data"] == "sha256:" + "e" * 64
    assert tags["crucible.output.model"] == "sha256:" + "c" * 64
    assert (tags["crucible.attempt"], tags["crucible.cache_hit"]) == ("1", "false")
    assert tags["device"] == "cpu"

    judge = mlflow.step("judge")
    assert judge.data.tags["crucible.cache_hit"] == "true"
    assert judge.data.tags["crucible.reason"] == "run r0"
    assert judge.data.tags["crucible.input.model"] == "sha256:" + "c" * 64
    assert judge.data.metrics == {"metrics/accuracy": 0.75}

    link = json.loads((run.run_dir / "mlflow.json").read_text())
    assert link == {
        "run_id": run_id,
        "tracking_uri": run.settings.mlflow_tracking_uri,
        "steps": {"train": train.info.run_id, "judge": judge.info.run_id},
    }


def test_mirroring_again_changes_nothing(run: RunWriter, mlflow: Reader) -> None:
    run.whole_run()
    first = sync_run(run.run_dir, run.settings)
    before = [r.to_dictionary() for r in mlflow.runs()]
    assert sync_run(run.run_dir, run.settings) == first
    assert [r.to_dictionary() for r in mlflow.runs()] == before
    assert len(mlflow.history(mlflow.step("train"), "loss")) == 5


def test_failed_step_shows_its_cause_and_a_resumed_run_goes_on(
    run: RunWriter, mlflow: Reader
) -> None:
    failure = {"cause": "out-of-memory", "message": "killed at 2 GiB", "fix": "", "exit_code": 137}
    run.submit()
    run.log("step.started", step="train", attempt=1)
    run.step_log("train", 1, "metrics", step=0, values={"loss": 1.0})
    run.step_log("train", 1, "params", values={"batch_size": 64})
    run.log("step.ended", step="train", attempt=1, status="failed", failure=failure)
    run.log("run.ended", status="failed", message="failed: train")
    sync_run(run.run_dir, run.settings)
    train = mlflow.step("train")
    assert (train.info.status, mlflow.parent().info.status) == ("FAILED", "FAILED")
    assert train.data.tags["crucible.failure.cause"] == "out-of-memory"
    assert mlflow.parent().data.tags["crucible.message"] == "failed: train"

    run.log("run.resumed", reset=["train", "judge"], fresh=[])
    run.log("run.started", pid=2)
    run.log("step.started", step="train", attempt=2)
    run.step_log("train", 2, "metrics", step=1, values={"loss": 0.5})
    run.step_log("train", 2, "params", values={"batch_size": 32})
    sync_run(run.run_dir, run.settings)
    assert mlflow.step("train").info.status == "RUNNING"
    assert mlflow.parent().info.status == "RUNNING"

    run.log("step.ended", step="train", attempt=2, status="succeeded", outputs={})
    run.log("run.ended", status="succeeded", message="")
    sync_run(run.run_dir, run.settings)
    train = mlflow.step("train")
    assert train.info.status == "FINISHED"
    assert train.data.tags["crucible.attempt"] == "2"
    assert not [tag for tag in train.data.tags if tag.startswith("crucible.failure")]
    assert [(s, v) for s, v, _ in mlflow.history(train, "loss")] == [(0, 1.0), (1, 0.5)]
    assert train.data.params["batch_size"] == "64"
    assert train.data.params["batch_size.attempt-2"] == "32"


@pytest.mark.parametrize(
    ("status", "shown"), [("cancelled", "KILLED"), ("interrupted", "KILLED"), ("failed", "FAILED")]
)
def test_ends_of_a_run(run: RunWriter, mlflow: Reader, status: str, shown: str) -> None:
    run.submit()
    run.log("run.ended", status=status, message="")
    sync_run(run.run_dir, run.settings)
    assert mlflow.parent().info.status == shown


def test_step_that_waits_again_or_is_skipped_after_a_resume(run: RunWriter, mlflow: Reader) -> None:
    run.submit()
    run.log("step.started", step="train", attempt=1)
    run.log("run.ended", status="interrupted", message="")
    run.log("run.resumed", reset=["train"], fresh=[])
    sync_run(run.run_dir, run.settings)
    assert mlflow.step("train").info.status == "SCHEDULED"
    run.log("step.ended", step="train", attempt=1, status="skipped", reason="when is false")
    sync_run(run.run_dir, run.settings)
    train = mlflow.step("train")
    assert (train.info.status, train.data.tags["crucible.status"]) == ("FINISHED", "skipped")


def test_numbers_of_the_gate_are_sent_once_while_other_steps_go_on(
    run: RunWriter, mlflow: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.submit()
    outputs = {"metrics": run.metrics_artifact(accuracy=0.75)}
    run.log("step.ended", step="judge", attempt=1, status="cached", outputs=outputs)
    run.log("step.started", step="train", attempt=1)
    mirror = Mirror(run.run_dir, run.settings)
    mirror.read()
    mirror.write()
    calls: list[str] = []
    for name in ("log_batch", "update_run", "set_terminated", "create_run"):
        monkeypatch.setattr(
            type(mlflow.client), name, lambda *_, name=name, **__: calls.append(name)
        )
    mirror.write()
    assert calls == []
    assert mlflow.parent().data.metrics == {"accuracy": 0.75}


def test_skipped_and_waiting_steps_have_no_run(run: RunWriter, mlflow: Reader) -> None:
    run.submit()
    run.log("step.ended", step="train", attempt=0, status="skipped", reason="when is false")
    sync_run(run.run_dir, run.settings)
    assert len(mlflow.runs()) == 1


def test_lost_engine_is_shown_as_killed_until_the_run_goes_on(
    run: RunWriter, mlflow: Reader
) -> None:
    run.submit()
    run.log("step.started", step="train", attempt=1)
    mirror = Mirror(run.run_dir, run.settings)
    mirror.read()
    mirror.write(interrupted=True)
    assert mlflow.step("train").info.status == "KILLED"
    assert mlflow.parent().data.tags["crucible.status"] == "interrupted"
    run.log("run.started", pid=2)
    sync_run(run.run_dir, run.settings)
    assert mlflow.step("train").info.status == "RUNNING"
    assert mlflow.parent().info.status == "RUNNING"


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_and_taken_over_nothing_is_lost_or_doubled(
    run: RunWriter, mlflow: Reader, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that dies at a random call to MLflow, again and again, ends with the same result."""
    rng = random.Random(seed)
    run.whole_run()
    monkeypatch.setattr("crucible.tracking.step_run.MAX_METRICS_PER_BATCH", 3)
    client_class = type(mlflow.client)
    names = ("log_batch", "create_run", "update_run", "set_terminated")
    originals = {name: getattr(client_class, name) for name in names}
    budget = 0

    def dying(name: str) -> object:
        def call(self: object, *args: object, **kwargs: object) -> object:
            nonlocal budget
            budget -= 1
            if budget == 0 and rng.random() < 0.5:
                raise KeyboardInterrupt  # before MLflow has it
            result = originals[name](self, *args, **kwargs)
            if budget == 0:
                raise KeyboardInterrupt  # MLflow has it, we do not know
            return result

        return call

    for name in names:
        monkeypatch.setattr(client_class, name, dying(name))
    deaths = 0
    for budget in [*rng.sample(range(1, 9), 8), 1000]:  # noqa: B007 - read by the calls
        with contextlib.suppress(KeyboardInterrupt):
            sync_run(run.run_dir, run.settings)
            continue
        deaths += 1
    assert deaths >= 4
    assert len(mlflow.runs()) == 3
    train = mlflow.step("train")
    assert [(s, v) for s, v, _ in mlflow.history(train, "loss")] == [
        (i, 1.0 / (i + 1)) for i in range(5)
    ]
    assert len(mlflow.history(train, "lr")) == 5
    assert len(mlflow.history(train, "progress/fraction")) == 1
    assert len(mlflow.history(mlflow.step("judge"), "metrics/accuracy")) == 1
    assert mlflow.parent().info.status == "FINISHED"


def test_failed_batches_are_not_sent_twice_by_the_same_mirror(
    run: RunWriter, mlflow: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.submit()
    run.log("step.started", step="train", attempt=1)
    for step in range(10):
        run.step_log("train", 1, "metrics", step=step, values={"loss": float(step)})
    monkeypatch.setattr("crucible.tracking.step_run.MAX_METRICS_PER_BATCH", 2)
    mirror = Mirror(run.run_dir, run.settings)
    mirror.read()
    sizes: list[int] = []
    original = type(mlflow.client).log_batch

    def flaky(self: object, run_id: str, metrics: tuple[object, ...] = (), **rest: object) -> None:
        if metrics:
            sizes.append(len(metrics))
            if len(sizes) == 3:
                raise ConnectionError("gone")
        original(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(type(mlflow.client), "log_batch", flaky)
    with pytest.raises(TrackingUnavailable, match="gone"):
        mirror.write()
    mirror.write()
    assert sizes == [2] * 6  # five batches, the third of them twice
    assert len(mlflow.history(mlflow.step("train"), "loss")) == 10


def test_another_mlflow_gets_everything(
    run: RunWriter, settings: Settings, empty_database: object
) -> None:
    run.whole_run()
    sync_run(run.run_dir, run.settings)
    copy = settings.home_dir / "other.db"
    copy.write_bytes(empty_database.read_bytes())  # type: ignore[attr-defined]
    other = Settings(settings.home_dir, settings.store_uri, f"sqlite:///{copy}")
    run_id = sync_run(run.run_dir, other)
    link = json.loads((run.run_dir / "mlflow.json").read_text())
    assert link["tracking_uri"] == other.mlflow_tracking_uri
    from crucible.tracking.client import connect

    client = connect(other)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(link["steps"]["train"], "loss")) == 5


def test_lost_metrics_artifact_does_not_stop_the_rest(
    run: RunWriter, mlflow: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    run.submit()
    outputs = {"metrics": "sha256:" + "9" * 64}
    run.log("step.ended", step="judge", attempt=1, status="cached", outputs=outputs)
    run.log("run.ended", status="succeeded", message="")
    sync_run(run.run_dir, run.settings)
    assert mlflow.parent().info.status == "FINISHED"
    assert "metrics not shown in MLflow" in caplog.text


def test_large_batches(run: RunWriter, mlflow: Reader) -> None:
    run.submit()
    run.log("step.started", step="train", attempt=1)
    values = {f"series/{i}": float(i) for i in range(700)}
    for step in range(3):
        run.step_log("train", 1, "metrics", step=step, values=values)
    run.step_log("train", 1, "params", values={f"p{i}": i for i in range(250)})
    run.step_log("train", 1, "tags", values={f"t{i}": "x" for i in range(150)})
    sync_run(run.run_dir, run.settings)
    train = mlflow.step("train")
    assert len(train.data.metrics) == 700
    assert len(mlflow.history(train, "series/699")) == 3
    assert len(train.data.params) == 254
    assert train.data.tags["t149"] == "x"


def test_a_folder_that_is_no_run_is_named(settings: Settings, tmp_path: object) -> None:
    with pytest.raises(UserError, match=r"no plan\.json"):
        Mirror(settings.home_dir, settings)


def test_text_where_a_metric_belongs_is_told(
    run: RunWriter, mlflow: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    step = StepRun(mlflow.client, "none", {})
    step.take([{"type": "metrics", "time": 1.0, "step": 0, "values": {"loss": "low"}}], 1)
    assert "loss of none is no number: 'low'" in caplog.text
    step.take([{"type": "metrics"}, {"type": "tags", "values": 3}, {"type": "novel"}], 1)
    assert caplog.text.count("skipped event") == 2
