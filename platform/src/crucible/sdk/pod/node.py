"""``python -m crucible.sdk.pod.node COMPONENT``: one node of a step that runs on several.

Starts one rank a process that the node shall have, keeps its log in the store, and says on the
board how they ended. What torchrun does more (elastic membership, restarts of single processes) is
not used here: a lost rank ends the job, and the step's next attempt goes on from its checkpoint. So
no torch is needed to start a step, and components without it may be distributed too.

The variables are those that Kubeflow Trainer sets for torchrun: ``PET_NNODES``, ``PET_NODE_RANK``,
``PET_NPROC_PER_NODE``, ``PET_MASTER_ADDR`` and ``PET_MASTER_PORT``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import BinaryIO

from crucible import logs
from crucible.artifacts.files import write_atomically
from crucible.artifacts.store import Store, open_store
from crucible.errors import EXIT_DONE, CrucibleError, UserError
from crucible.sdk import kernel
from crucible.sdk.executor import ExecutorInput
from crucible.sdk.failure import (
    FILE_NAME,
    FailureRecord,
    failure_of,
    failure_of_exit,
    read_failure,
)
from crucible.sdk.pod.board import PREFIX_VARIABLE, Board, RankFailure
from crucible.sdk.pod.child import end_children, start_child
from crucible.sdk.pod.reporter import reporting_to
from crucible.sdk.process import Terminated, ignore_signals, unwinding_on_signals
from crucible.sdk.store_checkpoint import STORE_CHECKPOINTS
from crucible.settings import Settings

logger = logging.getLogger(__name__)

_RANK_MODULE = "crucible.sdk.pod.rank"
_LOOK_SECONDS = 0.2
_PEERS_PATIENCE_SECONDS = 30.0
"""How long the other ranks may take to notice that one has failed, and say so."""


@dataclass(frozen=True)
class NodePlace:
    """Which node this is, and where all ranks meet."""

    node: int
    num_nodes: int
    num_processes: int
    """Of this node, and of every other."""
    master_address: str
    master_port: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> NodePlace:
        """Read the variables of Kubeflow Trainer.

        Raises:
            UserError: one is missing or no number.
        """
        try:
            return cls(
                node=int(environ["PET_NODE_RANK"]),
                num_nodes=int(environ["PET_NNODES"]),
                num_processes=int(environ["PET_NPROC_PER_NODE"]),
                master_address=environ["PET_MASTER_ADDR"],
                master_port=int(environ["PET_MASTER_PORT"]),
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{type(error).__name__}: {error}. A node needs PET_NODE_RANK, PET_NNODES, "
                "PET_NPROC_PER_NODE, PET_MASTER_ADDR and PET_MASTER_PORT, as Trainer sets them."
            ) from error

    def variables(self, local_rank: int) -> dict[str, str]:
        """As torchrun sets them for a process."""
        return {
            "RANK": str(self.rank(local_rank)),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.num_nodes * self.num_processes),
            "LOCAL_WORLD_SIZE": str(self.num_processes),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }

    def rank(self, local_rank: int) -> int:
        return self.node * self.num_processes + local_rank


def main(argv: Sequence[str] | None = None) -> int:
    """Run this node's ranks; returns 0, or the exit code of the first that failed."""
    parser = argparse.ArgumentParser(prog="python -m crucible.sdk.pod.node", description=__doc__)
    parser.add_argument("component", help="catalogue name or package.module:Class")
    arguments = parser.parse_args(argv)
    logs.configure(form="json" if os.environ.get("CRUCIBLE_LOG_FORMAT") == "json" else "text")
    parent = os.environ.get("CRUCIBLE_SCRATCH")
    with (
        tempfile.TemporaryDirectory(
            prefix="node-", dir=parent, ignore_cleanup_errors=True
        ) as folder,
        unwinding_on_signals(),
    ):
        try:
            place = NodePlace.from_environ(os.environ)
            store = open_store(os.environ.get("CRUCIBLE_STORE") or Settings.load().store_uri)
            board = Board(store.backend, os.environ.get(PREFIX_VARIABLE, ""))
            node = _Node(arguments.component, place, board, store, Path(folder))
            return node.run()
        except (CrucibleError, OSError, Terminated) as error:
            ignore_signals()
            failure = failure_of(error)
            logger.error("%s: %s %s", failure.cause, failure.message, failure.fix)
            return failure.exit_code


