"""The fused loops, against the same said with torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crucible_components.merging.kernels import (
    Block,
    Rows,
    add_majority,
    energies,
    row_ranks,
    sizes,
    take_agreed,
    variance,
    weighted_sum,
)
from crucible_components.merging.kernels.elementwise import add_changes, is_finite, norms
from crucible_components.merging.testing import in_memory

K = 4
LENGTHS = pytest.mark.parametrize("length", [1, 7, 1023, 1024, 5000])
"""Below, at and beyond the piece that a loop takes at a time."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def numbers(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Four models and a base; no model changed a third of the elements, some sums are exactly 0."""
    generator = torch.Generator().manual_seed(length)
    stored_MN = torch.randn(K + 1, length, generator=generator).to(dtype)
    stored_MN[K, 1::5] = 0
    stored_MN[2:K, 1::5] = -stored_MN[:2, 1::5]
    stored_MN[:, ::3] = stored_MN[0, ::3].clone()
    return stored_MN


def block_of(stored_MN: Tensor, *, base: bool = True) -> Block:
    models = list(stored_MN[:K])
    return in_memory(models, stored_MN[K] if base else None).block(slice(0, stored_MN.shape[1]))


def changes(stored_MN: Tensor) -> Tensor:
    """Exact differences of float32 or less, rounded to float32 as all arithmetic is."""
    return (stored_MN[:K].float() - stored_MN[K].float()).double()


def masks(length: int) -> list[Tensor | None]:
    """None, one for all models, one for each."""
    generator = torch.Generator().manual_seed(1)
    return [None, *((torch.rand(s, length, generator=generator) < 0.6).float() for s in (1, K))]


@LENGTHS
@DTYPES
def test_the_majority_is_of_the_sign_of_the_sum(length: int, dtype: torch.dtype) -> None:
    stored_MN = numbers(length, dtype)
    votes, factors = torch.tensor([1.0, 0.5, 2.0, 1.0]), torch.tensor([0.5, 2.0, -1.0, 0.0])
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    for mask_SN in masks(length):
        voting_KN = changes(stored_MN) * votes[:, None]
        voting_KN = voting_KN if mask_SN is None else voting_KN * mask_SN
        sign_N = torch.where(voting_KN.sum(dim=0) >= 0, 1.0, -1.0)
        agrees_KN = voting_KN * sign_N > 0

        change_N, weight_N = add_majority(
            block_of(stored_MN),
            votes=votes.tolist(),
            factors=factors.tolist(),
            weights=weights.tolist(),
            mask_SN=mask_SN,
        )

        expected_N = (voting_KN * agrees_KN * factors[:, None]).sum(dim=0)
        torch.testing.assert_close(change_N.double(), expected_N, rtol=1e-5, atol=1e-6)
        expected_N = (weights[:, None] * agrees_KN).sum(dim=0)
        torch.testing.assert_close(weight_N, expected_N, rtol=1e-6, atol=0)


@LENGTHS
@DTYPES
def test_sums_of_changes(length: int, dtype: torch.dtype) -> None:
    stored_MN = numbers(length, dtype)
    block, exact_KN = block_of(stored_MN), changes(stored_MN)
    factors = torch.tensor([0.5, 2.0, -1.0, 0.3], dtype=torch.float64)
    for mask_SN in masks(length):
        kept_KN = exact_KN if mask_SN is None else exact_KN * mask_SN
        expected_N = (factors[:, None] * kept_KN).sum(dim=0)
        added_N = add_changes(block, factors.tolist(), mask_SN).double()
        torch.testing.assert_close(added_N, expected_N, rtol=1e-5, atol=1e-6)
        base_energy = stored_MN[K].double().square().sum()[None]
        expected_M = torch.cat([kept_KN.square().sum(dim=1), base_energy])
        torch.testing.assert_close(energies(block, mask_SN), expected_M, rtol=1e-12, atol=0)
        if mask_SN is not None:
            expected_2K = torch.stack([exact_KN.abs().sum(dim=1), kept_KN.abs().sum(dim=1)])
            torch.testing.assert_close(norms(block, mask_SN), expected_2K, rtol=1e-12, atol=0)
    assert torch.equal(sizes(block).double(), exact_KN.abs())


@LENGTHS
@DTYPES
def test_weighted_sum(length: int, dtype: torch.dtype) -> None:
    stored_MN = numbers(length, dtype)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected_N = (weights[:, None] * stored_MN[:K].double()).sum(dim=0).float()
    for base in (True, False):
        found_N = weighted_sum(block_of(stored_MN, base=base), weights.tolist())
        torch.testing.assert_close(found_N, expected_N, rtol=1e-5, atol=1e-6)


@LENGTHS
@DTYPES
def test_variance(length: int, dtype: torch.dtype) -> None:
    stored_MN = numbers(length, dtype)
    expected_N = stored_MN[:K].double().var(dim=0, correction=0).float()
    found_N = variance(block_of(stored_MN))
    torch.testing.assert_close(found_N, expected_N, rtol=1e-6, atol=0)
    assert torch.all(found_N[::3] == 0)


def test_variance_of_16_bit_models_does_not_hang_on_their_order() -> None:
    """Elements of equal variance must tie, or a selection would depend on the order."""
    stored_MN = numbers(5000, torch.bfloat16)
    flipped_MN = torch.cat([stored_MN[:K].flip(0), stored_MN[K:]])
    assert torch.equal(variance(block_of(stored_MN)), variance(block_of(flipped_MN)))


@LENGTHS
@DTYPES
@pytest.mark.parametrize("with_base", [True, False])
def test_what_all_agree_on_is_taken_bit_by_bit(
    length: int, dtype: torch.dtype, with_base: bool
) -> None:
    stored_MN = numbers(length, dtype)
    stored_MN[:, ::3] = -0.0
    stored_MN[1, ::6] = 0.0  # equal as a number, not as bits
    stored_MN[K, ::9] = 1.0
    merged_N = torch.full((length,), 7.0)

    found_N = take_agreed(block_of(stored_MN), merged_N, with_base=with_base)

    rows_MN = stored_MN.float().view(torch.int32)[: K + with_base]
    same_N = (rows_MN == rows_MN[0]).all(dim=0)
    expected_N = torch.where(same_N, stored_MN[0].float(), 7.0)
    assert torch.equal(found_N.view(torch.int32), expected_N.view(torch.int32))
    assert 0 < int(same_N.sum()) < length or length < 7


@DTYPES
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_seen(dtype: torch.dtype, bad: float) -> None:
    stored_MN = numbers(3000, dtype)
    stored_MN = stored_MN if dtype == torch.bfloat16 else stored_MN.float()
    assert is_finite(Rows(stored_MN, 0), 3000)
    stored_MN[2, 2500] = bad
    assert not is_finite(Rows(stored_MN, 0), 3000)
    assert is_finite(Rows(stored_MN, 500), 2000)


@pytest.mark.parametrize("columns", [1, 2, 300, 5000])
def test_ranks_in_a_row_are_those_of_a_stable_sort(columns: int) -> None:
    keys_RC = torch.randn(3, columns, generator=torch.Generator().manual_seed(0))
    keys_RC[1] = keys_RC[1].round()  # many equal ones
    keys_RC[2, ::2] = -0.0
    keys_RC[2, 1::4] = 0.0
    expected_RC = keys_RC.argsort(dim=1, stable=True).argsort(dim=1)
    assert row_ranks(keys_RC).tolist() == expected_RC.tolist()
