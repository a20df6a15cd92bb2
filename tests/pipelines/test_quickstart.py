"""The whole quickstart at its smallest, in a folder and on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible.testing.object_store import object_store

PLATFORMCTL = Path(sys.executable).parent / "platformctl"
PIPELINE = Path(__file__).parents[2] / "pipelines/quickstart/pipeline.yaml"
STEPS = 12

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(1800)]


class Home:
    """One installation: a home folder and the environment that names its store."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.environ = {**os.environ, "CRUCIBLE_HOME": str(folder), **environ}
        self.environ.pop("MLFLOW_TRACKING_URI", None)

    def call(self, *arguments: str) -> Any:
        """JSON that `platformctl` printed; fails with its stderr if it ended badly."""
        done = subprocess.run(
            [PLATFORMCTL, *arguments, "--json"], env=self.environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads(done.stdout)

    def submit(self, *arguments: str) -> Any:
        return self.call("submit", str(PIPELINE), "--preset", "smallest", *arguments)


@pytest.fixture(scope="module")
def in_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Any]:
    home = Home(tmp_path_factory.mktemp("quickstart-file"))
    return home, home.submit()


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Any]]:
    with object_store() as server:
        environ = {**server.environ, "CRUCIBLE_STORE": f"s3://{server.make_bucket()}/crucible"}
        home = Home(tmp_path_factory.mktemp("quickstart-s3"), **environ)
        yield home, home.submit()


def artifacts(state: Any) -> dict[str, str]:
    """Digests of what the steps wrote; the report shows times, so it is left out."""
    return {
        f"{name}.{output}": digest
        for name, step in state["steps"].items()
        if step["component"] != "report-run"
        for output, digest in step["outputs"].items()
    }


def page_of(state: Any) -> str:
    """The report that `submit` tells the user to open."""
    return Path(state["report"]).read_text()


def test_every_step_runs_and_the_model_is_promoted(in_folder: tuple[Home, Any]) -> None:
    home, state = in_folder
    assert state["status"] == "succeeded"
    assert [s["status"] for s in state["steps"].values()] == ["succeeded"] * (STEPS + 1)
    assert state["run_id"] in page_of(state)
    (version,) = home.call("models", "list")
    assert version["name"] == "quickstart-vlm"
    assert "champion" in version["aliases"]
    assert version["gate_status"] == "pass"


def test_the_second_run_comes_from_the_cache(in_folder: tuple[Home, Any]) -> None:
    home, first = in_folder
    second = home.submit()
    assert [s["status"] for s in second["steps"].values()][:STEPS] == ["cached"] * STEPS
    assert artifacts(second) == artifacts(first)
    assert len(home.call("models", "list")) == 1


def test_s3_gives_the_same_artifacts(in_folder: tuple[Home, Any], on_s3: tuple[Home, Any]) -> None:
    home, state = on_s3
    assert state["status"] == "succeeded"
    assert artifacts(state) == artifacts(in_folder[1])
    assert not (home.folder / "store").exists()
    assert state["run_id"] in page_of(state)


def test_a_worse_model_is_registered_and_refused(in_folder: tuple[Home, Any]) -> None:
    home, _ = in_folder
    refused = home.submit("--set", "grpo_steps=2", "--set", "min_accuracy=0.99")
    assert refused["status"] == "succeeded"
    newest, oldest = sorted(home.call("models", "list"), key=lambda v: -v["version"])
    assert newest["gate_status"] == "fail"
    assert "champion" not in newest["aliases"]
    assert "champion" in oldest["aliases"]
    decision = home.call("models", "show", "quickstart-vlm", str(newest["version"]))
    assert "0.99" in json.dumps(decision)
