"""What a plan takes from outside: files, folders, stored artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest

from crucible.artifacts import open_store
from crucible.artifacts.tree import tree_digest
from crucible.engines.state import FailureCause, RunState, RunStatus
from crucible.plan.model import Import, Plan
from crucible.settings import Settings
from crucible.testing.plans import make_plan, make_step


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "my data"
    (folder / "sub").mkdir(parents=True)
    (folder / "records.jsonl").write_text('{"id": "0"}\n')
    (folder / "sub/other.bin").write_bytes(b"\0" * 1000)
    return folder


def import_of(path: Path) -> Import:
    return Import(path.as_uri(), tree_digest(path))


def plan_with(*sources: Import) -> Plan:
    return make_plan(
        *(make_step(f"s{n}", "Noop", {"dataset": source}) for n, source in enumerate(sources))
    )


def only_failure(state: RunState):
    assert state.status is RunStatus.FAILED
    (step,) = state.failed_steps
    assert step.failure is not None
    return step.failure


def test_a_folder_enters_the_store_as_it_is(run, record, data_dir, settings: Settings) -> None:
    state = run(plan_with(import_of(data_dir)))
    assert state.status is RunStatus.SUCCEEDED
    manifest = open_store(settings.store_uri).manifest(record(state, "s0")["input"])
    assert (manifest.type, [entry.path for entry in manifest.files]) == (
        "Dataset",
        ["records.jsonl", "sub/other.bin"],
    )


def test_an_import_is_made_once_for_all_steps(run, engine, record, data_dir, home_dir) -> None:
    state = run(plan_with(import_of(data_dir), import_of(data_dir)))
    assert record(state, "s0")["input"] == record(state, "s1")["input"]
    events = (home_dir / "runs" / state.run_id / "events.jsonl").read_text()
    assert events.count("import.done") == 1


def test_content_that_changed_since_the_plan_is_refused(run, data_dir: Path) -> None:
    source = import_of(data_dir)
    (data_dir / "records.jsonl").write_text('{"id": "1"}\n')
    failure = only_failure(run(plan_with(source)))
    assert failure.cause is FailureCause.USER_ERROR
    assert "no longer what it was when the plan was made" in failure.message


def test_a_path_that_has_gone_is_a_user_error_and_others_go_on(run, data_dir, tmp_path) -> None:
    gone = tmp_path / "gone.jsonl"
    gone.write_text("{}")
    source = import_of(gone)
    gone.unlink()
    state = run(plan_with(source, import_of(data_dir)))
    failure = only_failure(state)
    assert failure.cause is FailureCause.USER_ERROR
    assert f"{gone}: no such file or folder" in failure.message
    assert state.steps["s1"].outputs


def test_a_stored_artifact_is_named_by_digest(run, record, data_dir, settings: Settings) -> None:
    ref = open_store(settings.store_uri).put_tree(data_dir, type="Dataset")
    state = run(plan_with(Import(f"artifact:{ref.digest}", ref.digest)))
    assert record(state, "s0")["input"] == ref.digest


def test_a_stored_artifact_of_the_wrong_type_is_refused(run, data_dir, settings: Settings) -> None:
    ref = open_store(settings.store_uri).put_tree(data_dir, type="Model")
    failure = only_failure(run(plan_with(Import(f"artifact:{ref.digest}", ref.digest))))
    assert failure.cause is FailureCause.USER_ERROR
    assert "is a Model; the step wants a Dataset" in failure.message


def test_an_artifact_that_the_store_lacks_says_so(run) -> None:
    digest = f"sha256:{'0' * 64}"
    failure = only_failure(run(plan_with(Import(f"artifact:{digest}", digest))))
    assert failure.cause is FailureCause.STORE
    assert digest in failure.message


def test_an_alias_means_the_version_that_the_plan_saw(run, record, data_dir, settings) -> None:
    ref = open_store(settings.store_uri).put_tree(data_dir, type="Dataset")
    state = run(plan_with(Import("models:/data@champion", ref.digest)))
    assert record(state, "s0")["input"] == ref.digest


def test_a_failed_import_is_made_again_on_resume(run, data_dir: Path) -> None:
    source = import_of(data_dir)
    moved = data_dir.rename(data_dir.with_name("elsewhere"))
    failed = run(plan_with(source))
    moved.rename(data_dir)
    assert run.resume(failed.run_id).status is RunStatus.SUCCEEDED
