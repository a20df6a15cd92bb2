"""The largest elements are exactly those that a sort would choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_components.merging.kernels import tensors
from crucible_components.merging.testing import in_memory


def chosen(values_N: torch.Tensor, count: int) -> list[int]:
    walked = in_memory([values_N], None)
    mask = walked.top(lambda block: block.models_KN, [count])
    parts = [mask(walked.block(s).models_KN, s.start)[0].bool() for s in walked.spans]
    return torch.cat(parts).nonzero()[:, 0].tolist()


def by_sorting(values_N: torch.Tensor, count: int) -> list[int]:
    order = np.argsort(-values_N.numpy(), kind="stable")
    return sorted(order[:count].tolist())


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_as_a_stable_sort_chooses(data: st.DataObject) -> None:
    few = st.sampled_from([0.0, -0.0, 0.5, 1.0, -2.0, 2.0**127, -(2.0**127), 1e-45])
    numbers = few | st.floats(-10, 10, width=32)
    values = data.draw(st.lists(numbers, min_size=1, max_size=60))
    count = data.draw(st.integers(0, len(values)))
    patch = pytest.MonkeyPatch()
    with patch.context() as small:
        small.setattr(tensors, "BLOCK_ELEMENTS", 7)
        values_N = torch.tensor(values)
        assert chosen(values_N, count) == by_sorting(values_N, count)


@pytest.mark.parametrize("kind", ["normal", "sorted", "bfloat16", "constant", "two"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
def test_of_many_elements(kind: str, share: float) -> None:
    """Of several blocks, with many equal ones."""
    generator = torch.Generator().manual_seed(0)
    values_N = torch.randn(700_001, generator=generator)
    values_N = {
        "normal": values_N,
        "sorted": values_N.sort().values,
        "bfloat16": values_N.bfloat16().float(),
        "constant": torch.full_like(values_N, 0.25),
        "two": (values_N > 1).float(),
    }[kind]
    count = int(share * values_N.numel())
    assert chosen(values_N, count) == by_sorting(values_N, count)


def test_each_row_has_its_own_number() -> None:
    rows = [torch.tensor([1.0, 3.0, 2.0]), torch.tensor([5.0, 5.0, 5.0])]
    walked = in_memory(rows, None)
    mask = walked.top(lambda block: block.models_KN, [1, 2])
    block = walked.block(slice(0, 3))
    assert mask(block.models_KN, 0).bool().tolist() == [
        [False, True, False],
        [True, True, False],
    ]


def test_keys_of_narrower_arithmetic() -> None:
    """Of which many are the same, so that the last ones are looked for by position."""
    values_N = torch.randn(5000, generator=torch.Generator().manual_seed(0)).round().bfloat16()
    walked = in_memory([values_N], None, dtype=torch.bfloat16)
    mask = walked.top(lambda block: block.models_KN, [2501])
    block = walked.block(slice(0, 5000))
    found = mask(block.models_KN, 0)[0].nonzero()[:, 0].tolist()
    assert found == by_sorting(values_N.float(), 2501)
