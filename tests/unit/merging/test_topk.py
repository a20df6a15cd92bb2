from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_components.merging import topk
from crucible_components.merging.topk import blocks, top_k_mask

values_with_ties = st.lists(
    st.sampled_from([0.0, -0.0, 1e-42, 1e-20, 0.5, 0.5000001, 1.0, 3e38]), max_size=40
)


@settings(deadline=None)
@given(values=values_with_ties, share=st.floats(0, 1))
def test_equals_a_stable_descending_sort(values: list[float], share: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    k = int(share * len(values))
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[torch.sort(tensor, descending=True, stable=True).indices[:k]] = True
    assert torch.equal(top_k_mask(tensor, k), expected)


def test_equals_topk_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK_ELEMENTS", 1000)
    values = torch.rand(10_123, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(10_123, dtype=torch.bool)
    expected[values.topk(777).indices] = True
    assert torch.equal(top_k_mask(values, 777), expected)


def test_ties_across_blocks_go_to_the_lowest_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK_ELEMENTS", 10)
    mask = top_k_mask(torch.ones(35), 23)
    assert mask.nonzero().flatten().tolist() == list(range(23))


@pytest.mark.parametrize("k", [-1, 4])
def test_refuses_a_k_outside_the_tensor(k: int) -> None:
    with pytest.raises(ValueError, match="not between 0 and the 3 elements"):
        top_k_mask(torch.ones(3), k)


def test_blocks_cover_all_elements_once() -> None:
    covered = [i for span in blocks(2 * topk.BLOCK_ELEMENTS + 3) for i in (span.start, span.stop)]
    size = topk.BLOCK_ELEMENTS
    assert covered == [0, size, size, 2 * size, 2 * size, 2 * size + 3]
    assert list(blocks(0)) == []
