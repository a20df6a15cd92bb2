"""How far sources moved from their base and whether they moved the same way.

Figures for the report; no merge method needs them. Sums over tensors of a module give the module.

Legend: K sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from crucible_components.merging.sce import deltas_of
from crucible_components.merging.topk import blocks


@dataclass(frozen=True)
class Divergence:
    """Inner products and sign counts of the sources' changes; additive over tensors."""

    gram_KK: Tensor
    """Inner products of the changes: float32 within a block, float64 between blocks."""
    base_energy: float
    """Squared norm of the base."""
    num_conflicts: int
    """Elements that some sources raise and others lower."""
    num_elements: int

    def __add__(self, other: Divergence) -> Divergence:
        return Divergence(
            self.gram_KK + other.gram_KK,
            self.base_energy + other.base_energy,
            self.num_conflicts + other.num_conflicts,
            self.num_elements + other.num_elements,
        )

    @property
    def conflict_fraction(self) -> float:
        return self.num_conflicts / max(1, self.num_elements)

    def relative_change(self, source: int) -> float:
        """Norm of one source's change over the norm of the base; 0 for a base of zeros."""
        if self.base_energy == 0.0:
            return 0.0
        return math.sqrt(float(self.gram_KK[source, source]) / self.base_energy)

    def mean_cosine(self) -> float:
        """Cosine between the changes of two sources, mean over all pairs; 0 where one is zero."""
        pairs = list(combinations(range(len(self.gram_KK)), 2))
        return sum(self._cosine(a, b) for a, b in pairs) / len(pairs)

    def _cosine(self, a: int, b: int) -> float:
        norms = math.sqrt(float(self.gram_KK[a, a])) * math.sqrt(float(self.gram_KK[b, b]))
        return float(self.gram_KK[a, b]) / norms if norms else 0.0


def measure_divergence(tensors: Sequence[Tensor], base: Tensor) -> Divergence:
    """Compare the changes of ``tensors`` over ``base``, one block at a time."""
    sources = [tensor.reshape(-1) for tensor in tensors]
    origin = base.reshape(-1)
    gram_KK = torch.zeros(len(sources), len(sources), dtype=torch.float64)
    num_conflicts, base_energy = 0, 0.0
    for span in blocks(origin.numel()):
        deltas_KN = deltas_of([source[span] for source in sources], origin[span])
        gram_KK += deltas_KN @ deltas_KN.T
        contested_N = (deltas_KN.amax(dim=0) > 0) & (deltas_KN.amin(dim=0) < 0)
        num_conflicts += int(contested_N.sum())
        base_energy += float(origin[span].double().square().sum())
    return Divergence(gram_KK, base_energy, num_conflicts, origin.numel())
