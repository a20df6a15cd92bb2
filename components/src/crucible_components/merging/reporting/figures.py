"""What one tensor's merge is judged by: gathered while it is written, block by block.

All figures are sums over elements, so that blocks add up to tensors and tensors to modules. Changes
are meant from an origin: the base or, without one, the mean of the models.

Products of a block are float32 matrix products and are summed over blocks in float64. That is
accurate to about 1e-6 of the norms: a report shows three digits, and whether two changes point the
same way within a millionth makes no difference to it.

Legend: K sources, C = K + 1 changes (those of the sources, then the merged one), N elements.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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


def figures_of(
    models_KN: Tensor,
    origin_N: Tensor | None,
    merged_N: Tensor,
    *,
    deltas_KN: Tensor | None = None,
) -> Partial:
    """The sums over one block; any number of threads may call it at a time.

    It stands in the loop over all weights, hence few passes over a block and few calls. NumPy
    compares into bytes 10 times as fast as torch.

    Args:
        models_KN: the sources, float32.
        origin_N: the base, float32; None stands for the mean of the sources.
        merged_N: the result as it is stored, in float32.
        deltas_KN: ``models_KN - origin_N`` of a method that has it already; saves a third of the
            time. Not read without a base.
    """
    has_base = origin_N is not None
    if origin_N is None:
        origin_N, deltas_KN = models_KN.mean(dim=0), None
    if deltas_KN is None:
        deltas_KN = models_KN - origin_N
    change_N = merged_N - origin_N
    num_models = len(deltas_KN)
    products = np.empty((num_models + 1, num_models + 1))
    products[:-1, :-1] = (deltas_KN @ deltas_KN.T).numpy()
    products[-1, :-1] = products[:-1, -1] = (deltas_KN @ change_N).numpy()
    products[-1, -1] = torch.dot(change_N, change_N).item()
    counts_conflicts = has_base and num_models > 1
    return Partial(
        torch.from_numpy(products),
        origin_energy=torch.dot(origin_N, origin_N).item(),
        num_conflicts=_count_conflicts(deltas_KN.numpy()) if counts_conflicts else 0,
        num_changed=int(np.count_nonzero(np.not_equal(change_N.numpy(), 0))),
        num_elements=change_N.numel(),
    )


def _count_conflicts(deltas: npt.NDArray[np.float32]) -> int:
    """Elements, [K, N], with changes of both signs."""
    raised, lowered, each = np.empty((3, deltas.shape[1]), dtype=bool)
    np.greater(deltas[0], 0, out=raised)
    np.less(deltas[0], 0, out=lowered)
    for delta in deltas[1:]:
        raised |= np.greater(delta, 0, out=each)
        lowered |= np.less(delta, 0, out=each)
    raised &= lowered
    return int(np.count_nonzero(raised))


class Accumulator:
    """The figures of one tensor.

    Blocks are added in their order. Threads that share a tensor compute `figures_of` their blocks
    and hand them to `take` in order, so that the sums do not depend on who was first.
    """

    def __init__(self, name: str, sources: tuple[str, ...], *, has_base: bool) -> None:
        self.name, self.sources, self.has_base = name, sources, has_base
        num_changes = len(sources) + 1
        self._total = Partial(torch.zeros(num_changes, num_changes, dtype=torch.float64))

    def add(
        self,
        models_KN: Tensor,
        origin_N: Tensor | None,
        merged_N: Tensor,
        *,
        deltas_KN: Tensor | None = None,
    ) -> None:
        """The next block; see `figures_of`."""
        self.take(figures_of(models_KN, origin_N, merged_N, deltas_KN=deltas_KN))

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
