"""A local engine in a folder of its own, and what tests ask it again and again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts import open_store
from crucible.engines.local.engine import LocalEngine
from crucible.engines.state import RunState
from crucible.errors import CrucibleError
from crucible.plan.model import Plan
from crucible.settings import Settings


@pytest.fixture
def home_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CRUCIBLE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CRUCIBLE_TRACKING", "off")
    monkeypatch.setenv("CRUCIBLE_HOME", str(tmp_path / ".crucible"))
    return tmp_path / ".crucible"


@pytest.fixture
def settings(home_dir: Path) -> Settings:
    return Settings.load()


@pytest.fixture
def engine(settings: Settings) -> Iterator[LocalEngine]:
    engine = LocalEngine(settings)
    yield engine
    for state in engine.states():
        if not state.status.is_final:
            with contextlib.suppress(CrucibleError):
                engine.cancel(state.run_id)


class Runs:
    """Runs plans to their end."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine

    def __call__(self, plan: Plan) -> RunState:
        return self.end(self.engine.submit(plan))

    def resume(self, run_id: str, from_step: str | None = None) -> RunState:
        return self.end(self.engine.resume(run_id, from_step=from_step))

    def end(self, run_id: str) -> RunState:
        *_, state = self.engine.watch(run_id)
        return state


@pytest.fixture
def record(settings: Settings) -> Callable[[RunState, str], dict[str, Any]]:
    """Reads the only record of a step's output ``dataset``."""

    def read(state: RunState, step_id: str) -> dict[str, Any]:
        digest = state.steps[step_id].outputs["dataset"]
        with open_store(settings.store_uri).reader(digest).open("records.jsonl") as stream:
            return json.load(stream)

    return read


@pytest.fixture
def run(engine: LocalEngine) -> Runs:
    return Runs(engine)
