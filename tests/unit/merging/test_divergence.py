from __future__ import annotations

import pytest
import torch

from crucible_components.merging.divergence import measure_divergence

BASE = torch.tensor([3.0, 0.0, 4.0])


def test_closed_form() -> None:
    changes = [torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, -2.0])]
    found = measure_divergence([BASE + change for change in changes], BASE)
    assert found.gram_KK.tolist() == [[5.0, -2.0], [-2.0, 9.0]]
    assert found.mean_cosine() == pytest.approx(-2 / (45**0.5))
    assert found.conflict_fraction == pytest.approx(1 / 3)
    assert found.relative_change(0) == pytest.approx(5**0.5 / 5)


def test_mean_cosine_is_over_pairs() -> None:
    changes = [torch.tensor(c) for c in ([1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0])]
    found = measure_divergence([BASE + change for change in changes], BASE)
    assert found.mean_cosine() == pytest.approx((0 + 2 * 0.5**0.5) / 3)


def test_parts_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    base, *sources = torch.randn(3, 100, generator=generator)
    whole = measure_divergence(sources, base)
    parts = [
        measure_divergence([s[span] for s in sources], base[span])
        for span in (slice(0, 30), slice(30, 100))
    ]
    total = parts[0] + parts[1]
    torch.testing.assert_close(total.gram_KK, whole.gram_KK, rtol=1e-5, atol=1e-4)
    assert total.num_conflicts == whole.num_conflicts
    assert total.num_elements == 100


def test_nothing_changed_has_no_direction() -> None:
    found = measure_divergence([torch.zeros(3), torch.zeros(3)], torch.zeros(3))
    assert (found.mean_cosine(), found.relative_change(0), found.conflict_fraction) == (0, 0, 0)
