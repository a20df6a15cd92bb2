"""The end of a run: decision, version, aliases and record, in every order of events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crucible.errors import UserError
from crucible.plan.model import StepOutput
from crucible.registry import Registry
from crucible.registry.release import main, release_run
from crucible.tracking.client import connect
from crucible.tracking.relay import sync_run

if TYPE_CHECKING:
    from tests.unit.registry.conftest import Workshop


def test_first_release_is_promoted_and_linked(workshop: Workshop) -> None:
    run_dir = workshop.run_dir("r1", "first", 60)
    record = release_run(run_dir, workshop.settings)
    assert json.loads((run_dir / "release.json").read_text()) == asdict(record)
    assert (record.outcome, record.alias_moved) == ("promoted", True)
    assert (record.champion_before, record.champion) == (None, 1)
    assert record.summary == "vlm version 1 is champion now: accuracy 0.6, no paired comparison"

    seen = connect(workshop.settings).get_model_version_by_alias("vlm", "champion")
    link = json.loads((run_dir / "mlflow.json").read_text())
    assert seen.run_id == link["run_id"] == record.mlflow_run_id
    assert seen.tags["crucible.run_id"] == "r1"
    assert seen.tags["artifact.digest"] == workshop.model_digests["first"]
    assert json.loads(seen.tags["data.digests"]) == {
        "data.train": "sha256:" + "5" * 64,
        "file:///held-out": "sha256:" + "6" * 64,
    }
    assert sync_run(run_dir, workshop.settings) == link["run_id"]


def test_better_worse_and_same_model(workshop: Workshop) -> None:
    settings = workshop.settings
    release_run(workshop.run_dir("r1", "first", 60), settings)

    better = release_run(workshop.run_dir("r2", "better", 80), settings)
    assert (better.outcome, better.champion_before, better.champion) == ("promoted", 1, 2)

    worse = release_run(workshop.run_dir("r3", "worse", 50), settings)
    assert (worse.outcome, worse.version, worse.champion) == ("refused", 3, 2)
    assert "-0.3000" in worse.summary
    assert worse.decision is not None
    assert worse.decision["comparison"]["num_champion_only"] == 30

    again = release_run(workshop.run_dir("r4", "better", 80), settings)
    assert (again.outcome, again.version, again.alias_moved) == ("unchanged", 2, False)
    assert again.decision == better.decision

    worse_again = release_run(workshop.run_dir("r5", "worse", 50), settings)
    assert (worse_again.outcome, worse_again.version) == ("refused", 3)
    assert worse_again.decision == worse.decision
    assert len(Registry(settings).versions("vlm")) == 3


def test_the_same_run_again_gives_the_same_record(workshop: Workshop) -> None:
    release_run(workshop.run_dir("r1", "first", 60), workshop.settings)
    run_dir = workshop.run_dir("r2", "better", 80)
    first = release_run(run_dir, workshop.settings)
    (run_dir / "release.json").unlink()
    assert release_run(run_dir, workshop.settings) == first


@pytest.mark.parametrize("call", range(1, 9))
def test_interrupted_at_any_write_and_done_again(
    workshop: Workshop, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = workshop.settings
    release_run(workshop.run_dir("r1", "first", 60), settings)
    run_dir = workshop.run_dir("r2", "better", 80)
    client_class = type(connect(settings))
    names = (
        "create_run",
        "log_artifacts",
        "create_model_version",
        "set_registered_model_alias",
        "set_model_version_tag",
    )
    calls = 0

    def dying(original: object) -> object:
        def write(self: object, *args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)  # type: ignore[operator]

        return write

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(client_class, name, dying(getattr(client_class, name)))
        try:
            release_run(run_dir, settings)
        except KeyboardInterrupt:
            assert not (run_dir / "release.json").exists()
    record = release_run(run_dir, settings)
    assert (record.outcome, record.version, record.champion_before) == ("promoted", 2, 1)
    found = {a: int(n) for a, n in connect(settings).get_registered_model("vlm").aliases.items()}
    assert found == {"candidate": 2, "champion": 2, "previous": 1}
    assert len(Registry(settings).versions("vlm")) == 2


def test_rolled_back_model_is_not_promoted_by_a_cached_run(workshop: Workshop) -> None:
    settings = workshop.settings
    release_run(workshop.run_dir("r1", "first", 60), settings)
    release_run(workshop.run_dir("r2", "better", 80), settings)
    registry = Registry(settings)
    registry.rollback("vlm")
    record = release_run(workshop.run_dir("r3", "better", 80), settings)
    assert (record.outcome, record.champion) == ("rolled-back", 1)
    assert registry.promote("vlm", 2).aliases == ("candidate", "champion")


def test_champion_that_moves_while_deciding_is_decided_against_anew(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = workshop.settings
    release_run(workshop.run_dir("r1", "first", 40), settings)
    other = workshop.run_dir("r2", "best", 90)
    run_dir = workshop.run_dir("r3", "middling", 60)
    promote = Registry.promote
    raced = False

    def racing(self: Registry, *args: object, **kwargs: object) -> object:
        nonlocal raced
        if not raced:
            raced = True
            release_run(other, settings)
        return promote(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Registry, "promote", racing)
    record = release_run(run_dir, settings)
    assert record.outcome == "refused"
    assert record.champion_before == record.champion
    assert "-0.3000" in record.summary


def test_thresholds_refuse_the_first_model_too(workshop: Workshop) -> None:
    record = release_run(workshop.run_dir("r1", "first", 60, thresholds=0.7), workshop.settings)
    assert (record.outcome, record.champion) == ("refused", None)
    assert "accuracy: 0.6 is below the minimum 0.7" in record.summary


def test_gate_without_predictions_and_strict_rule(workshop: Workshop) -> None:
    settings = workshop.settings
    release_run(workshop.run_dir("r1", "first", 60), settings)
    record = release_run(workshop.run_dir("r2", "loose", 40, predictions=None), settings)
    assert record.outcome == "promoted"
    strict = workshop.run_dir("r3", "strict", 60, rule="non-inferior")
    record = release_run(strict, settings)
    assert record.outcome == "refused"
    assert "the champion left no predictions" in record.summary


def test_missing_outputs_are_all_named(workshop: Workshop) -> None:
    run_dir = workshop.run_dir(
        "r1", "first", 60, metrics=StepOutput("judge", "lost"), predictions=StepOutput("no", "way")
    )
    with pytest.raises(UserError, match=r"judge\.lost, no\.way"):
        release_run(run_dir, workshop.settings)


def test_policy_problems_are_the_users(workshop: Workshop) -> None:
    run_dir = workshop.run_dir("r1", "first", 60, confidence=1.5, max_regression=-1.0)
    with pytest.raises(UserError, match=r"release\.gate: max_regression: .*; confidence: "):
        release_run(run_dir, workshop.settings)


def test_unreachable_mlflow_is_temporary(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = workshop.run_dir("r1", "first", 60)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("CRUCIBLE_HOME", str(workshop.settings.home_dir))
    assert main(["--run-dir", str(run_dir)]) == 75
    assert not (run_dir / "release.json").exists()


def test_process_refuses_with_exit_code_0_and_reports_bad_input_with_2(
    workshop: Workshop, tmp_path: Path
) -> None:
    run_dir = workshop.run_dir("r1", "first", 10)
    environ = {**os.environ, "CRUCIBLE_HOME": str(workshop.settings.home_dir)}
    command = [sys.executable, "-m", "crucible.registry.release", "--run-dir"]
    done = subprocess.run(
        [*command, str(run_dir)], capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy: 0.1 is below the minimum 0.2" in done.stderr
    assert json.loads((run_dir / "release.json").read_text())["outcome"] == "refused"
    assert main(["--run-dir", str(tmp_path / "nothing")]) == 2
