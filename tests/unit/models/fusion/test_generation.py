from __future__ import annotations

import pytest
import torch

from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    Turn,
    completion_log_probs,
    generate_answers,
)
from crucible_components.models.fusion.processing import Pixels

Built = tuple[FusionForConditionalGeneration, FusionProcessor]
QUESTIONS = ["How many red circles are there?", "What colour?", "Is it red or blue, I ask?"]


def test_greedy_answers_do_not_depend_on_the_batch(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    together = generate_answers(model, processor, pictures, QUESTIONS, max_new_tokens=6)
    for picture, question, answer in zip(pictures, QUESTIONS, together, strict=True):
        (alone,) = generate_answers(model, processor, [picture], [question], max_new_tokens=6)
        assert alone.token_ids == answer.token_ids
        assert alone.logprobs == pytest.approx(answer.logprobs, abs=1e-4)
        assert len(answer.token_ids) <= 6


def test_an_answer_without_picture_does_not_depend_on_the_batch(
    tiny: Built, pictures: list[Pixels]
) -> None:
    model, processor = tiny
    images, wanted = [pictures[0], None, pictures[1]], [[9, 10], [11, 9], [12]]
    together = generate_answers(model, processor, images, QUESTIONS, max_new_tokens=6)[1]
    (alone,) = generate_answers(model, processor, [None], QUESTIONS[1:2], max_new_tokens=6)
    assert alone.token_ids == together.token_ids
    assert alone.logprobs == pytest.approx(together.logprobs, abs=1e-5)
    scored, _ = completion_log_probs(model, processor, images, QUESTIONS, wanted)
    scored_alone, _ = completion_log_probs(model, processor, [None], QUESTIONS[1:2], wanted[1:2])
    torch.testing.assert_close(scored[1:2], scored_alone)


def test_greedy_answers_equal_those_of_transformers(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    inputs = processor(images=pictures[0], text=QUESTIONS[0])
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    prompt = inputs["input_ids"].shape[1]
    (answer,) = generate_answers(model, processor, pictures[:1], QUESTIONS[:1], max_new_tokens=5)
    assert ids[0, prompt:].tolist() == answer.token_ids


def test_logprobs_are_those_of_scoring_the_answer(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    images = [pictures[0], pictures[0], None]
    answers = generate_answers(
        model, processor, images, QUESTIONS, max_new_tokens=5, temperature=1.5, seed=3
    )
    ids = [answer.token_ids for answer in answers]
    logprobs, mask = completion_log_probs(model, processor, images, QUESTIONS, ids)
    assert mask.sum(1).tolist() == [len(each) for each in ids]
    for row, kept, answer in zip(logprobs, mask, answers, strict=True):
        assert row[kept].tolist() == pytest.approx(answer.logprobs, abs=1e-4)
        assert not row[~kept].any()


def test_scoring_shares_vision_and_has_gradients(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    seen: list[int] = []
    hook = model.vision_tower.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    completions = [[9, 10], [11], [12, 13, 14], [9]]
    questions = [QUESTIONS[0]] * 3 + [QUESTIONS[1]]
    logprobs, _ = completion_log_probs(model, processor, [pictures[0]] * 4, questions, completions)
    hook.remove()
    assert seen == [4, 2]  # four crops of one picture, two contexts
    logprobs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.vision_tower.parameters())


def test_samples_are_seeded_and_question_major(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny

    def sample(seed: int) -> list[list[int]]:
        answers = generate_answers(
            model,
            processor,
            pictures,
            QUESTIONS,
            max_new_tokens=4,
            temperature=1.0,
            seed=seed,
            num_samples=3,
        )
        return [answer.token_ids for answer in answers]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert len(sample(1)) == 9
    greedy = generate_answers(
        model, processor, pictures, QUESTIONS, max_new_tokens=4, num_samples=2
    )
    assert [a.token_ids for a in greedy[::2]] == [a.token_ids for a in greedy[1::2]]


def test_sampled_tokens_follow_the_models_distribution(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    answers = generate_answers(
        model,
        processor,
        pictures[:1],
        QUESTIONS[:1],
        max_new_tokens=1,
        temperature=1.0,
        seed=0,
        num_samples=4000,
    )
    counts = torch.bincount(torch.tensor([answer.token_ids[0] for answer in answers]))
    top = int(counts.argmax())
    probability = next(a.logprobs[0] for a in answers if a.token_ids[0] == top)
    expected = torch.tensor(probability).exp().item()
    deviation = (expected * (1 - expected) / 4000) ** 0.5
    assert counts[top].item() / 4000 == pytest.approx(expected, abs=5 * deviation)


def test_placeholders_and_roles_are_never_generated(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    answers = generate_answers(
        model,
        processor,
        pictures[:1],
        QUESTIONS[:1],
        max_new_tokens=3,
        temperature=50.0,
        seed=0,
        num_samples=500,
    )
    used = {token for answer in answers for token in answer.token_ids}
    assert len(used) > 100
    assert not used & set(processor.banned_token_ids)


def test_an_ended_answer_stops_and_its_text_is_clean(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    with torch.no_grad():  # every state now prefers the end token
        model.lm_head.weight.zero_()
        model.language_model.norm.weight.zero_()
    (answer,) = generate_answers(
        model, processor, pictures[:1], QUESTIONS[:1], max_new_tokens=8, temperature=0.0
    )
    first = min(set(range(len(processor.tokenizer))) - set(processor.banned_token_ids))
    assert first == processor.end_token_id
    assert answer.token_ids == [processor.end_token_id]
    assert answer.text == ""


def test_conversations_are_continued(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    history = [Turn(QUESTIONS[0], "three"), Turn(QUESTIONS[1])]
    (answer,) = generate_answers(model, processor, pictures[:1], [history], max_new_tokens=3)
    logprobs, _ = completion_log_probs(
        model, processor, pictures[:1], [history], [answer.token_ids]
    )
    assert logprobs[0].tolist() == pytest.approx(answer.logprobs, abs=1e-4)


def test_questions_and_images_must_pair(tiny: Built, pictures: list[Pixels]) -> None:
    with pytest.raises(ValueError, match="3 images for 1 questions"):
        generate_answers(*tiny, pictures, QUESTIONS[:1])
