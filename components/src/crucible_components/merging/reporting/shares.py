"""How much of a merge each source is responsible for, of a tensor, a module or the whole model.

The merged change Δ is projected on the changes δ of the sources: Δ = Σ a δ + rest. A source's share
is the size of its term, ``|a| ‖δ‖``, as a part of the sum of all sizes, times the explained
fraction ``1 - ‖rest‖² / ‖Δ‖²``. So shares add up to the explained fraction; for task arithmetic
they are ``|w| ‖δ‖ / Σ |w| ‖δ‖`` (equal norms: ``|w| / Σ |w|``); and a source counts by its size
even where its sign is negative, which the cosines show.

Collinear changes cannot be told apart: the solution is the shortest one in the terms' sizes, which
gives them equal parts whatever their lengths. A change of zero has no share.

Without a base the δ are differences from the mean of the models, which add up to zero; among all
solutions the one with ``Σ a = 1`` is meant, so that ``Σ a x`` is the result, and the size of a term
is ``|a|``: the weights of a linear merge come out as they were set. The explained fraction is then
relative to ‖Δ‖² plus the models' variance, as an even merge has no Δ.

Departs from Pratt's measure ``a ⟨δ, Δ⟩ / ‖Δ‖²`` (Technometrics 1987), which is additive too but
squares the weights of task arithmetic and becomes negative.

Legend: K sources, C = K + 1 changes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from crucible_components.merging.reporting.figures import TensorFigures
from crucible_components.merging.reporting.modules import Place, place_of

_SAME_DIRECTION = 1e-5
"""Eigenvalues of the cosine matrix below this part of the largest are noise: float32 products are
right to about 1e-6."""


@dataclass(frozen=True)
class Attribution:
    """What the sources are responsible for in one tensor."""

    shares: tuple[float, ...]
    explained: float
    """Sum of ``shares`` unless nothing points the sources' way."""
    coefficients: tuple[float, ...]
    """The ``a``: weights of task arithmetic or, without a base, of a linear merge."""
    energy: float
    """What ``explained`` is relative to."""


def attribute(products_CC: Tensor, *, has_base: bool) -> Attribution:
    """Shares from scalar products (see the module's text)."""
    num_sources = len(products_CC) - 1
    change_energy = float(products_CC[-1, -1])
    if num_sources == 0:
        return Attribution((), 0.0 if change_energy > 0 else 1.0, (), change_energy)
    norm_K = products_CC.diagonal()[:-1].clamp_min(0).sqrt()
    inverse_K = torch.where(norm_K > 0, 1 / norm_K, 0.0)
    cosine_KK = products_CC[:-1, :-1] * inverse_K * inverse_K[:, None]
    target_K = products_CC[:-1, -1] * inverse_K
    length_K = _shortest_solution(cosine_KK, target_K)
    coefficient_K = length_K * inverse_K
    energy = change_energy
    if not has_base:
        coefficient_K = coefficient_K + (1 - coefficient_K.sum()) / num_sources
        energy += float(norm_K.square().mean())
    rest = max(0.0, change_energy - float(target_K @ length_K))
    explained = max(0.0, 1 - rest / energy) if energy > 0 else 1.0
    size_K = length_K.abs() if has_base else coefficient_K.abs()
    total = float(size_K.sum())
    share_K = size_K * (explained / total) if total > 0 else torch.zeros_like(size_K)
    return Attribution(tuple(share_K.tolist()), explained, tuple(coefficient_K.tolist()), energy)


def _shortest_solution(matrix_KK: Tensor, target_K: Tensor) -> Tensor:
    """Of ``matrix x = target``, least squares: a pseudo-inverse with a cut-off."""
    values_K, vectors_KK = torch.linalg.eigh((matrix_KK + matrix_KK.T) / 2)
    is_kept_K = values_K > _SAME_DIRECTION * values_K[-1].clamp_min(0)
    inverse_K = torch.where(is_kept_K, 1 / values_K, 0.0)
    solution_K: Tensor = vectors_KK @ (inverse_K * (vectors_KK.T @ target_K))
    return solution_K


