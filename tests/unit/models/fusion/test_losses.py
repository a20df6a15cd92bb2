from __future__ import annotations

import torch
from torch.nn import functional

from crucible_components.models.fusion.losses import answer_loss, mapping_loss


def test_mapping_loss_is_zero_for_equal_and_two_for_opposite_directions() -> None:
    target = torch.randn(2, 5, 7)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    assert mapping_loss(3 * target, target, mask).abs() < 1e-6
    assert (mapping_loss(-target, target) - 2).abs() < 1e-6


def test_mapping_loss_equals_the_cosine_embedding_loss_of_the_chosen_positions() -> None:
    mapped, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 1]]).bool()
    expected = functional.cosine_embedding_loss(mapped[mask], target[mask], torch.ones(6))
    torch.testing.assert_close(mapping_loss(mapped, target, mask), expected)


def test_mapping_loss_of_nothing_is_zero() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert mapping_loss(torch.randn(2, 3, 4), torch.randn(2, 3, 4), nothing) == 0


def test_answer_loss_is_the_mean_or_the_sum_over_a_given_count() -> None:
    logits, targets = torch.randn(6, 11), torch.randint(11, (6,))
    mean = functional.cross_entropy(logits, targets)
    torch.testing.assert_close(answer_loss(logits, targets), mean)
    torch.testing.assert_close(answer_loss(logits, targets, 12), mean / 2)
    assert answer_loss(logits[:0], targets[:0]) == 0
