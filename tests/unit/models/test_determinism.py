"""The switch is on inside, as it was outside; what it is for gives the same bits."""

from __future__ import annotations

import torch

from crucible_components.models.determinism import deterministic


def test_settings_are_put_back_whatever_they_were() -> None:
    memory = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert not memory.fill_uninitialized_memory
        with deterministic():
            pass
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert memory.fill_uninitialized_memory == filled


def test_gradients_of_indexing_add_up_in_one_order() -> None:
    """Thousands of unequal terms an element: in another order the sum has other bits."""
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(2, 64, requires_grad=True)
    rows = torch.randint(2, (4096,), generator=generator)
    scale = torch.randn(4096, 64, generator=generator).exp()
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with deterministic():
            grads = [torch.autograd.grad((table[rows] * scale).sum(), table)[0] for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grad, grads[0]) for grad in grads)
