from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crucible_components.merging.reporting import TensorFigures
from crucible_components.merging.reporting.checks import check_merge
from crucible_components.merging.reporting.shares import pool, pool_by_module

Gather = Callable[..., TensorFigures]
Orthogonal = Callable[..., Tensor]


def check(*figures: TensorFigures) -> list[str]:
    sources = tuple(dict.fromkeys(name for each in figures for name in each.sources))
    whole = pool("all", figures, sources)
    return check_merge(figures, whole, pool_by_module(figures, sources))


@pytest.fixture
def merge(gather: Gather, orthogonal: Orthogonal) -> Callable[..., TensorFigures]:
    """Task arithmetic with two changes at right angles, of lengths 1 unless told."""

    def merge(
        weights: tuple[float, float] = (0.5, 0.5),
        lengths: tuple[float, float] = (1.0, 1.0),
        name: str = "lm_head.weight",
    ) -> TensorFigures:
        base_N, deltas_KN = torch.ones(64), torch.tensor(lengths)[:, None] * orthogonal(2)
        merged_N = base_N + torch.tensor(weights) @ deltas_KN
        return gather(base_N + deltas_KN, base_N, merged_N, name=name)

    return merge


def test_a_sound_merge_has_no_warnings(merge: Callable[..., TensorFigures]) -> None:
    assert check(merge()) == []
    assert check(merge(lengths=(9, 1))) == []


def test_nan_is_told_with_names(merge: Callable[..., TensorFigures], gather: Gather) -> None:
    bad_N = torch.full((2, 4), torch.nan)
    broken = [gather(bad_N, torch.ones(4), torch.ones(4), name=f"w{i}") for i in range(7)]
    (warning,) = check(merge(), *broken)
    assert warning.startswith("NaN or infinity in w0, w1, w2, w3, w4 and 2 more.")


def test_a_source_without_part_is_told(merge: Callable[..., TensorFigures]) -> None:
    (warning,) = check(merge((1.0, 0.005)))
    assert warning.startswith("b has hardly a part in the result: a share of at most 0.50%")
    # One module in which it has is enough.
    assert check(merge((1.0, 0.0)), merge((1.0, 0.1), name="model.norm.weight")) == []


def test_a_result_that_is_the_base_is_told_once(merge: Callable[..., TensorFigures]) -> None:
    (warning,) = check(merge((0.0, 0.0)))
    assert warning.startswith("The result equals the base")


def test_moving_away_from_a_source_is_told(merge: Callable[..., TensorFigures]) -> None:
    (warning,) = check(merge((0.8, -0.6)))
    assert warning.startswith("The result moved away from b: ")
    assert "is -0.600" in warning


def test_sources_against_each_other_are_told(gather: Gather, orthogonal: Orthogonal) -> None:
    first_N, second_N = orthogonal(2)
    deltas_KN = torch.stack([first_N, 0.8 * second_N - 0.6 * first_N])
    base_N = torch.ones(64)
    (warning,) = check(gather(base_N + deltas_KN, base_N, base_N + deltas_KN.sum(0)))
    assert warning.startswith("a and b changed the base against each other: cosine -0.600.")
    nearly_KN = torch.stack([first_N, second_N - 0.01 * first_N])
    assert check(gather(base_N + nearly_KN, base_N, base_N + nearly_KN.sum(0))) == []


def test_a_source_that_drowns_the_others_is_told(merge: Callable[..., TensorFigures]) -> None:
    (warning,) = check(merge((0.5, 0.5), lengths=(0.5, 20.0)))
    assert warning.startswith("b changed the base 40 times as much as any other source.")


def test_differences_from_the_mean_are_no_reason(gather: Gather) -> None:
    """Without a base two models always differ from their mean in opposite directions."""
    models_KN = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    assert check(gather(models_KN, None, models_KN.mean(0))) == []