@dataclass
class _Rank:
    """One process of this node."""

    local_rank: int
    folder: Path
    process: subprocess.Popen[bytes]
    pump: Thread


@dataclass
class _Node:
    """This node's part of the step."""

    component: str
    place: NodePlace
    board: Board
    store: Store
    folder: Path

    def run(self) -> int:
        log, events = self.folder / "log.txt", self.folder / "events.jsonl"
        number = self.place.node
        request = self.board.read_request(self.folder)
        before = kernel.container_oom_kills()
        with reporting_to(
            self.store.backend,
            {self.board.log_prefix(number): log, self.board.events_prefix(number): events},
        ):
            ranks = self._run_ranks(request, log, events)
        oom_kills = (kernel.container_oom_kills() or 0) - (before or 0)
        failures = [self._failure(rank, oom_kills) for rank in ranks if rank.process.returncode]
        if failures:
            self.board.write_failures(number, failures)
            return _exit_code(failures[0].record)
        if number == 0:
            self.board.write_output(ranks[0].folder / "executor_output.json")
        return EXIT_DONE

    def _run_ranks(self, request: ExecutorInput, log: Path, events: Path) -> list[_Rank]:
        with log.open("ab") as stream:
            ranks = [self._start(request, n, events, stream) for n in self._local_ranks()]
            with contextlib.suppress(Terminated):  # the ranks have ended, and have said why
                self._wait(ranks)
            for rank in ranks:
                rank.pump.join(timeout=5.0)
        return sorted(ranks, key=lambda rank: _time_of_end(rank.folder))

    def _local_ranks(self) -> range:
        return range(self.place.num_processes)

    def _start(self, request: ExecutorInput, local_rank: int, events: Path, log: BinaryIO) -> _Rank:
        folder = self.folder / str(local_rank)
        folder.mkdir()
        step = replace(request.step, cpus=request.step.cpus / self.place.num_processes)
        outputs = {
            name: replace(output, uri=(folder / "outputs" / name).as_uri())
            for name, output in request.outputs.items()
        }
        output_file = folder / "executor_output.json"
        own = replace(request, step=step, outputs=outputs, output_file=output_file)
        written = folder / "executor_input.json"
        write_atomically(written, json.dumps(own.to_json()).encode(), durable=False)
        environ = {
            "PYTHONHASHSEED": "0",
            **os.environ,
            **self.place.variables(local_rank),
            "CRUCIBLE_EVENTS": str(events),
            "CRUCIBLE_CHECKPOINTS": STORE_CHECKPOINTS,
            "CRUCIBLE_SCRATCH": str(folder / "scratch"),
        }
        argv = (self.component, "--executor-input", f"@{written}")
        return _Rank(local_rank, folder, *start_child(_RANK_MODULE, argv, environ=environ, log=log))

    def _wait(self, ranks: list[_Rank]) -> None:
        """Return when all have ended; after one has failed the others have a while to do so."""
        deadline: float | None = None
        processes = [rank.process for rank in ranks]
        try:
            while any(process.poll() is None for process in processes):
                if deadline is None and any(process.returncode for process in processes):
                    deadline = time.monotonic() + _PEERS_PATIENCE_SECONDS
                if deadline is not None and time.monotonic() > deadline:
                    end_children([each for each in processes if each.poll() is None])
                time.sleep(_LOOK_SECONDS)
        except Terminated:
            end_children([each for each in processes if each.poll() is None])
            raise

    def _failure(self, rank: _Rank, oom_kills: int) -> RankFailure:
        code = rank.process.returncode
        record = failure_of_exit(code, read_failure(rank.folder / FILE_NAME))
        if code == -signal.SIGKILL and oom_kills > 0:
            record = FailureRecord(
                "out-of-memory",
                "killed for lack of memory",
                "Raise the step's resources.memory_gib, or make its batches smaller; then resume.",
                137,
            )
        at = _time_of_end(rank.folder)
        return RankFailure(self.place.rank(rank.local_rank), self.place.node, at, record)


def _time_of_end(folder: Path) -> float:
    """When a rank said why it ended; now for one that could not."""
    try:
        return (folder / FILE_NAME).stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _exit_code(failure: FailureRecord) -> int:
    """A signal's number as shells report it."""
    return failure.exit_code if failure.exit_code > 0 else 128 - failure.exit_code or 1


if __name__ == "__main__":
    sys.exit(main())
