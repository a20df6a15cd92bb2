"""The relay as a process, and its patience with an MLflow that does not answer."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crucible.errors import TrackingUnavailable
from crucible.settings import Settings
from crucible.tracking.mirror import Mirror
from crucible.tracking.relay import Relay, main

if TYPE_CHECKING:
    from tests.unit.tracking.conftest import Reader, RunWriter


def start(run: RunWriter, *options: str, settings: Settings | None = None) -> subprocess.Popen[str]:
    environ = {
        **os.environ,
        "CRUCIBLE_HOME": str(run.settings.home_dir),
        "MLFLOW_TRACKING_URI": (settings or run.settings).mlflow_tracking_uri,
    }
    command = [sys.executable, "-m", "crucible.tracking.relay", "--run-dir", str(run.run_dir)]
    return subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.1)


def test_process_follows_a_run_to_its_end(run: RunWriter, mlflow: Reader) -> None:
    run.submit()
    run.log("step.started", step="train", attempt=1)
    run.step_log("train", 1, "metrics", step=0, values={"loss": 1.0})
    relay = start(run)
    wait_for(lambda: "loss" in (mlflow.step("train").data.metrics if mlflow.runs()[1:] else {}))
    assert (run.run_dir / "mlflow.json").exists()
    run.step_log("train", 1, "metrics", step=1, values={"loss": 0.5})
    run.log("step.ended", step="train", attempt=1, status="succeeded", outputs={})
    run.log("run.ended", status="succeeded", message="")
    _, told = relay.communicate(timeout=60)
    assert relay.returncode == 0, told
    assert mlflow.parent().info.status == "FINISHED"
    assert len(mlflow.history(mlflow.step("train"), "loss")) == 2


@pytest.mark.slow
def test_killed_process_is_taken_over_and_sigterm_flushes(run: RunWriter, mlflow: Reader) -> None:
    run.submit()
    run.log("step.started", step="train", attempt=1)
    run.step_log("train", 1, "metrics", step=0, values={"loss": 1.0})
    first = start(run)
    wait_for((run.run_dir / "relay.json").exists)
    first.kill()
    first.communicate()
    run.step_log("train", 1, "metrics", step=1, values={"loss": 0.5})
    second = start(run)
    wait_for(lambda: len(mlflow.history(mlflow.step("train"), "loss")) == 2)
    run.step_log("train", 1, "metrics", step=2, values={"loss": 0.25})
    second.terminate()
    _, told = second.communicate(timeout=60)
    assert second.returncode == 0, told
    assert len(mlflow.runs()) == 2
    assert [v for _, v, _ in mlflow.history(mlflow.step("train"), "loss")] == [1.0, 0.5, 0.25]
    assert mlflow.parent().info.status == "KILLED"


def test_bad_run_dir_is_a_user_error(tmp_path: Path, settings: Settings) -> None:
    relay = subprocess.run(
        [sys.executable, "-m", "crucible.tracking.relay", "--run-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "CRUCIBLE_HOME": str(settings.home_dir)},
        check=False,
    )
    assert relay.returncode == 2
    assert "not a run directory" in relay.stderr
    assert "Traceback" not in relay.stderr


@contextmanager
def dead_server() -> Iterator[str]:
    """An HTTP server that answers every request with 503."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def test_gives_up_some_time_after_the_end_and_a_later_one_completes(
    run: RunWriter, mlflow: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run.whole_run()
    clock = Clock()
    with dead_server() as uri:
        settings = Settings(run.settings.home_dir, run.settings.store_uri, uri)
        mirror = Mirror(run.run_dir, settings)
        with pytest.raises(TrackingUnavailable, match="Gave up 20 s after the run's end"):
            Relay(mirror, 20, sleep=clock.sleep, clock=clock).run()
    assert clock.naps == [1.0, 2.0, 4.0, 8.0, 16.0]
    Relay(Mirror(run.run_dir, run.settings), 20).run()
    assert mlflow.parent().info.status == "FINISHED"
    assert len(mlflow.history(mlflow.step("train"), "loss")) == 5


def test_main_says_75_when_mlflow_stays_away(
    run: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.whole_run()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with dead_server() as uri:
        away = Settings(run.settings.home_dir, run.settings.store_uri, uri)
        relay = start(run, "--give-up-after-seconds", "0", settings=away)
        _, told = relay.communicate(timeout=60)
    assert relay.returncode == 75
    assert "Gave up" in told
    assert not (run.run_dir / "mlflow.json").exists()


def test_while_the_run_goes_on_it_waits_without_end(
    run: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run.submit()
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.naps) == 9:
            run.log("run.ended", status="failed", message="")

    with dead_server() as uri:
        settings = Settings(run.settings.home_dir, run.settings.store_uri, uri)
        with pytest.raises(TrackingUnavailable):
            Relay(Mirror(run.run_dir, settings), 0, sleep=sleep, clock=clock).run()
    assert clock.naps == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_main_takes_arguments() -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
