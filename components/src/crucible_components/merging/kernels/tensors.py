"""One tensor in all models, walked block by block as often as a method needs.

Results depend neither on the number of threads nor on how much is read at a time: blocks lie on a
grid of the tensor's own, and what is summed over them is summed in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from crucible_components.merging.kernels.block import Block, Rows
from crucible_components.merging.kernels.elementwise import is_finite
from crucible_components.merging.kernels.topk import TopMask, top_mask

BLOCK_ELEMENTS = 1 << 18
"""As small as it can be without threads waiting for the interpreter's lock most of the time."""
REMEMBERED_ELEMENTS = 1 << 24
"""64 MiB of float32, a thread."""

T = TypeVar("T")


class Values(Protocol):
    """Where the elements come from: memory, files, ranges of an object store."""

    @property
    def has_base(self) -> bool: ...

    def rows(self, span: slice) -> Rows:
        """The elements ``span`` of the flat tensor in every model, then in the base.

        As they are stored if that is bfloat16 in all of them, else as float32.
        """
        ...

    def check(self, span: slice) -> None:
        """Raise if NaN or infinity is among them: every method would spread it."""
        ...


class Mapper(Protocol):
    """Applies a function to items and returns results in the order of the items."""

    def __call__(self, work: Callable[[slice], T], spans: list[slice]) -> Iterator[T]: ...


def in_turn(work: Callable[[slice], T], spans: list[slice]) -> Iterator[T]:
    """One after another, in this thread."""
    return map(work, spans)


@dataclass(frozen=True)
class Tensors:
    """One tensor of K models and their base.

    Args:
        name: of the tensor.
        shape: of the tensor, the same in all models.
        num_models: K; without the base.
        values: its elements.
        dtype: what the arithmetic is done in; float32, or less to follow mergekit.
        by_rows: blocks hold whole rows.
        mapper: how blocks are shared between threads.
    """

    name: str
    shape: tuple[int, ...]
    num_models: int
    values: Values
    dtype: torch.dtype = torch.float32
    by_rows: bool = False
    mapper: Mapper = in_turn
    _checked: set[int] = field(default_factory=set, init=False, compare=False)

    @property
    def has_base(self) -> bool:
        return self.values.has_base

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_columns(self) -> int:
        return max(1, self.shape[-1] if self.shape else 1)

    @property
    def spans(self) -> list[slice]:
        """The grid of blocks."""
        size = BLOCK_ELEMENTS
        if self.by_rows:
            size = max(1, BLOCK_ELEMENTS // self.num_columns) * self.num_columns
        starts = range(0, self.num_elements, size)
        return [slice(start, min(start + size, self.num_elements)) for start in starts]

    def block(self, span: slice) -> Block:
        """The elements ``span``."""
        return Block(
            lambda: self._load(span),
            self.num_models,
            self.dtype,
            span.start,
            span.stop - span.start,
            self.num_columns,
        )

    def _load(self, span: slice) -> Rows:
        """Refuses what is not finite, when it is first looked at."""
        rows = self.values.rows(span)
        length = span.stop - span.start
        if span.start not in self._checked:
            if not is_finite(rows, length):
                self.values.check(span)
            self._checked.add(span.start)
        if self.dtype == torch.float32:
            return rows
        block_MN = rows.whole_MT[:, rows.offset : rows.offset + length].to(self.dtype)
        return Rows(block_MN if self.dtype == torch.bfloat16 else block_MN.float(), 0)

    def sum(self, work: Callable[[Block], Tensor]) -> Tensor:
        """What ``work`` gives for each block, summed in float64; it sums over the block itself."""
        total = None
        for part in self.mapper(lambda span: work(self.block(span)).double(), self.spans):
            total = part if total is None else total + part
        assert total is not None, "a tensor without elements has no sums"
        return total

    def cat(self, work: Callable[[Block], Tensor]) -> Tensor:
        """What ``work`` gives for each block, joined along the first dimension."""
        return torch.cat(list(self.mapper(lambda span: work(self.block(span)), self.spans)))

    def remembered(self, keys: Callable[[Block], Tensor]) -> Callable[[Block], Tensor]:
        """The same, computed once for each block where the tensor is small enough to keep them."""
        if self.num_elements > REMEMBERED_ELEMENTS:
            return keys
        known: dict[int, Tensor] = {}

        def recalled(block: Block) -> Tensor:
            found = known.get(block.start)
            if found is None:
                found = known[block.start] = keys(block)
            return found

        return recalled

    def top(self, keys: Callable[[Block], Tensor], counts: list[int]) -> TopMask:
        """Which elements have the largest keys; of equal ones those that come first.

        Args:
            keys: [M, N] for a block, no NaN; ranked as float32.
            counts: how many to choose in each of the M rows.
        """
        return top_mask(
            lambda span: keys(self.block(span)).float().numpy(),
            counts,
            self.spans,
            mapper=self.mapper,
        )
