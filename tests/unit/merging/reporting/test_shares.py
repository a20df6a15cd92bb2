from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from crucible_components.merging.reporting import TensorFigures
from crucible_components.merging.reporting.shares import (
    attribute,
    pool,
    pool_by_layer,
    pool_by_module,
)

Gather = Callable[..., TensorFigures]
ATTN, MLP = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"


def products(changes_KN: Tensor, merged_N: Tensor) -> Tensor:
    all_CN = torch.vstack([changes_KN, merged_N[None]]).double()
    return all_CN @ all_CN.T


def added(weights: list[float], changes_KN: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=changes_KN.dtype) @ changes_KN


@pytest.mark.parametrize("weights", [[0.5, 0.3, 0.2], [0.6, 1.2, 0.3], [0.0, 1.0, 1.0]])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_shares_of_task_arithmetic_are_its_weights(
    orthogonal: Callable[..., Tensor], weights: list[float], scale: float
) -> None:
    changes_KN = orthogonal(3, torch.float64)
    got = attribute(products(changes_KN, scale * added(weights, changes_KN)), has_base=True)
    assert got.shares == pytest.approx([w / sum(weights) for w in weights], abs=1e-12)
    assert got.explained == pytest.approx(1)
    assert got.coefficients == pytest.approx([scale * w for w in weights], abs=1e-12)


def test_shares_grow_with_length_also_at_other_angles() -> None:
    changes_KN = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    got = attribute(products(changes_KN, added([0.5, 2.0], changes_KN)), has_base=True)
    sizes = np.array([0.5 * 3, 2 * np.sqrt(2)])
    assert got.shares == pytest.approx(sizes / sizes.sum())


def test_negative_weights_count_by_size(orthogonal: Callable[..., Tensor]) -> None:
    changes_KN = orthogonal(2)
    got = attribute(products(changes_KN, added([0.75, -0.25], changes_KN)), has_base=True)
    assert got.shares == pytest.approx([0.75, 0.25], abs=1e-6)
    assert got.coefficients == pytest.approx([0.75, -0.25], abs=1e-6)


def test_what_no_source_explains_is_left_over(orthogonal: Callable[..., Tensor]) -> None:
    *sources, foreign_N = orthogonal(3, torch.float64)
    changes_KN = torch.stack(sources)
    merged_N = added([0.6, 0.6], changes_KN) + 0.4 * foreign_N
    explained = 0.72 / (0.72 + 0.16)
    got = attribute(products(changes_KN, merged_N), has_base=True)
    assert got.explained == pytest.approx(explained)
    assert got.shares == pytest.approx([explained / 2] * 2)


@pytest.mark.parametrize("ratio", [1.0, 2.0, -3.0])
def test_collinear_changes_have_equal_parts(
    orthogonal: Callable[..., Tensor], ratio: float
) -> None:
    first_N, other_N = orthogonal(2)
    changes_KN = torch.stack([first_N, ratio * first_N, other_N])
    got = attribute(products(changes_KN, first_N + other_N), has_base=True)
    assert got.shares == pytest.approx([0.25, 0.25, 0.5], abs=1e-6)


def test_noise_of_float32_is_no_direction(orthogonal: Callable[..., Tensor]) -> None:
    """Copies of one change whose products are off by a millionth stay collinear."""
    first_N = orthogonal(1)[0]
    products_CC = products(first_N.expand(2, -1), first_N)
    products_CC[0, 1] = products_CC[1, 0] = products_CC[0, 0] * (1 - 1e-6)
    products_CC[0, 2] *= 1 + 1e-6
    assert attribute(products_CC, has_base=True).shares == pytest.approx([0.5, 0.5], abs=1e-3)


def test_zero_changes_have_no_share(orthogonal: Callable[..., Tensor]) -> None:
    first_N = orthogonal(1)[0]
    changes_KN = torch.stack([torch.zeros_like(first_N), first_N])
    got = attribute(products(changes_KN, 0.3 * first_N), has_base=True)
    assert got.shares == pytest.approx([0, 1])
    unchanged = attribute(products(changes_KN, 0 * first_N), has_base=True)
    assert (unchanged.shares, unchanged.explained) == ((0.0, 0.0), 1.0)
    foreign = attribute(products(torch.zeros_like(changes_KN), first_N), has_base=True)
    assert (foreign.shares, foreign.explained) == ((0.0, 0.0), 0.0)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.3], [0.2, 0.5, 0.3], [1.0]])
