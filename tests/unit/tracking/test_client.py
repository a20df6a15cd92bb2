"""Connecting: first use by many processes at once, errors with a type, no telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crucible.errors import RegistryError, TrackingError, TrackingUnavailable, UserError
from crucible.settings import Settings
from crucible.tracking import check_server
from crucible.tracking.client import connect, ensure_experiment, mlflow_errors, without_password

FIRST_USE = """
import sys
from crucible.settings import Settings
from crucible.tracking.client import connect, ensure_experiment
settings = Settings.load()
sys.stdin.readline()
print(ensure_experiment(connect(settings), settings, "shared"))
"""


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_new_database(tmp_path: Path) -> None:
    environ = {**os.environ, "CRUCIBLE_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_USE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({out for out, _ in results}) == 1


def test_experiment_is_made_once_and_its_artifacts_stay_at_home(settings: Settings) -> None:
    client = connect(settings)
    made = ensure_experiment(client, settings, "fusion")
    assert ensure_experiment(client, settings, "fusion") == made
    location = client.get_experiment(made).artifact_location
    assert location == settings.mlflow_artifacts_dir.as_uri()


def test_deleted_experiment_is_a_clear_error(settings: Settings) -> None:
    client = connect(settings)
    client.delete_experiment(ensure_experiment(client, settings, "fusion"))
    with pytest.raises(UserError, match="'fusion' is deleted"):
        ensure_experiment(client, settings, "fusion")


def test_server_that_is_not_there_is_temporary(tmp_path: Path) -> None:
    settings = Settings(tmp_path, "file:///s", "http://user:secret@127.0.0.1:9")
    with pytest.raises(TrackingUnavailable, match="MLFLOW_TRACKING_URI") as raised:
        check_server(settings)
    assert raised.value.exit_code == 75
    assert "secret" not in str(raised.value)


def test_unknown_kind_of_uri_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        check_server(Settings(tmp_path, "file:///s", "gopher://mlflow"))


def test_reachable_server_passes(settings: Settings) -> None:
    check_server(settings)


def test_refusals_and_outages_are_told_apart(settings: Settings) -> None:
    client = connect(settings)
    with pytest.raises(TrackingError, match="get run"), mlflow_errors("get run"):
        client.get_run("0" * 32)
    with pytest.raises(RegistryError), mlflow_errors("get run", RegistryError):
        client.get_run("0" * 32)
    with pytest.raises(TrackingUnavailable, match="TimeoutError"), mlflow_errors("x"):
        raise TimeoutError
    with pytest.raises(UserError), mlflow_errors("x"):
        raise UserError("typed already")


def test_password_is_hidden() -> None:
    assert without_password("https://me:pw@host:5000/x") == "https://me:***@host:5000/x"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_control_plane_modules_load_without_mlflow() -> None:
    code = (
        "import sys, crucible.tracking, crucible.tracking.relay, crucible.registry;"
        "heavy = {'mlflow', 'numpy', 'pandas', 'torch', 'sqlalchemy', 'minio'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
