"""What holds for every method, whatever its formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from crucible_components.merging.kernels import tensors
from crucible_components.merging.methods import METHODS
from crucible_components.merging.testing import merge

T = TypeVar("T")
SHAPE = (40, 50)
SETTINGS: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.3},
    "nearswap": {"t": 0.05},
    "ties": {"density": 0.4, "rescale": True},
    "sce": {"select_topk": 0.3},
    "nuslerp": {"nuslerp_flatten": False},
    "model_stock": {"filter_wise": True},
    "breadcrumbs": {"density": 0.4, "gamma": 0.05},
    "breadcrumbs_ties": {"density": 0.4, "gamma": 0.05},
    **{name: {"density": 0.6} for name in ("dare_linear", "dare_ties", "della", "della_linear")},
}
ALL = pytest.mark.parametrize("name", sorted(METHODS))


def settings_of(name: str) -> dict[str, Any]:
    has_weight = any(parameter.name == "weight" for parameter in METHODS[name].parameters)
    return {**({"weight": 0.5} if has_weight else {}), **SETTINGS.get(name, {})}


def models_of(name: str, *, equal: bool = False) -> tuple[list[Tensor], Tensor | None]:
    method = METHODS[name]
    count = min(3, method.max_models or 3)
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(SHAPE, generator=generator)
    changes = [0.1 * torch.randn(SHAPE, generator=generator) for _ in range(count)]
    models = [base + changes[0 if equal else number] for number in range(count)]
    return models, None if method.base == "none" else base


@ALL
def test_blocks_and_threads_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models, base = models_of(name)
    monkeypatch.setattr(tensors, "BLOCK_ELEMENTS", 250)

    with ThreadPoolExecutor(4) as pool:

        def shared(work: Callable[[slice], T], spans: list[slice]) -> Iterator[T]:
            return pool.map(work, spans)

        threaded = merge(name, models, base, mapper=shared, **settings_of(name))
    alone = merge(name, models, base, **settings_of(name))
    assert torch.equal(threaded, alone)


@ALL
def test_what_did_not_change_stays(name: str) -> None:
    """Models that are equal to the base, and so to each other, give it back."""
    method = METHODS[name]
    models, _ = models_of(name, equal=True)
    base = None if method.base == "none" else models[0].clone()
    merged = merge(name, [models[0].clone() for _ in models], base, **settings_of(name))
    tolerance = 1e-6 if name in ("nuslerp", "multislerp", "slerp", "linear", "karcher") else 0.0
    torch.testing.assert_close(merged, models[0], rtol=tolerance, atol=tolerance)


@ALL
def test_the_order_of_equal_models_does_not_count(name: str) -> None:
    if METHODS[name].is_random or METHODS[name].max_models == 1:
        pytest.skip("masks are drawn by position" if METHODS[name].is_random else "takes one model")
    models, base = models_of(name)
    there = merge(name, models, base, **settings_of(name))
    back = merge(name, models[::-1], base, **settings_of(name))
    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-6)


@ALL
def test_all_floating_types_are_merged_in_the_type_asked_for(name: str) -> None:
    models, base = models_of(name)
    for dtype in (torch.bfloat16, torch.float16):
        low = [model.to(dtype) for model in models]
        low_base = None if base is None else base.to(dtype)
        merged = merge(name, low, low_base, **settings_of(name))
        assert merged.dtype == torch.float32
        assert bool(merged.isfinite().all())
        assert bool(merge(name, low, low_base, dtype=dtype, **settings_of(name)).isfinite().all())


@pytest.mark.parametrize("name", [n for n in sorted(METHODS) if "density" in str(METHODS[n])])
def test_density_1_thins_nothing_out(name: str) -> None:
    models, base = models_of(name)
    plain = "ties" if name.endswith("ties") or name == "della" else "task_arithmetic"
    normalize = False
    thinned = merge(name, models, base, weight=0.5, density=1.0, normalize=normalize)
    torch.testing.assert_close(
        thinned, merge(plain, models, base, weight=0.5, normalize=normalize), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", [n for n in sorted(METHODS) if METHODS[n].is_random])
def test_a_seed_draws_the_same_and_another_does_not(name: str) -> None:
    models, base = models_of(name)
    first = merge(name, models, base, random_seed=1, **settings_of(name))
    assert torch.equal(first, merge(name, models, base, random_seed=1, **settings_of(name)))
    assert not torch.equal(first, merge(name, models, base, random_seed=2, **settings_of(name)))
