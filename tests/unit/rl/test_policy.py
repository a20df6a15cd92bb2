"""FUSION as the policy: scores shared over a prompt equal scores of whole sequences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from crucible_components.models.fusion import build_model, completion_log_probs
from crucible_components.models.fusion.tokenizer import train_tokenizer
from crucible_components.rl.config import GrpoConfig
from crucible_components.rl.policy import FusionPolicy
from crucible_components.rl.prompts import Prompt
from crucible_components.rl.rollout import Sample
from crucible_components.rl.update import update_policy

LANGUAGE = ("vision_to_text", "interaction_layers", "language_model")
TEXTS = ["how many red circles are there?", "what is it?", "one two three four red blue circle"]


@pytest.fixture(scope="module")
def built() -> tuple[Any, Any]:
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=300)
    return build_model(
        "pico",
        tokenizer,
        seed=0,
        text_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
        vision_config={"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2},
        interaction_stride=1,
    )


def policy_of(built: tuple[Any, Any], **options: Any) -> FusionPolicy:
    settings = {"temperature": 1.0, "max_new_tokens": 5, "trained_parts": LANGUAGE, **options}
    return FusionPolicy(*built, **settings)


def prompts() -> list[Prompt]:
    """Questions of different lengths, two about one picture, one without."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    pictures = [first, first, second, None]
    questions = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]]
    return [
        Prompt(str(n), "toy", question, "two", image=picture)
        for n, (question, picture) in enumerate(zip(questions, pictures, strict=True))
    ]


def ragged(built: tuple[Any, Any]) -> list[list[Sample]]:
    end = built[1].end_token_id
    rng = np.random.default_rng(1)
    groups = []
    for _ in range(4):
        rows = [[*rng.integers(20, 250, length).tolist(), end] for length in (0, 2, 4)]
        groups.append([Sample("", tuple(r), tuple([-1.0] * len(r)), True) for r in rows])
    return groups


def gradients(policy: FusionPolicy) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in policy.trained_parameters().items():
        found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = None
    return found


def test_scores_equal_those_of_whole_sequences(built: tuple[Any, Any]) -> None:
    policy, asked, samples = policy_of(built), prompts(), ragged(built)
    scores = policy.score(asked, samples)
    torch.autograd.backward(scores.logprobs_BT.square().sum())
    shared = gradients(policy)
    expected, mask = completion_log_probs(
        *built,
        [prompt.image for prompt in asked for _ in range(3)],
        [prompt.question for prompt in asked for _ in range(3)],
        [sample.token_ids for group in samples for sample in group],
    )
    torch.autograd.backward(expected.square().sum())
    assert torch.equal(scores.mask_BT, mask)
    torch.testing.assert_close(scores.logprobs_BT, expected, atol=2e-5, rtol=1e-5)
    whole = gradients(policy)
    assert any(float(gradient.abs().max()) > 0 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(shared[name], gradient, atol=2e-4, rtol=1e-3, msg=name)


def test_one_token_answers_need_no_second_pass(built: tuple[Any, Any]) -> None:
    policy, asked = policy_of(built), prompts()
    samples = [group[:1] for group in ragged(built)]
    scores = policy.score(asked, samples)
    expected, _ = completion_log_probs(
        *built,
        [prompt.image for prompt in asked],
        [prompt.question for prompt in asked],
        [group[0].token_ids for group in samples],
    )
    torch.testing.assert_close(scores.logprobs_BT, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_samplers_log_probabilities_are_the_trainers(
    built: tuple[Any, Any], temperature: float
) -> None:
    policy, asked = policy_of(built, temperature=temperature), prompts()
    groups = policy.sample(asked, num_samples=3, seed=5)
    assert [len(group) for group in groups] == [3] * 4
    assert groups == policy.sample(asked, num_samples=3, seed=5)
    assert groups != policy.sample(asked, num_samples=3, seed=6)
    scores = policy.score(asked, groups)
    rows = [sample for group in groups for sample in group]
    for row, sample in zip(scores.logprobs_BT.detach(), rows, strict=True):
        assert row[: len(sample.token_ids)].tolist() == pytest.approx(sample.logprobs, abs=1e-4)
        assert sample.ended == (sample.token_ids[-1] == built[1].end_token_id)
        assert len(sample.token_ids) <= 5


def test_entropy_of_the_uniform_policy_is_the_logarithm_of_its_choices(
    built: tuple[Any, Any],
) -> None:
    model, processor = built
    norm = model.language_model.norm.weight
    kept = norm.detach().clone()
    with torch.no_grad():
        norm.zero_()
        scores = policy_of(built).score(prompts(), ragged(built))
        norm.copy_(kept)
    num_choices = model.config.text.vocab_size - len(processor.banned_token_ids)
    torch.testing.assert_close(
        scores.entropy_BT, torch.full_like(scores.entropy_BT, math.log(num_choices))
    )
    assert not scores.entropy_BT.requires_grad


def test_only_the_chosen_parts_learn(built: tuple[Any, Any]) -> None:
    from crucible_components.rl.rewards import ScoredAttempt
    from crucible_components.rl.rollout import Group

    model, _ = built
    policy = policy_of(built)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    blank = ScoredAttempt({}, 0.0)
    groups = [
        Group(prompt, tuple(samples), (blank,) * 3, (1.0, -0.5, -0.5), 1.0)
        for prompt, samples in zip(prompts(), ragged(built), strict=True)
    ]
    optimizer = torch.optim.AdamW(list(policy.trained_parameters().values()), lr=1e-3)
    update_policy(policy, groups, optimizer, GrpoConfig(), reference=None)
    changed = {n.split(".")[0] for n, p in model.named_parameters() if not p.equal(before[n])}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    assert changed == set(LANGUAGE)
