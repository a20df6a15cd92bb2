"""What one tensor's merge is judged by: gathered while it is written, block by block.

All figures are sums over elements, so that blocks add up to tensors and tensors to modules. Changes
are meant from an origin: the base or, without one, the mean of the models.

Products are float32 over a thousand elements and float64 over all. That is accurate to about 1e-6
of the norms: a report shows three digits.

Legend: K sources, C = K + 1 changes (those of the sources, then the merged one), N elements.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crucible_components.merging.kernels import Rows, change_loops
from crucible_components.merging.kernels.elementwise import array


@dataclass(frozen=True)
class TensorFigures:
    """One tensor of the result; equal when every float is."""

    name: str
    num_elements: int
    sources: tuple[str, ...]
    """Models without the base, in the order of ``products``."""
    has_base: bool
    products: tuple[tuple[float, ...], ...]
    """[C, C] scalar products of the changes."""
    origin_energy: float
    """Squared norm of the origin."""
    num_conflicts: int
    """Elements that some sources raise and others lower; 0 without a base."""
    num_changed: int
    """Elements in which the result differs from the origin."""
    copied_from: str | None = None
    """The model that the tensor was copied from as it is; None if it was merged."""

    @property
    def products_CC(self) -> Tensor:
        return torch.tensor(self.products, dtype=torch.float64)

    @property
    def is_finite(self) -> bool:
        """Whether neither a model nor the result has NaN or infinity, nor changes too large."""
        values = [self.origin_energy, *(value for row in self.products for value in row)]
        return all(map(math.isfinite, values))

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`, which writes floats so that they read back to the bit."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorFigures:
        """What `to_json` gave."""
        sources = tuple(data["sources"])
        products = tuple(tuple(map(float, row)) for row in data["products"])
        return cls(**{**data, "sources": sources, "products": products})


@dataclass(frozen=True, eq=False)
class Partial:
    """The sums over some elements of a tensor."""

    products_CC: Tensor
    """Float64."""
    origin_energy: float = 0.0
    num_conflicts: int = 0
    num_changed: int = 0
    num_elements: int = 0

    def __add__(self, other: Partial) -> Partial:
        return Partial(
            self.products_CC + other.products_CC,
            self.origin_energy + other.origin_energy,
            self.num_conflicts + other.num_conflicts,
            self.num_changed + other.num_changed,
            self.num_elements + other.num_elements,
        )


def figures_of(stored: Rows, merged_N: Tensor, *, has_base: bool) -> Partial:
    """The sums over one block; any number of threads may call it at a time.

    Args:
        stored: the sources, then the base.
        merged_N: the result as it is stored.
        has_base: else all rows are sources; their mean stands for the base.
    """
    num_sources = len(stored.whole_MT) - has_base
    products = np.empty((num_sources + 1, num_sources + 1))
    energy, num_conflicts, num_changed = change_loops.change_sums(
        array(stored.whole_MT), stored.offset, has_base, array(merged_N[None]), products
    )
    return Partial(
        torch.from_numpy(products),
        origin_energy=energy,
        num_conflicts=num_conflicts if has_base else 0,
        num_changed=num_changed,
        num_elements=merged_N.numel(),
    )


class Accumulator:
    """The figures of one tensor.

    Blocks are added in their order. Threads that share a tensor compute `figures_of` their blocks
    and hand them to `take` in order, so that the sums do not depend on who was first.
    """

    def __init__(self, name: str, sources: tuple[str, ...], *, has_base: bool) -> None:
        self.name, self.sources, self.has_base = name, sources, has_base
        num_changes = len(sources) + 1
        self._total = Partial(torch.zeros(num_changes, num_changes, dtype=torch.float64))

    def add(self, stored: Rows, merged_N: Tensor) -> None:
        """The next block; see `figures_of`."""
        self.take(figures_of(stored, merged_N, has_base=self.has_base))

    def take(self, part: Partial) -> None:
        """The sums over the next block."""
        self._total = self._total + part

    def figures(self, *, copied_from: str | None = None) -> TensorFigures:
        """What was gathered."""
        total = self._total
        return TensorFigures(
            name=self.name,
            num_elements=total.num_elements,
            sources=self.sources,
            has_base=self.has_base,
            products=tuple(map(tuple, total.products_CC.tolist())),
            origin_energy=total.origin_energy,
            num_conflicts=total.num_conflicts,
            num_changed=total.num_changed,
            copied_from=copied_from,
        )
