"""The contract of the GRPO loss, against closed forms and autograd on small distributions.

Legend: B answers, T tokens, A vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from crucible_components.rl.config import LossType
from crucible_components.rl.loss import (
    BatchTotals,
    GrpoLoss,
    LossSettings,
    grpo_loss,
    k3_divergence,
)

LOSS_TYPES: list[LossType] = ["grpo", "dapo", "dr_grpo"]
LENGTHS = (1, 4, 2, 3)
MAX_TOKENS = 5


def settings(loss_type: LossType = "dapo", **changes: float) -> LossSettings:
    plain = LossSettings(loss_type, 0.2, 0.28, 0.0, MAX_TOKENS)
    return replace(plain, **changes)  # type: ignore[arg-type]


def mask_of(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def totals_of(mask_BT: Tensor) -> BatchTotals:
    return BatchTotals(num_answers=len(mask_BT), num_tokens=int(mask_BT.sum()))


def toy(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (B, T, A) of a toy policy, tokens, mask and advantages."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 4, 6, generator=generator, dtype=torch.float64)
    tokens = torch.randint(6, (4, 4), generator=generator)
    advantages = torch.randn(4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), tokens, mask_of(LENGTHS), advantages


def logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(2, tokens[..., None]).squeeze(2)


def loss_at_ratio(ratio: float, advantage: float, chosen: LossSettings) -> tuple[GrpoLoss, float]:
    """Loss of one token with that ratio, and its gradient by the new log-probability."""
    new = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    mask = torch.tensor([[True]])
    old = torch.tensor([[-1.0]])
    found = grpo_loss(new, old, mask, torch.tensor([advantage]), BatchTotals(1, 1), settings=chosen)
    (gradient,) = torch.autograd.grad(found.loss, new)
    return found, float(gradient)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_1_on_policy_gradient_is_the_policy_gradient(loss_type: LossType) -> None:
    logits, tokens, mask, advantages = toy()
    new = logprobs(logits, tokens)
    found = grpo_loss(
        new, new.detach(), mask, advantages, totals_of(mask), settings=settings(loss_type)
    )
    (actual,) = torch.autograd.grad(found.loss, logits)
    # d log softmax(z)[a] / dz = onehot(a) - softmax(z), weighted as the papers average.
    score = torch.nn.functional.one_hot(tokens, 6) - logits.detach().softmax(-1)
    weights = {
        "grpo": mask / torch.tensor(LENGTHS)[:, None] / 4,
        "dapo": mask / sum(LENGTHS),
        "dr_grpo": mask / (4 * MAX_TOKENS),
    }[loss_type]
    expected = -(weights * advantages[:, None])[..., None] * score
    torch.testing.assert_close(actual, expected.to(actual))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@hypothesis_settings(deadline=None)
@given(order=st.permutations(range(4)), cut=st.integers(1, 3))
def test_2_any_split_into_micro_batches_gives_the_same_gradient(
    loss_type: LossType, order: list[int], cut: int
) -> None:
    logits, tokens, mask, advantages = toy()
    old = logprobs(logits, tokens).detach() + 0.3
    ref = old - 0.5
    chosen = settings(loss_type, beta_kl=0.1)

    def loss_of(rows: Sequence[int]) -> Tensor:
        at = torch.tensor(rows)
        return grpo_loss(
            logprobs(logits, tokens)[at],
            old[at],
            mask[at],
            advantages[at],
            totals_of(mask),
            settings=chosen,
            logp_ref_BT=ref[at],
        ).loss

    (whole,) = torch.autograd.grad(loss_of(range(4)), logits)
    (parts,) = torch.autograd.grad(loss_of(order[:cut]) + loss_of(order[cut:]), logits)
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_3_zero_advantage_gives_zero_loss_and_gradient(loss_type: LossType) -> None:
    logits, tokens, mask, _ = toy()
    old = logprobs(logits, tokens).detach() + torch.linspace(-30, 30, 4)
    found = grpo_loss(
        logprobs(logits, tokens),
        old,
        mask,
        torch.zeros(4, dtype=torch.float64),
        totals_of(mask),
        settings=settings(loss_type),
    )
    (gradient,) = torch.autograd.grad(found.loss, logits)
    assert float(found.loss.detach()) == 0.0
    assert float(gradient.abs().max()) == 0.0


@hypothesis_settings(deadline=None)
@given(new=st.integers(-4000, 0), ref=st.integers(-4000, 0))
def test_4_k3_is_positive_unless_equal(new: int, ref: int) -> None:
    value = float(k3_divergence(torch.tensor(new / 256), torch.tensor(ref / 256)))
    assert value == 0 if new == ref else value > 0


def test_4_k3_estimates_the_divergence() -> None:
    """Its mean under the policy is KL(policy || reference), exactly."""
    generator = torch.Generator().manual_seed(1)
    policy, reference = torch.randn(2, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    mean = (policy.exp() * k3_divergence(policy, reference)).sum()
    exact = torch.nn.functional.kl_div(reference, policy, reduction="sum", log_target=True)
    torch.testing.assert_close(mean, exact)


@pytest.mark.parametrize(
    ("ratio", "advantage", "has_gradient"),
    [
        (1.0, 1.0, True),
        (1.27, 1.0, True),
        (1.29, 1.0, False),
        (0.1, 1.0, True),
        (1.0, -1.0, True),
        (0.81, -1.0, True),
        (0.79, -1.0, False),
        (9.0, -1.0, True),
    ],
)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_5_clipping_is_one_sided_for_each_sign(
    loss_type: LossType, ratio: float, advantage: float, has_gradient: bool
) -> None:
    found, gradient = loss_at_ratio(ratio, advantage, settings(loss_type))
    share = 1 / MAX_TOKENS if loss_type == "dr_grpo" else 1.0
    clipped = 1.28 if advantage > 0 else 0.8
    surrogate = (ratio if has_gradient else clipped) * advantage
    assert found.policy_loss == pytest.approx(-surrogate * share, rel=1e-5)
    expected = -ratio * advantage * share if has_gradient else 0.0
    assert gradient == pytest.approx(expected, rel=1e-5)
    assert found.num_clipped_high == (ratio > 1.28 and advantage > 0)
    assert found.num_clipped_low == (ratio < 0.8 and advantage < 0)


def test_5_the_ratio_cap_ends_the_gradient_of_negative_advantages() -> None:
    found, gradient = loss_at_ratio(9.0, -1.0, settings(max_ratio=4.0))
    assert gradient == 0.0
    assert found.policy_loss == pytest.approx(4.0)
    assert loss_at_ratio(3.0, -1.0, settings(max_ratio=4.0))[1] == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_kl_is_added_to_the_loss_with_the_same_average(loss_type: LossType) -> None:
    logits, tokens, mask, advantages = toy()
    new = logprobs(logits, tokens)
    ref = new.detach() + torch.randn(4, 4, generator=torch.Generator().manual_seed(5)) * mask
    plain = grpo_loss(
        new, new.detach(), mask, advantages, totals_of(mask), settings=settings(loss_type)
    )
    with_kl = grpo_loss(
        new,
        new.detach(),
        mask,
        advantages,
        totals_of(mask),
        settings=settings(loss_type, beta_kl=0.5),
        logp_ref_BT=ref,
    )
    assert with_kl.policy_loss == plain.policy_loss
    per_token = torch.expm1(ref - new) - (ref - new)
    mean = {
        "grpo": (per_token.sum(1) / torch.tensor(LENGTHS)).mean(),
        "dapo": per_token.sum() / sum(LENGTHS),
        "dr_grpo": per_token.sum() / (4 * MAX_TOKENS),
    }[loss_type]
    torch.testing.assert_close(with_kl.loss - plain.loss, 0.5 * mean, atol=1e-7, rtol=1e-5)
    assert with_kl.kl_sum == pytest.approx(float(per_token.detach().sum()), rel=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_masked_tokens_change_nothing(loss_type: LossType) -> None:
    logits, tokens, mask, advantages = toy()
    old = logprobs(logits, tokens).detach() + 0.1

    def gradient_with(garbage: float) -> Tensor:
        dirty = torch.where(mask, old, garbage)
        found = grpo_loss(
            logprobs(logits, tokens),
            dirty,
            mask,
            advantages,
            totals_of(mask),
            settings=settings(loss_type, beta_kl=0.1),
            logp_ref_BT=dirty,
        )
        return torch.autograd.grad(found.loss, logits)[0]

    clean = gradient_with(0.0)
    assert torch.equal(clean, gradient_with(-1e4))
    assert float(clean[~mask].abs().max()) == 0.0


def test_absurd_ratios_stay_finite() -> None:
    for ratio_log in (-200.0, 200.0):
        new = torch.tensor([[ratio_log]], requires_grad=True)
        found = grpo_loss(
            new,
            torch.zeros(1, 1),
            torch.tensor([[True]]),
            torch.tensor([-1.0]),
            BatchTotals(1, 1),
            settings=settings(beta_kl=1.0),
            logp_ref_BT=torch.zeros(1, 1),
        )
        assert math.isfinite(float(found.loss.detach()))
