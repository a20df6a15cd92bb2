"""The search for a merge's weights at its smallest: every trial has parameters of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLATFORMCTL = Path(sys.executable).parent / "platformctl"
PIPELINE = Path(__file__).parents[2] / "pipelines/merge-search/pipeline.yaml"

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(900)]


def test_two_rounds_of_two_trials(tmp_path: Path) -> None:
    done = subprocess.run(
        [PLATFORMCTL, "submit", PIPELINE, "--preset", "smallest", "--json"],
        env={**os.environ, "CRUCIBLE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = json.loads(done.stdout)["steps"]
    trials = [steps[f"{name}[{item}]"] for name in ("merge-1", "merge-2") for item in (0, 1)]
    assert len({trial["outputs"]["model"] for trial in trials}) == 4
    assert all(steps[f"evaluate-2[{item}]"]["status"] == "succeeded" for item in (0, 1))
