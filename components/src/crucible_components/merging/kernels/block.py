"""A block: the same elements of one tensor in every model.

Legend: K models without the base, M rows: the models and, where there is one, the base; N elements
of the block, R rows and C columns where N = R·C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from crucible_components.merging.kernels.random import uniform


@dataclass(frozen=True)
class Rows:
    """The same elements of several tensors, as the loops take them."""

    whole_MT: Tensor
    """Contiguous; T elements of each tensor, bfloat16 or float32. The models, then the base."""
    offset: int
    """Of the block's elements among the T."""

    def first(self, count: int) -> Rows:
        """Without the others."""
        return Rows(self.whole_MT[:count], self.offset)


@dataclass(frozen=True)
class Block:
    """What a method sees at a time; small enough for the cache of a core. Read when looked at."""

    load: Callable[[], Rows]
    """Gives ``stored``."""
    num_models: int
    """K."""
    dtype: torch.dtype
    """That the arithmetic is done in; float32, or less to follow mergekit."""
    start: int
    """Position in the tensor of the first element."""
    num_elements: int
    """N."""
    num_columns: int
    """Length of the tensor's rows. Blocks of methods that ask for rows hold whole ones."""

    @cached_property
    def stored(self) -> Rows:
        """The models, then the base where there is one."""
        return self.load()

    @cached_property
    def changes(self) -> Rows:
        """Rows that differ from the last one by the models' changes."""
        if self.dtype == torch.float32:
            return self.stored
        nothing_1N = torch.zeros(1, self.num_elements)
        return Rows(torch.cat([self.deltas_KN.float(), nothing_1N]), 0)

    @cached_property
    def models_KN(self) -> Tensor:
        """In the type that the arithmetic is done in."""
        return self._values(slice(0, self.num_models))

    @cached_property
    def base_N(self) -> Tensor:
        """The common ancestor; only methods that need one read it."""
        return self._values(slice(self.num_models, None))[0]

    def _values(self, rows: slice) -> Tensor:
        span = slice(self.stored.offset, self.stored.offset + self.num_elements)
        return self.stored.whole_MT[rows, span].to(self.dtype)

    @cached_property
    def deltas_KN(self) -> Tensor:
        """What each model changed."""
        return self.models_KN - self.base_N

    def rows(self, values: Tensor) -> Tensor:
        """``values`` [..., N] as [..., R, C]."""
        return values.reshape(*values.shape[:-1], -1, self.num_columns)

    def uniform_KN(self, seeds: tuple[int, ...]) -> Tensor:
        """Random numbers in [0, 1), those of an element the same in whatever block it comes.

        Args:
            seeds: one a model.
        """
        return uniform(slice(self.start, self.start + self.num_elements), seeds)
