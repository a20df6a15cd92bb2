"""A block: the same elements of one tensor in every model.

Legend: K models without the base, N elements of the block, R rows and C columns where N = R·C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from crucible_components.merging.kernels.random import uniform


@dataclass(frozen=True)
class Block:
    """What a method sees at a time; small enough for the cache of a core. Read when looked at."""

    load: Callable[[], tuple[Tensor, Tensor | None]]
    """Gives ``models_KN`` and the base's elements."""
    start: int
    """Position in the tensor of the first element."""
    num_elements: int
    """N."""
    num_columns: int
    """Length of the tensor's rows. Blocks of methods that ask for rows hold whole ones."""

    @cached_property
    def _values(self) -> tuple[Tensor, Tensor | None]:
        return self.load()

    @property
    def models_KN(self) -> Tensor:
        """In the type that the arithmetic is done in."""
        return self._values[0]

    @property
    def base_or_none_N(self) -> Tensor | None:
        """The common ancestor, where there is one."""
        return self._values[1]

    @property
    def base_N(self) -> Tensor:
        """The common ancestor; only methods that need one read it."""
        assert self.base_or_none_N is not None
        return self.base_or_none_N

    @cached_property
    def deltas_KN(self) -> Tensor:
        """What each model changed."""
        return self.models_KN - self.base_N

    @property
    def index_N(self) -> Tensor:
        """Positions in the tensor."""
        return torch.arange(self.start, self.start + self.num_elements)

    def rows(self, values: Tensor) -> Tensor:
        """``values`` [..., N] as [..., R, C]."""
        return values.reshape(*values.shape[:-1], -1, self.num_columns)

    def uniform_KN(self, seeds: tuple[int, ...]) -> Tensor:
        """Random numbers in [0, 1), those of an element the same in whatever block it comes.

        Args:
            seeds: one a model.
        """
        return uniform(self.index_N, seeds)


def chosen(mask_N: Tensor, values_N: Tensor, others_N: Tensor) -> Tensor:
    """``values_N`` where the mask (0 or 1, int32) is 1, else ``others_N``, bit by bit.

    Several times faster than `torch.where`, which is not vectorised for float32.
    """
    values, others = values_N.view(_bits_of(values_N)), others_N.view(_bits_of(others_N))
    picked = (values ^ others).bitwise_and_(mask_N.neg().to(values.dtype)).bitwise_xor_(others)
    return picked.view(values_N.dtype)


def equal_bits(first_N: Tensor, second_N: Tensor) -> Tensor:
    """1 where both are the same to the bit, else 0; int32."""
    bits = _bits_of(first_N)
    same_N = torch.empty(first_N.shape, dtype=torch.int32)
    return torch.eq(first_N.view(bits), second_N.view(bits), out=same_N)


def _bits_of(values_N: Tensor) -> torch.dtype:
    return torch.int32 if values_N.dtype.itemsize == 4 else torch.int16
