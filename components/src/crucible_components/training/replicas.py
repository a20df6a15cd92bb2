"""Data-parallel training: the processes that train one model together, and what they exchange.

Every rank has the whole data set and the whole model. Of each batch it takes a part; gradients are
added up over ranks, after which all make the same update. So many ranks make the update that one
would make of the same batch, but for the order in which floating-point numbers are added.

Source: torch.distributed's all-reduce; gloo between CPUs, NCCL between GPUs. Departs from
DistributedDataParallel, which averages over ranks: here each term of the loss is a mean over
tokens or pictures of the whole batch, and ranks differ in how many of these they hold.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn

from crucible.errors import PeerLost, TemporaryError
from crucible_components.training.batching import IndexArray

BUCKET_ELEMENTS = 1 << 25
"""Gradients travel in pieces of 128 MiB: few enough to be fast, and no second copy of a model."""
_TIMEOUT = datetime.timedelta(minutes=30)
"""Until a rank that waits gives up: longer than rank 0 takes to save a checkpoint."""


@dataclass(frozen=True)
class Replicas:
    """The ranks. Alone, nothing is exchanged and every operation returns what it was given."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this rank saves checkpoints."""
        return self.rank == 0

    def share(self, chosen: IndexArray) -> IndexArray:
        """This rank's part of a batch: every n-th, since batches are sorted by length."""
        return chosen[self.rank :: self.size]

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over all ranks."""
        return self._reduced(numbers, distributed.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return self.sums([float(flag)])[0] > 0

    def check_equal(self, number: int, what: str) -> None:
        """Raise unless every rank has the same number.

        Raises:
            TemporaryError: they differ.
        """
        highest, lowest = self._reduced([number, -number], distributed.ReduceOp.MAX)
        if highest != -lowest:
            raise TemporaryError(
                f"{what} is {number} on rank {self.rank}, and from {-lowest:.0f} to {highest:.0f} "
                "over all. Try again: the ranks saw different states of the store."
            )

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite ``tensors`` with those of rank 0."""
        if self.size > 1:
            with _peers(self.rank):
                for tensor in tensors:
                    distributed.broadcast(tensor, src=0)

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over ranks; a parameter without one anywhere keeps none."""
        if self.size == 1:
            return
        counts = self.sums([float(each.grad is not None) for each in parameters])
        reached = [each for each, count in zip(parameters, counts, strict=True) if count]
        for bucket in _buckets(reached):
            pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([piece.flatten() for piece in pieces])
            with _peers(self.rank):
                distributed.all_reduce(flat)
            parts = torch.split(flat, [p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        self.sums([0.0])

    def _reduced(
        self, numbers: Sequence[float], how: distributed.ReduceOp.RedOpType
    ) -> list[float]:
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with _peers(self.rank):
            distributed.all_reduce(values, how)
        found: list[float] = values.tolist()
        return found


@contextlib.contextmanager
def joined(rank: int, size: int, device: torch.device) -> Iterator[Replicas]:
    """All ranks of the job, met as the variables of torchrun say (MASTER_ADDR and so on).

    Raises:
        PeerLost: they do not meet in time.
    """
    if size == 1:
        yield Replicas(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _peers(rank):
        distributed.init_process_group(backend, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield Replicas(rank, size, device)
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _peers(rank: int) -> Iterator[None]:
    """Say that it is another rank which is lost: the cause stands in that one's log."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"rank {rank} lost the other ranks: {error}") from error


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    num_elements = 0
    for parameter in parameters:
        if bucket and num_elements + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, num_elements = [], 0
        bucket.append(parameter)
        num_elements += parameter.numel()
    if bucket:
        yield bucket
