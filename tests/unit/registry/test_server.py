"""The same on a real MLflow server: runs, registry and model folder travel over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crucible.registry import Registry
from crucible.registry.release import release_run
from crucible.settings import Settings
from crucible.tracking.client import connect
from crucible.tracking.relay import sync_run

if TYPE_CHECKING:
    from tests.unit.registry.conftest import Workshop

START_SECONDS = 300


@pytest.fixture
def server_uri(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    # The job runner of MLflow's evaluations is a second process that imports everything again.
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environ
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < until, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(uri, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
def test_release_refusal_rollback_and_runs_on_a_server(
    workshop: Workshop, server_uri: str, tmp_path: Path
) -> None:
    settings = Settings(workshop.settings.home_dir, workshop.settings.store_uri, server_uri)
    release_run(workshop.run_dir("r1", "first", 60), settings)
    run_dir = workshop.run_dir("r2", "better", 80)
    record = release_run(run_dir, settings)
    assert (record.outcome, record.version) == ("promoted", 2)
    assert release_run(workshop.run_dir("r3", "worse", 50), settings).outcome == "refused"
    assert sync_run(run_dir, settings) == record.mlflow_run_id

    client = connect(settings)
    seen = client.get_model_version_by_alias("vlm", "champion")
    assert (seen.version, seen.tags["gate.status"]) in {("2", "pass"), (2, "pass")}
    assert seen.source.startswith("mlflow-artifacts:/")
    client.download_artifacts(str(record.mlflow_run_id), "model", str(tmp_path))
    assert (tmp_path / "model" / "artifact.json").is_file()
    experiment = client.get_experiment_by_name("pico")
    runs = client.search_runs([experiment.experiment_id])
    assert sum("mlflow.parentRunId" in run.data.tags for run in runs) == 3
    assert Registry(settings).rollback("vlm").version == 1
