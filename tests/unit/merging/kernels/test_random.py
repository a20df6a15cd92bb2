"""Numbers by position: even, independent of each other, and the same wherever they are made."""

from __future__ import annotations

import torch

from crucible_components.merging.kernels import random
from crucible_components.merging.kernels.random import seed_of

N = 1 << 20


def uniform(start: int, stop: int, seed: int) -> torch.Tensor:
    return random.uniform(slice(start, stop), [seed])[0]


def test_they_are_spread_evenly() -> None:
    numbers_N = uniform(0, N, seed_of(0, "layer"))
    counts = torch.histc(numbers_N, bins=256, min=0, max=1)
    chi_square = float(((counts - N / 256) ** 2 / (N / 256)).sum())
    assert 150 < chi_square < 380  # 255 expected, standard deviation 22.6
    assert float(numbers_N.max()) < 1.0


def test_neighbours_models_and_seeds_are_independent() -> None:
    numbers_N = uniform(0, N, seed_of(0, "layer", "0"))
    for other_N in (
        uniform(1, N + 1, seed_of(0, "layer", "0")),
        uniform(0, N, seed_of(0, "layer", "1")),
        uniform(0, N, seed_of(1, "layer", "0")),
        uniform(1 << 32, N + (1 << 32), seed_of(0, "layer", "0")),
        uniform(0, N, seed_of(0, "layer", "0") ^ 1),
    ):
        correlation = torch.corrcoef(torch.stack([numbers_N, other_N]))[0, 1]
        assert abs(float(correlation)) < 5 / N**0.5
        both = ((numbers_N < 0.1) & (other_N < 0.1)).float().mean()
        assert abs(float(both) - 0.01) < 5e-4


def test_a_part_is_the_part_of_the_whole() -> None:
    whole_N = uniform(0, 1000, 7)
    assert torch.equal(uniform(400, 500, 7), whole_N[400:500])
