from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crucible_components.merging.config import SceMethod
from crucible_components.merging.sce import NOISE_FRACTION, merge_sce

VARIANTS = ["P", "R", "U"]
ALL_DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def sce(select_topk: float = 1.0, variant: str = "U") -> SceMethod:
    return SceMethod.model_validate({"name": "sce", "select_topk": select_topk, "variant": variant})


def reference(tensors: list[Tensor], base: Tensor, method: SceMethod) -> Tensor:
    """SCE element by element in Python floats, straight from the four steps."""
    deltas = [[float(a) - float(b) for a, b in zip(t, base, strict=True)] for t in tensors]
    count, size = len(deltas), len(base)
    means = [sum(d[n] for d in deltas) / count for n in range(size)]
    variance = [sum((d[n] - means[n]) ** 2 for d in deltas) / count for n in range(size)]
    order = sorted(range(size), key=lambda n: (-variance[n], n))
    k = int(method.select_topk * sum(v > 0 for v in variance))
    chosen = set(range(size)) if method.select_topk == 1.0 else set(order[:k])
    hats = [[d[n] if n in chosen else 0.0 for n in range(size)] for d in deltas]
    energies = [sum(x * x for x in hat) for hat in hats]
    total = sum(energies)
    eta = [e / total if total else 1 / count for e in energies]
    used = deltas if method.variant == "R" else hats
    merged = []
    for n in range(size):
        sign = 1 if sum(d[n] for d in used) >= 0 else -1
        kept = [j for j in range(count) if used[j][n] * sign > 0]
        change = sum(eta[j] * used[j][n] for j in kept)
        divisor = sum(eta[j] for j in kept)
        if method.variant != "P" and divisor > 0:
            change /= max(divisor, 1e-6 if method.variant == "U" else 0)
        merged.append(float(base[n]) + change)
    return torch.tensor(merged)


@pytest.mark.parametrize(
    ("variant", "select_topk", "expected"),
    [
        ("P", 1.0, [1.611111, -0.777778, 1.166667, 2.444444]),
        ("R", 1.0, [1.611111, -2, 3, 4]),
        ("U", 1.0, [1.611111, -2, 3, 4]),
        ("P", 0.5, [0, 0, 1.038462, 2.615385]),
        ("R", 0.5, [1.653846, -2, 3, 4]),
        ("U", 0.5, [0, 0, 3, 4]),
    ],
)
def test_golden_vectors(variant: str, select_topk: float, expected: list[float]) -> None:
    sources = [torch.tensor([1.0, -2, 3, 0]), torch.tensor([2.0, 1, -1, 4])]
    merged = merge_sce(sources, torch.zeros(4), sce(select_topk, variant))
    wanted = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(merged.tensor, wanted, atol=1e-6, rtol=0)
    shares = (0.388889, 0.611111) if select_topk == 1.0 else (0.346154, 0.653846)
    assert merged.weights == pytest.approx(shares, abs=1e-6)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_sources=st.integers(2, 5),
    select_topk=st.sampled_from([0.0, 0.1, 0.37, 0.5, 0.9, 1.0]),
    variant=st.sampled_from(VARIANTS),
)
def test_equals_the_definition(
    seed: int, num_sources: int, select_topk: float, variant: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(23, generator=generator)
    changed = torch.rand(num_sources, 23, generator=generator) > 0.3
    noise = torch.randn(num_sources, 23, generator=generator)
    sources = list(base + noise * changed)
    method = sce(select_topk, variant)
    merged = merge_sce(sources, base, method).tensor
    torch.testing.assert_close(merged, reference(sources, base, method), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_equal_sources_are_taken_over_to_the_byte(variant: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(1000, generator=generator).to(dtype)
    # Large changes: base + (source - base) would lose the low bits.
    source = (torch.randn(1000, generator=generator) * 1e-4).to(dtype)
    merged = merge_sce([source, source.clone(), source.clone()], base, sce(1.0, variant))
    assert torch.equal(merged.tensor.view(torch.uint8), source.view(torch.uint8))
    assert merged.weights == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("select_topk", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_merging_the_base_with_itself_is_the_identity(
    variant: str, select_topk: float, dtype: torch.dtype
) -> None:
    base = torch.randn(50, 7, generator=torch.Generator().manual_seed(2)).to(dtype)
    merged = merge_sce([base, base.clone()], base, sce(select_topk, variant)).tensor
    assert torch.equal(merged.view(torch.uint8), base.view(torch.uint8))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("select_topk", [0.4, 1.0])
def test_the_order_of_sources_does_not_matter(variant: str, select_topk: float) -> None:
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(5000, generator=generator)
    sources = [base + torch.randn(5000, generator=generator) * s for s in (1e-3, 1.0, 1e3)]
    merged = merge_sce(sources, base, sce(select_topk, variant))
    turned = merge_sce(sources[::-1], base, sce(select_topk, variant))
    torch.testing.assert_close(turned.tensor, merged.tensor, rtol=1e-5, atol=1e-5)
    assert turned.weights == pytest.approx(merged.weights[::-1])


def test_the_elected_sign_is_exact_where_float32_would_cancel() -> None:
    changes = [1e8, -1.0, -1e8]
    for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2]):
        sources = [torch.tensor([changes[i]]) for i in order]
        assert merge_sce(sources, torch.zeros(1), sce(1.0, "R")).tensor.item() < 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_selecting_nothing_keeps_the_base_except_in_r(variant: str) -> None:
    base, sources = torch.zeros(2), [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])]
    merged = merge_sce(sources, base, sce(0.0, variant)).tensor
    assert merged.tolist() == ([2.0, 2.0] if variant == "R" else [0.0, 0.0])


