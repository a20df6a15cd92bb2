"""A component that runs on several nodes, without torch: for tests of what starts and follows it.

Its processes meet as those of a training do, at ``MASTER_ADDR`` and ``MASTER_PORT``, and make every
step together; when one of them is lost the others fail, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from crucible.errors import PeerLost
from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Resources,
)
from crucible.sdk.context import Context
from crucible.sdk.types import Dataset

_MEET_SECONDS = 120.0


class _Inputs(ComponentInputs):
    dataset: Dataset | None
    """Goes into the record by its digest."""


class _Outputs(ComponentOutputs):
    dataset: Dataset


class CountTogether(Component):
    """Count to ``until``, each number once on every rank, with checkpoints.

    The record has the state after the last number, a chain of digests over numbers and ranks: a
    number that a rank skipped or counted twice shows.
    """

    name = "test-count-together"
    distributed = True
    resources = Resources(cpus=0.1, memory_gib=0.1)

    Inputs = _Inputs
    Outputs = _Outputs

    class Config(ComponentConfig):
        until: Annotated[int, Field(ge=0)] = 20
        checkpoint_every: Annotated[int, Field(gt=0)] = 5
        pause_seconds: Annotated[float, Field(ge=0)] = 0.0
        """Slept after each number."""
        failing_rank: int | None = None
        """Raises at the first number, on the first attempt."""
        hungry_rank: int | None = None
        """Takes memory at the first number until the kernel or the node ends it."""
        killed_rank: int | None = None
        """Ends by SIGKILL at number ``killed_at``, on the first attempt."""
        killed_at: int = 1

    def run(self, inputs: _Inputs, config: Config, outputs: _Outputs, context: Context) -> None:
        count, state = 0, inputs.dataset.digest or "" if inputs.dataset else ""
        found = context.checkpoint.latest()
        if found is not None:
            count, state = found[0], (found[1] / "state.txt").read_text()
        resumed_at = count
        with met(context.rank, context.world_size) as team:
            while count < config.until:
                count += 1
                _misbehave(config, context, count)
                ranks = team.gather(f"{count}:{context.rank}")
                state = hashlib.sha256(f"{state}/{ranks}".encode()).hexdigest()
                time.sleep(config.pause_seconds)
                if count % config.checkpoint_every == 0:
                    with context.checkpoint.save(count) as folder:
                        (folder / "state.txt").write_text(state)
                context.progress.update(count, config.until, unit="numbers")
            team.gather("end")
        if context.is_main:
            record = {"id": "0", "count": count, "state": state, "ranks": context.world_size,
                      "resumed_at": resumed_at}  # fmt: skip
            outputs.dataset.new_file("records.jsonl").write_text(json.dumps(record) + "\n")


def expected_state(until: int, ranks: int) -> str:
    """What an undisturbed run without input ends with."""
    state = ""
    for count in range(1, until + 1):
        told = ",".join(f"{count}:{rank}" for rank in range(ranks))
        state = hashlib.sha256(f"{state}/{told}".encode()).hexdigest()
    return state


def _misbehave(config: CountTogether.Config, context: Context, count: int) -> None:
    if count == 1 and config.failing_rank == context.rank:
        raise ValueError("on purpose")
    if count == 1 and config.hungry_rank == context.rank:
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 20)) * 16)
    if context.attempt == 1 and (config.killed_rank, config.killed_at) == (context.rank, count):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Team:
    """Sockets to the other ranks: of rank 0 to each, of the others to rank 0."""

    rank: int
    sockets: list[socket.socket] = field(default_factory=list)

    def gather(self, word: str) -> str:
        """The words of all ranks in their order, on every rank.

        Raises:
            PeerLost: another rank is gone.
        """
        try:
            if self.rank:
                _send(self.sockets[0], word)
                return _receive(self.sockets[0])
            words = ",".join([word, *(_receive(each) for each in self.sockets)])
            for each in self.sockets:
                _send(each, words)
            return words
        except OSError as error:
            raise PeerLost(f"rank {self.rank} lost another: {error}") from error


@contextmanager
def met(rank: int, world_size: int) -> Iterator[Team]:
    """All ranks, once they have met.

    Raises:
        PeerLost: not all came.
    """
    with ExitStack() as stack:
        try:
            sockets = _meet(stack, rank, world_size) if world_size > 1 else []
        except OSError as error:
            raise PeerLost(f"rank {rank} does not meet the others: {error}") from error
        yield Team(rank, [stack.enter_context(each) for each in sockets])


def _meet(stack: ExitStack, rank: int, world_size: int) -> list[socket.socket]:
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank:
        mine = _connect(address)
        _send(mine, str(rank))
        return [mine]
    listener = stack.enter_context(socket.create_server(("", address[1]), reuse_port=True))
    listener.settimeout(_MEET_SECONDS)
    by_rank: dict[int, socket.socket] = {}
    while len(by_rank) < world_size - 1:
        peer, _ = listener.accept()
        by_rank[int(_receive(peer))] = peer
    return [by_rank[each] for each in sorted(by_rank)]


def _connect(address: tuple[str, int]) -> socket.socket:
    deadline = time.monotonic() + _MEET_SECONDS
    while True:
        try:
            connection = socket.create_connection(address, timeout=_MEET_SECONDS)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            connection.settimeout(None)
            return connection


def _send(peer: socket.socket, word: str) -> None:
    peer.sendall(f"{word}\n".encode())


def _receive(peer: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n"):
        piece = peer.recv(1)
        if not piece:
            raise ConnectionResetError("closed by the other side")
        data += piece
    return data[:-1].decode()
