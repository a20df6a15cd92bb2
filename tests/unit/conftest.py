"""What tests of several capabilities share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crucible.settings import Settings

# Read when torch is loaded. At these sizes threads cost more than they gain, most of all on a busy
# machine; steps that tests start as processes set their own number.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised MLflow database: making one takes two seconds, copying it none."""
    from crucible.tracking.client import connect

    home = tmp_path_factory.mktemp("mlflow")
    connect(Settings.load({"CRUCIBLE_HOME": str(home)}))
    return home / "mlflow.db"
