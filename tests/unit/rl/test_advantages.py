from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_components.rl.advantages import STD_OFFSET, group_advantages


def test_closed_form() -> None:
    found = group_advantages(torch.tensor([[1.0, 0, 0, 1], [3, 1, 1, 1]]), scale_by_std=True)
    std = math.sqrt(1 / 3)
    scaled = 0.5 / (std + STD_OFFSET)
    assert found.values_PG[0].tolist() == pytest.approx([scaled, -scaled, -scaled, scaled])
    assert found.std_P.tolist() == pytest.approx([std, 1.0])
    assert found.mean_P.tolist() == pytest.approx([0.5, 1.5])
    assert found.has_signal_P.tolist() == [True, True]


def test_without_division_only_the_mean_goes() -> None:
    found = group_advantages(torch.tensor([[2.0, 0, 1]]), scale_by_std=False)
    assert found.values_PG.tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("scale_by_std", [True, False])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.1, -1.0])
def test_a_constant_group_has_no_advantage(reward: float, scale_by_std: bool) -> None:
    found = group_advantages(torch.full((1, 7), reward), scale_by_std=scale_by_std)
    assert found.values_PG.tolist() == [[0.0] * 7]
    assert not found.has_signal_P.any()


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_float_noise_is_not_a_signal(scale_by_std: bool) -> None:
    """Without the guard 0.1 + 0.2 against 0.3 would give advantages near 1e-12 / 1e-12."""
    rewards = torch.tensor([[0.1 + 0.2, 0.3, 0.3, 0.3 + 1e-7]], dtype=torch.float64)
    found = group_advantages(rewards, scale_by_std=scale_by_std)
    assert found.values_PG.abs().max() == 0
    assert found.std_P.tolist() == [0.0]


def test_missing_rewards_enter_neither_mean_nor_deviation() -> None:
    nan = math.nan
    found = group_advantages(torch.tensor([[1.0, nan, 0, nan]]), scale_by_std=True)
    expected = group_advantages(torch.tensor([[1.0, 0]]), scale_by_std=True)
    assert found.values_PG[0, [0, 2]].tolist() == expected.values_PG[0].tolist()
    assert found.values_PG[0, [1, 3]].tolist() == [0.0, 0.0]
    assert found.std_P.tolist() == expected.std_P.tolist()


def test_fewer_than_two_rewards_are_no_comparison() -> None:
    nan = math.nan
    found = group_advantages(torch.tensor([[1.0, nan], [nan, nan]]), scale_by_std=True)
    assert found.values_PG.tolist() == [[0, 0], [0, 0]]
    assert found.mean_P.tolist() == [1, 0]


rewards = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=2, max_size=16)


@settings(deadline=None)
@given(rewards=rewards, shift=st.floats(-10, 10), scale_by_std=st.booleans())
def test_sum_to_zero_and_ignore_a_shift(
    rewards: list[float], shift: float, scale_by_std: bool
) -> None:
    tensor = torch.tensor([rewards], dtype=torch.float64)
    found = group_advantages(tensor, scale_by_std=scale_by_std)
    moved = group_advantages(tensor + shift, scale_by_std=scale_by_std)
    assert abs(float(found.values_PG.sum())) < 1e-3
    torch.testing.assert_close(moved.values_PG, found.values_PG, atol=1e-4, rtol=1e-3)
