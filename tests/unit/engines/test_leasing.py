"""Leases of a run: taken now and then, given up after success."""

from __future__ import annotations

from pathlib import Path

import pytest

from crucible.artifacts import open_store
from crucible.artifacts.store import Store
from crucible.artifacts.sweep import gc
from crucible.engines.events import EventLog, History
from crucible.engines.local.leasing import Leasing
from crucible.engines.local.machine import Machine
from crucible.engines.local.pool import ProcessPool
from crucible.engines.local.run import Run
from crucible.engines.local.run_dir import RunDir
from crucible.engines.local.step_server import fork_step_server
from crucible.engines.state import StepStatus
from crucible.errors import ArtifactNotFound
from crucible.settings import Settings
from crucible.testing.plans import noop_chain


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store_uri)


@pytest.fixture
def under_way(settings: Settings, tmp_path: Path):
    """A run of two steps that nothing works on."""
    machine = Machine(1.0, 1.0)
    server = fork_step_server(tmp_path / "processes.lock")
    plan = noop_chain(2)
    log = EventLog(tmp_path / "events.jsonl")
    pool = ProcessPool(server, machine)
    yield Run(RunDir(tmp_path / "r1"), plan, settings, machine, log, History.of(plan), pool)
    log.close()
    server.stop()


def survives_collection(store: Store, digest: str) -> bool:
    gc(store, grace_seconds=0.0, roots=set())
    try:
        store.manifest(digest)
    except ArtifactNotFound:
        return False
    return True


def test_outputs_are_leased_when_it_is_time_and_given_up(under_way: Run, store: Store) -> None:
    path = under_way.run_dir.path.with_name("records.jsonl")
    path.write_text("{}\n")
    digest = store.put_tree(path, type="Dataset").digest
    under_way.end_step("step0", StepStatus.SUCCEEDED, outputs={"dataset": digest})
    leasing = Leasing(under_way)
    leasing._next_at = 0.0
    leasing.advance()
    assert leasing.wake_at() > 0.0
    assert survives_collection(store, digest)
    leasing.release()
    assert not survives_collection(store, digest)


def test_what_cannot_be_leased_is_a_warning(under_way: Run) -> None:
    digest = f"sha256:{'0' * 64}"
    under_way.end_step("step0", StepStatus.SUCCEEDED, outputs={"dataset": digest})
    leasing = Leasing(under_way)
    leasing._next_at = 0.0
    leasing.advance()
    (warning,) = under_way.history.state.warnings
    assert "not protected from garbage collection" in warning
    assert digest in warning
