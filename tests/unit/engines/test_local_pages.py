"""Reports as pages in the run's folder."""

from __future__ import annotations

from pathlib import Path

from crucible.artifacts import open_store
from crucible.engines.local.run_dir import RunDir
from crucible.engines.state import RunState, RunStatus
from crucible.plan.model import PlanStep
from crucible.settings import Settings
from crucible.testing.plans import make_plan, make_step


def emit(step_id: str, html: str | None, **fields: object) -> PlanStep:
    return make_step(step_id, "Emit", config={"text": step_id, "report_html": html}, **fields)


def run_dir_of(settings: Settings, state: RunState) -> RunDir:
    return RunDir(settings.runs_dir / state.run_id)


def test_the_last_report_is_the_runs_page(run, settings: Settings) -> None:
    steps = emit("one", "<p>1"), emit("none", None, after=("one",)), emit("two", "<p>2")
    state = run(make_plan(*steps, on_exit=make_step("on_exit", "Noop")))
    run_dir = run_dir_of(settings, state)
    assert state.report == str(run_dir.report)
    assert Path(state.report).read_text() == "<p>2"
    assert [path.name for path in run_dir.reports_dir.iterdir()] == ["one.report.html"]
    assert (run_dir.reports_dir / "one.report.html").read_text() == "<p>1"


def test_a_failed_run_has_the_page_of_its_exit_step(run, settings: Settings) -> None:
    steps = make_step("bad", "Raise"), emit("below", "<p>never", after=("bad",))
    state = run(make_plan(*steps, on_exit=emit("on_exit", "<p>what happened")))
    assert state.status is RunStatus.FAILED
    assert state.report is not None
    assert Path(state.report).read_text() == "<p>what happened"
    assert not run_dir_of(settings, state).reports_dir.exists()


def test_a_page_is_a_copy(run, settings: Settings) -> None:
    state = run(make_plan(emit("one", "<p>1")))
    assert state.report is not None
    Path(state.report).write_text("edited")
    reader = open_store(settings.store_uri).reader(state.steps["one"].outputs["report"])
    assert reader.read_range("report.html", 0, 100) == b"<p>1"


def test_pages_are_those_of_the_newest_end(run, settings: Settings, tmp_path: Path) -> None:
    report = emit("report", "<p>old")
    flaky = {"state_path": str(tmp_path / "tries"), "failures": 1}
    plan = make_plan(report, make_step("flaky", "RaiseTemporary", config=flaky, after=("report",)))
    state = run(plan)
    assert (state.status, bool(state.report)) == (RunStatus.FAILED, True)
    run_dir = run_dir_of(settings, state)
    run_dir.report.unlink()
    run_dir.reports_dir.mkdir()
    (run_dir.reports_dir / "gone.report.html").write_text("of a step that ran before")
    state = run.resume(state.run_id)
    assert Path(state.report or "").read_text() == "<p>old"
    assert not run_dir.reports_dir.exists()


def test_a_report_that_is_lost_is_a_warning(run, settings: Settings) -> None:
    first = run(make_plan(emit("one", "<p>1")))
    manifest = open_store(settings.store_uri).manifest(first.steps["one"].outputs["report"])
    blob = Path(open_store(settings.store_uri).locate(manifest.files[0]))
    blob.chmod(0o644)
    blob.write_bytes(b"<p>X")
    again = run(make_plan(emit("one", "<p>1")))
    assert again.status is RunStatus.SUCCEEDED
    assert again.report is None
    (warning,) = again.warnings
    assert "one.report" in warning


def test_a_run_without_reports_has_no_page(run) -> None:
    assert run(make_plan(make_step("noop", "Noop"))).report is None
