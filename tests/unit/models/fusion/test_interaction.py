from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crucible_components.models.fusion.attention import attend
from crucible_components.models.fusion.interaction import InteractionLayer, TurnPositions


@pytest.fixture
def layer() -> InteractionLayer:
    torch.manual_seed(0)
    return InteractionLayer(width=16, num_heads=4)


@pytest.fixture
def positions() -> TurnPositions:
    """Two turns of four latents in the first sequence, one in the second."""
    return TurnPositions(torch.tensor([[7, 16], [7, -1]]), torch.tensor([[2, 11], [2, -1]]), 4)


@pytest.fixture
def states() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden_BSD = torch.randn(2, 20, 16, generator=generator)
    return hidden_BSD, torch.randn(2, 4, 9, 16, generator=generator)


def _reference(layer: InteractionLayer, context: Tensor, latent: Tensor, window: Tensor) -> Tensor:
    """One latent's update written out with PyTorch's own multi-head attention."""
    x = layer.query_in(torch.cat([context, latent]))
    k = layer.context_in(window)
    attention = torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(
            torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight])
        )
        attention.out_proj.weight.copy_(layer.o_proj.weight)
    seen, _ = attention(layer.norm_q(x)[None, None], layer.norm_k(k)[None], layer.norm_v(k)[None])
    y = layer.norm_out(seen[0, 0] + x)
    return layer.fc2(torch.nn.functional.gelu(layer.fc1(y))) + latent


def test_each_latent_is_updated_as_written_in_the_method(
    layer: InteractionLayer, positions: TurnPositions, states: tuple[Tensor, Tensor]
) -> None:
    hidden, windows = states
    with torch.no_grad():
        updated = layer(hidden, windows, None, positions)
        for row, turn in ((0, 0), (0, 1), (1, 0)):
            context = hidden[row, positions.end_BL[row, turn]]
            for latent in range(4):
                at = positions.latent_start_BL[row, turn] + latent
                expected = _reference(layer, context, hidden[row, at], windows[row, latent])
                torch.testing.assert_close(updated[row, at], expected)


def test_only_latents_of_real_turns_change(
    layer: InteractionLayer, positions: TurnPositions, states: tuple[Tensor, Tensor]
) -> None:
    hidden, windows = states
    updated = layer(hidden, windows, None, positions)
    changed = (updated != hidden).any(-1)
    expected = torch.zeros(2, 20, dtype=torch.bool)
    expected[0, 2:6] = expected[0, 11:15] = expected[1, 2:6] = True
    assert torch.equal(changed, expected)


def test_sequences_may_share_a_picture(
    layer: InteractionLayer, positions: TurnPositions, states: tuple[Tensor, Tensor]
) -> None:
    hidden, windows = states
    shared = layer(hidden, windows, torch.tensor([1, 1]), positions)
    copied = layer(hidden, windows[[1, 1]], None, positions)
    torch.testing.assert_close(shared, copied)


@pytest.mark.parametrize("masked", [False, True])
def test_matmul_attention_equals_the_fused_one(masked: bool) -> None:
    query, key, value = (torch.randn(2, 3, 5, 8) for _ in range(3))
    mask = torch.rand(2, 1, 5, 5) > 0.3 if masked else None
    if mask is not None:
        mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    torch.testing.assert_close(attend(query, key, value, mask), expected)