def test_shares_without_a_base_are_the_weights_of_a_linear_merge(
    gather: Gather, weights: list[float]
) -> None:
    generator = torch.Generator().manual_seed(2)
    models_KN = torch.randn(len(weights), 3000, generator=generator)
    figures = gather(models_KN, None, added(weights, models_KN))
    got = attribute(figures.products_CC, has_base=False)
    assert got.shares == pytest.approx(weights, abs=1e-5)


def test_equal_models_without_a_base_have_equal_parts(gather: Gather) -> None:
    model_N = torch.randn(100, generator=torch.Generator().manual_seed(0))
    figures = gather(model_N.expand(2, -1), None, model_N)
    assert attribute(figures.products_CC, has_base=False).shares == (0.5, 0.5)


@pytest.mark.parametrize("has_base", [True, False])
def test_projection_is_numpy_s(gather: Gather, has_base: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    base_N = torch.randn(2000, generator=generator)
    mixing = torch.tensor([[1.0, 0.4, 0], [0, 0.8, 0.5], [0.2, 0, 0.6]])
    models_KN = base_N + mixing @ torch.randn(3, 2000, generator=generator)
    deltas_KN = models_KN - base_N
    merged_N = base_N + torch.where(deltas_KN.sum(0) > 0, deltas_KN.amax(0), deltas_KN.amin(0))
    figures = gather(models_KN, base_N if has_base else None, merged_N)
    got = attribute(figures.products_CC, has_base=has_base)

    deltas, change = deltas_KN.double().numpy().T, (merged_N - base_N).double().numpy()
    if has_base:
        weights = np.linalg.lstsq(deltas, change, rcond=None)[0]
        sizes, energy = np.abs(weights) * np.linalg.norm(deltas, axis=0), change @ change
    else:
        # Weights that add up to 1 are free differences from the first model.
        free = np.linalg.lstsq(deltas[:, 1:] - deltas[:, :1], change - deltas[:, 0], rcond=None)[0]
        weights = np.array([1 - free.sum(), *free])
        spread, moved = deltas - deltas.mean(1, keepdims=True), change - deltas.mean(1)
        sizes, energy = np.abs(weights), moved @ moved + (spread**2).sum() / 3
    rest = change - deltas @ weights
    explained = 1 - rest @ rest / energy
    assert 0.3 < explained < 0.99, "the case leaves a rest"
    assert got.coefficients == pytest.approx(weights, abs=1e-4)
    assert got.explained == pytest.approx(explained, abs=1e-4)
    assert got.shares == pytest.approx(explained * sizes / sizes.sum(), abs=1e-4)


def test_pool_weighs_tensors_by_what_changed(
    gather: Gather, orthogonal: Callable[..., Tensor]
) -> None:
    base_N, changes_KN = torch.ones(64), orthogonal(2)
    quiet = gather(base_N + changes_KN, base_N, base_N + added([1.0, 0.0], changes_KN))
    loud = gather(base_N + changes_KN, base_N, base_N + added([0.0, 3.0], changes_KN))
    got = pool("all", [quiet, loud], ("a", "b"))
    assert got.shares == pytest.approx([0.1, 0.9], abs=1e-5)
    assert got.relative_change(0) == pytest.approx(1 / 8, rel=1e-5)
    assert got.relative_change(-1) == pytest.approx(np.sqrt(10 / 128), rel=1e-5)
    assert got.cosine(0) == pytest.approx(1 / np.sqrt(2 * 10), abs=1e-5)
    assert got.mean_cosine() == pytest.approx(0, abs=1e-5)
    assert got.num_elements == 128


def test_pool_weighs_tensors_without_base_by_elements(gather: Gather) -> None:
    """As of stacked layers: each tensor comes from one model."""
    short, long = torch.randn(2, 100), torch.randn(3, 100).flatten()
    first = gather(short[:1], None, short[0], sources=("b",))
    second = gather(long[None], None, long, sources=("a",), copied_from="a")
    got = pool("all", [first, second], ("a", "b"))
    assert got.shares == (0.75, 0.25)
    assert (got.explained, got.num_copied) == (1.0, 1)
    assert got.mean_cosine() is None


def test_tensors_without_base_do_not_dilute_those_with_one(
    gather: Gather, orthogonal: Callable[..., Tensor]
) -> None:
    base_N, changes_KN = torch.ones(64), orthogonal(2)
    models_KN = base_N + changes_KN
    merged = gather(models_KN, base_N, base_N + added([0.5, 0.5], changes_KN))
    copied = gather(100 * models_KN[1:], None, 100 * models_KN[1], sources=("b",), copied_from="b")
    got = pool("all", [copied, merged], ("a", "b"))
    assert got.shares == pytest.approx([0.5, 0.5], abs=1e-5)
    assert (got.num_tensors, got.num_elements, got.num_compared) == (2, 128, 64)
    assert pool("copied", [copied], ("a", "b")).shares == (0.0, 1.0)


def test_sources_are_found_by_name_and_may_come_twice(
    gather: Gather, orthogonal: Callable[..., Tensor]
) -> None:
    base_N, changes_KN = torch.zeros(64), orthogonal(3)
    merged_N = added([0.2, 0.5, 0.3], changes_KN)
    figures = gather(changes_KN, base_N, merged_N, sources=("x", "y", "x"))
    got = pool("all", [figures], ("y", "unused", "x", "x"))
    assert got.shares == pytest.approx([0.5, 0, 0.2, 0.3], abs=1e-6)
    with pytest.raises(ValueError, match=r"mlp\.up_proj\.weight: source 'x' is not among x, y\."):
        pool("all", [figures], ("x", "y"))


def test_figures_that_are_not_finite_are_left_out(gather: Gather) -> None:
    base_N = torch.ones(64)
    sound = gather(2 * base_N[None], base_N, 1.5 * base_N)
    broken = gather(torch.full((1, 64), torch.nan), base_N, base_N)
    got = pool("all", [sound, broken], ("a",))
    assert got.shares == pytest.approx([1.0])
    assert got.relative_change(0) == pytest.approx(1)
    assert (got.num_broken, got.num_elements, got.num_compared) == (1, 128, 64)
    assert pool("broken", [broken], ("a",)).shares == (0.0,)


def test_modules_and_layers_are_pooled_in_their_order(
    gather: Gather, orthogonal: Callable[..., Tensor]
) -> None:
    base_N, changes_KN = torch.ones(64), orthogonal(2)

    def figures(name: str, weights: list[float]) -> TensorFigures:
        merged_N = base_N + added(weights, changes_KN)
        return gather(base_N + changes_KN, base_N, merged_N, name=name)

    every = [
        figures("model.layers.10.mlp.up_proj.weight", [1.0, 0.0]),
        figures("lm_head.weight", [1.0, 0.0]),
        figures(MLP, [0.0, 1.0]),
        figures(ATTN, [1.0, 0.0]),
        figures(ATTN.replace("q_proj", "k_proj"), [0.0, 1.0]),
    ]
    modules, layers = (by(every, ("a", "b")) for by in (pool_by_module, pool_by_layer))
    found = {(at.layer_name, each.name): each.shares for at, each in modules.items()}
    assert list(found) == [
        ("model.layers.0", "self_attn"),
        ("model.layers.0", "mlp"),
        ("model.layers.10", "mlp"),
        ("language, outside of layers", "head"),
    ]
    assert list(found.values())[:2] == [pytest.approx((0.5, 0.5)), pytest.approx((0, 1), abs=1e-5)]
    assert [each.num_tensors for each in layers.values()] == [3, 1, 1]
    assert next(iter(layers.values())).shares == pytest.approx((1 / 3, 2 / 3), abs=1e-5)
