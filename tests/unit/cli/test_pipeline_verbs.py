"""validate, plan, submit, schema: results, exit codes, JSON."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLATFORMCTL = Path(sys.executable).parent / "platformctl"
NOOP = "uses: 'crucible.testing.components:Noop'"
RAISE = "uses: 'crucible.testing.components:Raise'"
SLEEP = "uses: 'crucible.testing.components:Sleep', with: {seconds: 60}"


def test_validate_says_what_is_there(platformctl, pipeline) -> None:
    done = platformctl("validate", pipeline("fine", a=NOOP))
    assert (done.code, done.err) == (0, "")
    assert "fine" in done.out


def test_validate_lists_every_problem_with_its_place(platformctl, pipeline) -> None:
    path = pipeline("wrong", a="uses: no-such-component", b=f"{NOOP}, afterr: [a]")
    done = platformctl("validate", path)
    assert done.code == 2
    assert f"{path}:5:" in done.err
    assert f"{path}:6:" in done.err
    assert "after" in done.err
    assert done.out == ""


def test_validate_json_carries_the_problems(platformctl, pipeline) -> None:
    done = platformctl("validate", pipeline("wrong", a="uses: no-such"), "--json")
    assert done.code == 2
    assert done.json["exit_code"] == 2
    assert done.json["problems"][0]["line"] == 5


def test_missing_file_is_a_user_error(platformctl) -> None:
    done = platformctl("validate", "nowhere.yaml")
    assert done.code == 2
    assert "nowhere.yaml" in done.err
    assert "Traceback" not in done.err


def test_set_without_a_value_is_a_user_error(platformctl, pipeline) -> None:
    done = platformctl("validate", pipeline("fine", a=NOOP), "--set", "samples")
    assert done.code == 2
    assert "PARAM=VALUE" in done.err


def test_plan_shows_cache_and_changes(platformctl, pipeline) -> None:
    path = pipeline(
        "planned", a=NOOP, b=f"{NOOP[:-1]}', with: {{dataset: '${{steps.a.outputs.dataset}}'}}"
    )
    before = platformctl("plan", path, "--json").json
    assert [step["id"] for step in before["steps"]] == ["a", "b"]
    assert before["last_run"] is None
    assert platformctl("submit", path).code == 0
    after = platformctl("plan", path, "--json").json
    assert after["last_run"].startswith("planned-")
    assert after["changes"] == []
    assert "cached" in platformctl("plan", path).out


def test_submit_exits_with_the_outcome(platformctl, pipeline) -> None:
    assert platformctl("submit", pipeline("good", a=NOOP)).code == 0
    failed = platformctl("submit", pipeline("bad", a=RAISE), "--json")
    assert failed.code == 1
    assert failed.json["status"] == "failed"
    assert failed.json["steps"]["a"]["failure"]["cause"] == "raised"


def test_submit_without_a_terminal_prints_plain_lines(platformctl, pipeline) -> None:
    done = platformctl("submit", pipeline("good", a=NOOP))
    assert "a: succeeded" in done.out
    assert "\x1b" not in done.out


def test_detached_submit_returns_an_id_to_watch(platformctl, pipeline) -> None:
    run_id = platformctl("submit", pipeline("good", a=NOOP), "--detach").out.strip()
    assert run_id.startswith("good-")
    assert platformctl("watch", run_id).code == 0
    assert platformctl("status", run_id, "--json").json["status"] == "succeeded"


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Children start with ctrl-C enabled: a shell's background job, and its children, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_interrupt_ends_the_run_and_leaves_it_resumable(
    platformctl, pipeline, environment, tmp_path
) -> None:
    process = subprocess.Popen(
        [PLATFORMCTL, "submit", pipeline("long", a=SLEEP)],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "a: running" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume" in err
    assert platformctl("status", "last", "--json").json["status"] == "cancelled"


def test_schema_is_json_schema(platformctl, tmp_path) -> None:
    done = platformctl("schema", "--output", tmp_path / "schema.json")
    assert done.code == 0
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "steps" in schema["properties"]


def test_a_fresh_home_is_made_where_it_is_needed_only(platformctl, pipeline, environment) -> None:
    platformctl("validate", pipeline("fine", a=NOOP))
    assert not Path(environment["CRUCIBLE_HOME"]).exists()