@dataclass(frozen=True, eq=False)
class Pool:
    """The figures of several tensors together.

    Tensors with a base count in products, cosines and conflicts; where no tensor has one, all do.
    Shares are means over tensors by ‖Δ‖² or, without a base, by number of elements. Figures that
    are not finite are left out; `num_broken` counts their tensors.
    """

    name: str
    sources: tuple[str, ...]
    has_base: bool
    num_tensors: int
    num_copied: int
    num_broken: int
    num_elements: int
    num_compared: int
    """Elements of the tensors that count in what follows."""
    products_CC: Tensor
    origin_energy: float
    num_conflicts: int
    num_changed: int
    shares: tuple[float, ...]
    explained: float
    """1 where nothing changed."""

    @property
    def conflict_fraction(self) -> float:
        return self.num_conflicts / max(1, self.num_compared)

    @property
    def changed_fraction(self) -> float:
        return self.num_changed / max(1, self.num_compared)

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to share."""
        return any(share > 0 for share in self.shares)

    def norm(self, change: int) -> float:
        """Of the change of a source; of the merged one for index -1."""
        return math.sqrt(max(0.0, float(self.products_CC[change, change])))

    def relative_change(self, change: int) -> float:
        """Its norm over the norm of the origin; 0 for an origin of zeros."""
        return self.norm(change) / math.sqrt(self.origin_energy) if self.origin_energy else 0.0

    def cosine(self, first: int, second: int = -1) -> float | None:
        """Between two changes, the merged one unless told; None where one is zero."""
        norms = self.norm(first) * self.norm(second)
        return float(self.products_CC[first, second]) / norms if norms else None

    def mean_cosine(self) -> float | None:
        """Of all pairs of sources that changed; None if there is no such pair."""
        pairs = combinations(range(len(self.sources)), 2)
        found = [c for c in (self.cosine(a, b) for a, b in pairs) if c is not None]
        return sum(found) / len(found) if found else None


def pool(name: str, figures: Iterable[TensorFigures], sources: tuple[str, ...]) -> Pool:
    """All ``figures`` together, as parts of ``sources``."""
    every = list(figures)
    sound = [each for each in every if each.is_finite]
    with_base = [each for each in sound if each.has_base]
    counted = with_base or sound
    products_CC = torch.zeros(len(sources) + 1, len(sources) + 1, dtype=torch.float64)
    for each in counted:
        index = torch.tensor([*_places(each, sources), len(sources)])
        products_CC[index[:, None], index] += each.products_CC
    shares, explained = _mean_shares(sound, sources)
    return Pool(
        name=name,
        sources=sources,
        has_base=bool(with_base),
        num_tensors=len(every),
        num_copied=sum(each.copied_from is not None for each in every),
        num_broken=len(every) - len(sound),
        num_elements=sum(each.num_elements for each in every),
        num_compared=sum(each.num_elements for each in counted),
        products_CC=products_CC,
        origin_energy=sum(each.origin_energy for each in counted),
        num_conflicts=sum(each.num_conflicts for each in counted),
        num_changed=sum(each.num_changed for each in counted),
        shares=shares,
        explained=explained,
    )


def pool_by(
    place: Callable[[TensorFigures], Place],
    figures: Iterable[TensorFigures],
    sources: tuple[str, ...],
) -> dict[Place, Pool]:
    """One pool for each place, in the order of places."""
    groups: dict[Place, list[TensorFigures]] = defaultdict(list)
    for each in figures:
        groups[place(each)].append(each)
    return {
        where: pool(where.kind or where.layer_name, groups[where], sources)
        for where in sorted(groups, key=lambda each: each.order)
    }


def pool_by_module(figures: Iterable[TensorFigures], sources: tuple[str, ...]) -> dict[Place, Pool]:
    """Attention, MLP, norms of every layer; embeddings and the like outside of layers."""
    return pool_by(lambda each: place_of(each.name), figures, sources)


def pool_by_layer(figures: Iterable[TensorFigures], sources: tuple[str, ...]) -> dict[Place, Pool]:
    """Every layer, and what each tower has outside of layers."""
    return pool_by(lambda each: place_of(each.name).whole_layer, figures, sources)


def _mean_shares(
    figures: Sequence[TensorFigures], sources: tuple[str, ...]
) -> tuple[tuple[float, ...], float]:
    """By energy over tensors with a base, else by elements over the others."""
    found = [(each, attribute(each.products_CC, has_base=each.has_base)) for each in figures]
    parts = [(each, part, part.energy) for each, part in found if each.has_base]
    if not any(weight > 0 for *_, weight in parts):
        parts = [(e, part, float(e.num_elements)) for e, part in found if not e.has_base]
    total = sum(weight for *_, weight in parts)
    if total == 0:
        return (0.0,) * len(sources), 1.0
    shares = [0.0] * len(sources)
    for each, part, weight in parts:
        for place, share in zip(_places(each, sources), part.shares, strict=True):
            shares[place] += share * weight / total
    return tuple(shares), sum(part.explained * weight for _, part, weight in parts) / total


def _places(figures: TensorFigures, sources: tuple[str, ...]) -> list[int]:
    """Where its sources stand among ``sources``; a model may be there more than once."""
    found: list[int] = []
    for source in figures.sources:
        free = [i for i, each in enumerate(sources) if each == source and i not in found]
        if not free:
            listed = ", ".join(sources)
            raise ValueError(f"{figures.name}: source {source!r} is not among {listed}.")
        found.append(free[0])
    return found
