from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from crucible_components.merging.kernels import Rows
from crucible_components.merging.reporting import Accumulator, TensorFigures, figures_of


def tensors(num_models: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Models, base and a merged tensor, with many elements that did not change."""
    generator = torch.Generator().manual_seed(5)
    base_N = torch.randn(size, generator=generator)
    changes_KN = 0.01 * torch.randn(num_models, size, generator=generator)
    changes_KN *= torch.rand(num_models, size, generator=generator) < 0.5
    models_KN = base_N + changes_KN
    merged_N = torch.where(torch.rand(size, generator=generator) < 0.3, base_N, models_KN.mean(0))
    return models_KN, base_N, merged_N


@pytest.mark.parametrize("num_models", [1, 2, 3, 5])
@pytest.mark.parametrize("has_base", [True, False])
def test_figures_are_numpy_s(
    gather: Callable[..., TensorFigures], num_models: int, has_base: bool
) -> None:
    models_KN, base_N, merged_N = tensors(num_models, 5000)
    got = gather(models_KN, base_N if has_base else None, merged_N)

    models, merged = models_KN.double().numpy(), merged_N.double().numpy()
    mean_N = models_KN.double().mean(dim=0).float()
    origin = (base_N if has_base else mean_N).double().numpy()
    changes = np.vstack([models - origin, merged - origin])
    expected = changes @ changes.T
    bound = 1e-6 * np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    assert (np.abs(np.array(got.products) - expected) <= bound).all()
    assert got.origin_energy == pytest.approx(origin @ origin, rel=1e-6)
    contested = (changes[:-1] > 0).any(axis=0) & (changes[:-1] < 0).any(axis=0)
    assert got.num_conflicts == (contested.sum() if has_base else 0)
    assert got.num_changed == (changes[-1] != 0).sum()
    assert got.num_elements == 5000
    assert (got.num_conflicts > 300) == (has_base and num_models > 1), "the case has conflicts"


def test_conflicts_need_both_signs(gather: Callable[..., TensorFigures]) -> None:
    """Zeros agree with everything; changes too small for their product to exist still count."""
    models_KN = torch.tensor([[1.0, 0, 0, -1, -0.0, 1e-30], [1, -1, 0, 2, 0.0, -1e-30]])
    got = gather(models_KN, torch.zeros(6), torch.tensor([0.0, 0, 0, 0, 3, 0]))
    assert (got.num_conflicts, got.num_changed) == (2, 1)


def test_blocks_add_up_to_the_tensor(gather: Callable[..., TensorFigures]) -> None:
    models_KN, base_N, merged_N = tensors(3, 4096)
    whole = gather(models_KN, base_N, merged_N)
    accumulator = Accumulator(whole.name, whole.sources, has_base=True)
    stored_MN = torch.cat([models_KN, base_N[None]])
    for start in range(0, 4096, 1000):
        span = slice(start, start + 1000)
        accumulator.add(Rows(stored_MN, start), merged_N[span])
    got = accumulator.figures()
    counts = ("num_conflicts", "num_changed", "num_elements")
    assert [getattr(got, n) for n in counts] == [getattr(whole, n) for n in counts]
    torch.testing.assert_close(got.products_CC, whole.products_CC, rtol=1e-5, atol=1e-9)
    assert got.origin_energy == pytest.approx(whole.origin_energy, rel=1e-6)


def test_threads_change_no_bit() -> None:
    models_KN, base_N, merged_N = tensors(3, 20_000)
    stored_MN = torch.cat([models_KN, base_N[None]])
    spans = [slice(start, start + 500) for start in range(0, 20_000, 500)]
    alone = Accumulator("w", ("a", "b", "c"), has_base=True)
    for span in spans:
        alone.add(Rows(stored_MN, span.start), merged_N[span])
    shared = Accumulator("w", ("a", "b", "c"), has_base=True)
    with ThreadPoolExecutor(4) as threads:
        for part in threads.map(
            lambda span: figures_of(Rows(stored_MN, span.start), merged_N[span], has_base=True),
            spans,
        ):
            shared.take(part)
    assert shared.figures() == alone.figures()


def test_parts_are_summed_in_float64() -> None:
    """2,000 blocks of which each adds what float32 would lose beside the first."""
    accumulator = Accumulator("w", ("a",), has_base=True)
    big, small = torch.full((1, 1), 1e4), torch.full((1, 1), 1.0)
    nothing = torch.zeros(1, 1)
    accumulator.add(Rows(torch.cat([big, nothing]), 0), big[0])
    for _ in range(2000):
        accumulator.add(Rows(torch.cat([small, nothing]), 0), small[0])
    assert accumulator.figures().products[0][0] == 1e8 + 2000


@pytest.mark.parametrize("copied_from", [None, "a"])
def test_json_gives_back_every_bit(
    gather: Callable[..., TensorFigures], copied_from: str | None
) -> None:
    figures = gather(*tensors(3, 777), copied_from=copied_from)
    line = json.dumps(figures.to_json())
    assert "\n" not in line
    assert TensorFigures.from_json(json.loads(line)) == figures
    other = json.loads(line)
    other["products"][1][2] = math.nextafter(other["products"][1][2], math.inf)
    assert TensorFigures.from_json(other) != figures


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["model", "base", "merged"])
def test_what_is_not_finite_is_told(
    gather: Callable[..., TensorFigures], value: float, where: str
) -> None:
    models_KN, base_N, merged_N = tensors(2, 64)
    assert gather(models_KN, base_N, merged_N).is_finite
    {"model": models_KN[1], "base": base_N, "merged": merged_N}[where][7] = value
    got = gather(models_KN, base_N, merged_N)
    assert not got.is_finite
    assert not TensorFigures.from_json(json.loads(json.dumps(got.to_json()))).is_finite


def test_a_tensor_without_elements_has_figures() -> None:
    figures = Accumulator("w", ("a", "b"), has_base=True).figures()
    assert figures.num_elements == 0
    assert figures.products == ((0.0,) * 3,) * 3
