"""runs, status, logs, why, cancel, retry, resume."""

from __future__ import annotations

from pathlib import Path

import pytest

NOOP = "uses: 'crucible.testing.components:Noop'"
RAISE = "uses: 'crucible.testing.components:Raise'"
SLEEP = "uses: 'crucible.testing.components:Sleep', with: {seconds: 60}"


def test_runs_are_listed_newest_first(platformctl, pipeline) -> None:
    assert "submit" in platformctl("runs").out
    platformctl("submit", pipeline("first", a=NOOP))
    platformctl("submit", pipeline("second", a=NOOP))
    found = platformctl("runs", "--json").json
    assert [run["pipeline"] for run in found] == ["second", "first"]
    assert len(platformctl("runs", "--limit", "1", "--json").json) == 1


@pytest.mark.parametrize("verb", ["status", "watch", "logs", "why", "retry", "resume", "cancel"])
def test_unknown_run_is_a_user_error(platformctl, verb) -> None:
    done = platformctl(verb, "no-such-run")
    assert done.code == 2
    assert "no-such-run" in done.err


def test_last_without_runs_says_how_to_start_one(platformctl) -> None:
    done = platformctl("status")
    assert done.code == 2
    assert "platformctl submit" in done.err


def test_why_names_step_cause_log_and_fix(platformctl, pipeline) -> None:
    platformctl("submit", pipeline("bad", a=RAISE))
    text = platformctl("why").out
    for part in ("step    a", "cause   raised", "on purpose", "fix", "platformctl resume bad-"):
        assert part in text
    step = platformctl("why", "--json").json["steps"][0]
    assert step["exit_code"] == 1
    assert any("on purpose" in line for line in step["log_tail"])


def test_logs_of_one_step_and_of_all(platformctl, pipeline) -> None:
    platformctl("submit", pipeline("good", a=NOOP, b=NOOP))
    assert "step a of run" in platformctl("logs", "last", "a").out
    both = platformctl("logs", "last").out
    assert "[a] " in both
    assert "[b] " in both
    assert platformctl("logs", "last", "nope").code == 2


def test_cancel_then_resume(platformctl, pipeline) -> None:
    path = pipeline("long", a=NOOP, b=SLEEP)
    run_id = platformctl("submit", path, "--detach").out.strip()
    cancelled = platformctl("cancel", run_id, "--json")
    assert cancelled.json["status"] == "cancelled"
    assert platformctl("resume", run_id, "--detach").out.strip() == run_id
    assert platformctl("status", run_id, "--json").json["status"] in ("pending", "running")
    assert platformctl("cancel", run_id).code == 0


def test_retry_runs_the_failed_step_again(platformctl, pipeline) -> None:
    platformctl("submit", pipeline("bad", a=NOOP, b=RAISE))
    again = platformctl("retry", "last", "--json")
    assert again.code == 1
    assert again.json["steps"]["b"]["attempt"] == 2
    assert again.json["steps"]["a"]["attempt"] <= 1


def test_resume_from_an_unknown_step(platformctl, pipeline) -> None:
    platformctl("submit", pipeline("good", a=NOOP))
    done = platformctl("resume", "last", "--from", "b")
    assert done.code == 2
    assert "b" in done.err


def test_status_names_the_page_to_open(platformctl, pipeline, environment) -> None:
    emit = "uses: 'crucible.testing.components:Emit', with: {report_html: <p>done}"
    done = platformctl("submit", pipeline("reporting", a=emit))
    (said,) = [line for line in done.out.splitlines() if line.startswith("report: ")]
    page = Path(said.removeprefix("report: "))
    assert page.read_text() == "<p>done"
    assert page.parent.parent == Path(environment["CRUCIBLE_HOME"]) / "runs"
    assert said in platformctl("status", "last").out
