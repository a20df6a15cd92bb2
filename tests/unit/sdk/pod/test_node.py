"""Nodes of one step as processes here: two of them, or one with two ranks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts import Store, open_store
from crucible.artifacts.manifest import ArtifactRef
from crucible.errors import UserError
from crucible.journal import Journal, LineReader, StreamReader
from crucible.sdk.executor import StepParameters, build_executor_input
from crucible.sdk.failure import PEER_LOST
from crucible.sdk.pod.board import Board
from crucible.sdk.pod.node import NodePlace
from crucible.sdk.ranks import Ranks
from crucible.sdk.types import ArtifactType
from crucible.testing.distributed import expected_state

COMPONENT = "crucible.testing.distributed:CountTogether"


class Launched:
    """What a launcher has put up, and the nodes that are started for it."""

    def __init__(self, folder: Path, store: Store, attempt: int = 1, **config: Any) -> None:
        self.store = store
        self.folder = folder / str(attempt)
        self.board = Board(
            store.backend, Journal(store.backend, "r").attempt("count", attempt).prefix
        )
        self.request = build_executor_input(
            step=StepParameters("r", "count", "sha256:" + "1" * 64, attempt=attempt, cpus=1.0),
            config=config,
            inputs={},
            outputs={"dataset": ArtifactType("Dataset", "any")},
            attempt_dir=self.folder,
        )
        self.board.write_request(self.request)
        self.port = _free_port()

    def node(self, number: int, *, nodes: int = 2, processes: int = 1) -> subprocess.Popen[str]:
        scratch = self.folder / f"scratch-{number}"
        scratch.mkdir(parents=True)
        variables = {
            "CRUCIBLE_BOARD": self.board.attempt_prefix,
            "CRUCIBLE_STORE": self.store.uri,
            "CRUCIBLE_SCRATCH": str(scratch),
            "PET_NNODES": str(nodes),
            "PET_NODE_RANK": str(number),
            "PET_NPROC_PER_NODE": str(processes),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(self.port),
        }
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "crucible.sdk.pod.node", COMPONENT],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def record(self) -> dict[str, Any]:
        """The record that the step wrote, by the reference that the board gives."""
        written = self.board.read_output(self.request)
        assert written is not None
        ref = ArtifactRef.read(written["dataset"].path)
        with self.store.reader(ref).open("records.jsonl") as lines:
            found: dict[str, Any] = json.loads(lines.read())
        return found

    def log(self, node: int) -> str:
        reader = LineReader(StreamReader(self.store.backend, self.board.log_prefix(node)))
        return "\n".join(reader.read(final=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _ended(*nodes: subprocess.Popen[str]) -> list[int]:
    output = [node.communicate(timeout=60)[0] for node in nodes]
    sys.stdout.write("\n".join(output))
    return [node.returncode for node in nodes]


def test_two_nodes_with_two_ranks_each_share_the_work(tmp_path: Path, store: Store) -> None:
    step = Launched(tmp_path, store, until=7)
    assert _ended(*(step.node(number, processes=2) for number in range(2))) == [0, 0]
    record = step.record()
    assert (record["count"], record["ranks"]) == (7, 4)
    assert record["state"] == expected_state(7, 4)
    assert step.board.read_failures(2) == []
    assert "step count of run r" in step.log(0)
    events = LineReader(StreamReader(store.backend, step.board.events_prefix(0))).read()
    assert json.loads(events[-1])["done"] == 7
    assert LineReader(StreamReader(store.backend, step.board.events_prefix(1))).read() == []


def test_a_rank_that_fails_is_told_from_those_that_fail_after_it(
    tmp_path: Path, store: Store
) -> None:
    step = Launched(tmp_path, store, failing_rank=1)
    assert _ended(step.node(0), step.node(1)) == [75, 1]
    found = {each.rank: each.record for each in step.board.read_failures(2)}
    assert found[1].cause == "raised"
    assert "ValueError: on purpose" in found[1].message
    assert found[0].cause == PEER_LOST
    assert step.board.read_output(step.request) is None
    assert "ValueError: on purpose" in step.log(1)


def test_a_killed_rank_and_the_attempt_after_it(tmp_path: Path, store: Store) -> None:
    settings = {"until": 12, "checkpoint_every": 5, "killed_rank": 1, "killed_at": 8}
    first = Launched(tmp_path, store, **settings)
    assert _ended(first.node(0), first.node(1)) == [75, 137]
    found = {each.rank: each.record for each in first.board.read_failures(2)}
    assert (found[1].cause, found[1].message) == ("killed", "ended by SIGKILL")
    second = Launched(tmp_path, store, attempt=2, **settings)
    assert _ended(second.node(0), second.node(1)) == [0, 0]
    record = second.record()
    assert record["resumed_at"] == 5
    assert record["state"] == expected_state(12, 2)


def test_a_node_that_is_asked_to_end_says_so(tmp_path: Path, store: Store) -> None:
    step = Launched(tmp_path, store, until=10_000, pause_seconds=0.01)
    nodes = [step.node(0), step.node(1)]
    events = LineReader(StreamReader(store.backend, step.board.events_prefix(0)))
    deadline = time.monotonic() + 60
    while not events.read():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    nodes[1].send_signal(signal.SIGTERM)
    assert _ended(*nodes) == [75, 143]
    found = {each.rank: each.record for each in step.board.read_failures(2)}
    assert found[1].cause == "killed"
    assert found[0].cause == PEER_LOST


def test_the_cache_is_for_the_launcher(tmp_path: Path, store: Store) -> None:
    step = Launched(tmp_path, store)
    assert step.request.step.cache
    assert not step.board.read_request(tmp_path).step.cache
    empty = replace(step.board, attempt_prefix="journal/none/")
    with pytest.raises(UserError, match=r"journal/none/nodes/request\.json is not there"):
        empty.read_request(tmp_path)


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({"RANK": "0"}, "WORLD_SIZE=''"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK='2'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
    ],
)
def test_a_rank_without_a_place_is_refused(variables: dict[str, str], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        Ranks.from_environ(variables)


def test_a_node_needs_trainers_variables() -> None:
    with pytest.raises(UserError, match="A node needs PET_NODE_RANK"):
        NodePlace.from_environ({"PET_NNODES": "2"})