def test_light_changes_keep_their_shares_in_u() -> None:
    """Upstream's absolute threshold would give equal weights here; the relative one does not."""
    base = torch.ones(100)
    sources = [base + 1e-5, base + 3e-5]
    shares = merge_sce(sources, base, sce(1.0, "U")).weights
    assert shares == pytest.approx((0.1, 0.9), rel=0.02)


def test_changes_lost_in_float32_noise_share_equally_in_u_only() -> None:
    base = torch.ones(1000) * 2.0**30
    change = torch.zeros(1000)
    change[0] = NOISE_FRACTION * 2.0**30 * 16
    sources = [base + change * 8, base - change * 16]
    assert merge_sce(sources, base, sce(1.0, "R")).weights == (0.2, 0.8)
    assert merge_sce(sources, base, sce(1.0, "U")).weights == (0.2, 0.8)
    faint = [torch.full((1000,), 1e-9), torch.full((1000,), 2e-9)]
    spiked = [torch.cat([f, torch.ones(1) * 1e3]) for f in (torch.zeros(1000), *faint)]
    assert merge_sce(spiked[1:], spiked[0], sce(1.0, "U")).weights == (0.5, 0.5)
    assert merge_sce(spiked[1:], spiked[0], sce(1.0, "R")).weights == pytest.approx((0.2, 0.8))


def test_mixed_types_are_merged_in_float32_with_one_rounding() -> None:
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(400, generator=generator).to(torch.bfloat16)
    sources = [
        (base.float() + torch.randn(400, generator=generator)).to(dtype) for dtype in ALL_DTYPES
    ]
    wide = merge_sce([s.float() for s in sources], base.float(), sce(0.5)).tensor
    assert torch.equal(merge_sce(sources, base, sce(0.5)).tensor, wide.to(torch.bfloat16))
    as_half = merge_sce(sources, base, sce(0.5), out_dtype=torch.float16).tensor
    assert torch.equal(as_half, wide.to(torch.float16))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 4)])
def test_keeps_any_shape(shape: tuple[int, ...]) -> None:
    sources = [torch.full(shape, 3.0), torch.full(shape, 4.0)]
    assert merge_sce(sources, torch.ones(shape), sce(0.5)).tensor.shape == shape
