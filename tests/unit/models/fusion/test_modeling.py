"""Acceptance checks of the whole model, method specification section 8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    Turn,
)
from crucible_components.models.fusion.modeling import IGNORE, VisionInputs
from crucible_components.models.fusion.processing import Pixels

Built = tuple[FusionForConditionalGeneration, FusionProcessor]
TWO_TURNS = [Turn("How many red circles are there?", "three"), Turn("What colour?", "blue")]


def _batch(
    processor: FusionProcessor,
    pictures: list[Pixels],
    conversations: list[list[Turn]],
    query_len: int,
) -> dict[str, Tensor]:
    batch = processor.collate([processor.encode(turns) for turns in conversations], query_len)
    pixels = np.stack([processor.preprocess(picture) for picture in pictures])
    return {**batch, "pixel_values": torch.from_numpy(pixels), "query_len": query_len}


def _logits(model: FusionForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("query_len", [1, 4, 9])
def test_two_turns_give_the_first_the_logits_of_one(
    tiny: Built, pictures: list[Pixels], query_len: int
) -> None:
    model, processor = tiny
    two = _batch(processor, pictures[:1], [TWO_TURNS], query_len)
    one = _batch(processor, pictures[:1], [TWO_TURNS[:1]], query_len)
    for name in ("guidance_ids", "guidance_mask"):
        one[name] = two[name]
    short = _logits(model, one)
    torch.testing.assert_close(_logits(model, two)[:, : short.shape[1]], short)


def test_each_turns_latents_hear_their_own_question(tiny: Built, pictures: list[Pixels]) -> None:
    """With guidance held fixed, another second question moves the second turn's latents only."""
    model, processor = tiny
    first = _batch(processor, pictures[:1], [TWO_TURNS], 4)
    other = {**first, "input_ids": first["input_ids"].clone()}
    last_prompt = int(first["turn_ends"][0, 1])
    other["input_ids"][0, last_prompt] = 7  # the token that becomes the context vector
    states: list[Tensor] = []
    hook = model.interaction_layers[0].register_forward_hook(
        lambda _, __, output: states.append(output.detach())
    )
    _logits(model, first)
    _logits(model, other)
    hook.remove()
    moved = (states[0] != states[1]).any(-1)[0, : last_prompt + 1]
    start = int(first["latent_starts"][0, 1])
    expected = set(range(start, start + 4)) | {last_prompt}
    assert set(moved.nonzero().flatten().tolist()) == expected


def test_answers_cannot_reach_latents(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    batch = _batch(processor, pictures[:1], [TWO_TURNS[:1]], 4)
    embeds: list[Tensor] = []
    states: list[Tensor] = []
    embedding = model.get_input_embeddings()

    def keep(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if output.shape[:2] != batch["input_ids"].shape:
            return output  # guidance
        embeds.append(output.detach().requires_grad_())
        return embeds[-1]

    hooks = [embedding.register_forward_hook(keep)]
    hooks += [
        layer.register_forward_hook(lambda _, __, output: states.append(output))
        for layer in model.interaction_layers
    ]
    model(**{**batch, "labels": None})
    for hook in hooks:
        hook.remove()
    start, end = int(batch["latent_starts"][0, 0]), int(batch["turn_ends"][0, 0])
    (gradient,) = torch.autograd.grad(states[-1][0, start : start + 4].sum(), embeds[0])
    reached = gradient[0].abs().sum(-1) > 0
    assert reached[end]
    assert not reached[end + 1 :].any()


@pytest.mark.parametrize("query_len", [1, 9])
def test_cached_decoding_equals_a_full_pass(
    tiny: Built, pictures: list[Pixels], query_len: int
) -> None:
    model, processor = tiny
    batch = _batch(processor, pictures[:1], [TWO_TURNS], query_len)
    full = _logits(model, batch)
    prompt = int(batch["turn_ends"][0, 1]) + 1
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    inputs["input_ids"] = batch["input_ids"][:, :prompt]
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
        pieces = [output.logits]
        for at in range(prompt, batch["input_ids"].shape[1]):
            token = batch["input_ids"][:, at : at + 1]
            pieces.append(model(token, past_key_values=output.past_key_values).logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), full)


def test_padding_on_the_right_changes_no_logits(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    longer = [TWO_TURNS, TWO_TURNS[:1]]
    both = _batch(processor, pictures[:2], longer, 4)
    alone = _batch(processor, pictures[1:2], longer[1:], 4)
    length = alone["input_ids"].shape[1]
    torch.testing.assert_close(_logits(model, both)[1:, :length], _logits(model, alone))
    masked = {**both, "attention_mask": (both["input_ids"] != processor.pad_token_id).long()}
    torch.testing.assert_close(_logits(model, masked)[1:, :length], _logits(model, alone))


def test_sharing_pictures_and_contexts_changes_nothing(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    turns = [[TWO_TURNS[0]], [TWO_TURNS[1]], [TWO_TURNS[0]]]
    apart = _batch(processor, [pictures[0], pictures[0], pictures[1]], turns, 4)
    shared = {
        **apart,
        "pixel_values": apart["pixel_values"][[0, 2]],
        "picture_index": torch.tensor([1, 0, 0]),
        "context_index": torch.tensor([1, 2, 0]),
        "guidance_ids": apart["guidance_ids"][[2, 0, 1]],
        "guidance_mask": apart["guidance_mask"][[2, 0, 1]],
    }
    torch.testing.assert_close(_logits(model, shared), _logits(model, apart))


def test_total_is_the_answer_loss_and_a_tenth_of_both_mapping_losses(
    tiny: Built, pictures: list[Pixels]
) -> None:
    model, processor = tiny
    batch = _batch(processor, pictures[:2], [TWO_TURNS, TWO_TURNS[:1]], 4)
    output = model(**batch)
    logits = _logits(model, batch)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE
    )
    torch.testing.assert_close(output.answer_loss, expected)
    mapping = output.vision_to_text_loss + output.text_to_vision_loss
    torch.testing.assert_close(output.loss, expected + 0.1 * mapping)
    assert 0 < mapping < 4


def test_mapping_losses_compare_the_right_things(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    batch = _batch(processor, pictures[:2], [TWO_TURNS, TWO_TURNS[:1]], 4)
    vision = VisionInputs(batch["pixel_values"], batch["guidance_ids"], batch["guidance_mask"])
    with torch.no_grad():
        context = model.encode(vision, 4)
        text = model.get_input_embeddings()(vision.guidance_ids)
        pixels = batch["pixel_values"][:, 4].float() / 127.5 - 1
        seen = model.vision_tower(pixels, model.text_to_vision(text), vision.guidance_mask)
        mapped = model.vision_to_text(seen.text_feature_NTF)
        image = model.vision_to_text(seen.feature_NVF)
        cosine = torch.nn.functional.cosine_similarity
        text_gap = 1 - cosine(text, mapped, dim=-1)[vision.guidance_mask].mean()
        patch_gap = 1 - cosine(seen.patch_NVC, model.text_to_vision(image), dim=-1).mean()
    torch.testing.assert_close(context.vision_to_text_loss, text_gap)
    torch.testing.assert_close(context.text_to_vision_loss, patch_gap)
    torch.testing.assert_close(context.image_tokens_GVD, image)


def test_a_text_only_batch_trains_the_language_alone(tiny: Built) -> None:
    model, processor = tiny
    batch = processor.collate([processor.encode(TWO_TURNS, has_image=False)], 4)
    output = model(**batch, query_len=4)
    assert torch.isfinite(output.loss)
    assert output.loss == output.answer_loss
    assert output.text_to_vision_loss is None


def test_text_only_sequences_beside_pictures_add_nothing_to_mapping_losses(
    tiny: Built, pictures: list[Pixels]
) -> None:
    model, processor = tiny
    seen, blind = processor.encode(TWO_TURNS), processor.encode(TWO_TURNS[1:], has_image=False)
    pixels = torch.from_numpy(processor.preprocess(pictures[0]))[None]
    mixed = model(**processor.collate([blind, seen], 4), pixel_values=pixels, query_len=4)
    alone = model(**processor.collate([seen], 4), pixel_values=pixels, query_len=4)
    torch.testing.assert_close(mixed.text_to_vision_loss, alone.text_to_vision_loss)
    torch.testing.assert_close(mixed.vision_to_text_loss, alone.vision_to_text_loss)
    assert torch.isfinite(mixed.answer_loss)


def test_a_sequence_without_picture_reads_the_same_alone_and_beside_pictures(
    tiny: Built, pictures: list[Pixels]
) -> None:
    model, processor = tiny
    seen, blind = processor.encode(TWO_TURNS), processor.encode(TWO_TURNS[1:], has_image=False)
    pixels = torch.from_numpy(np.stack([processor.preprocess(each) for each in pictures[:2]]))
    batch = processor.collate([seen, blind, seen], 4)
    mixed = _logits(model, {**batch, "pixel_values": pixels, "query_len": 4})
    alone = _logits(model, {**processor.collate([blind], 4), "query_len": 4})
    torch.testing.assert_close(mixed[1:2, : alone.shape[1]], alone)


def test_without_a_picture_latents_say_nothing(tiny: Built) -> None:
    """Neither their embedding nor an interaction layer's state gets in."""
    model, processor = tiny
    batch = processor.collate([processor.encode(TWO_TURNS, has_image=False)], 4)
    inputs = {**batch, "query_len": 4}
    before = _logits(model, inputs)
    with torch.no_grad():
        model.get_input_embeddings().weight[processor.latent_token_id] += 1.0
        for parameter in model.interaction_layers.parameters():
            parameter.mul_(2)
    after = _logits(model, inputs)
    others = [i for i in range(before.shape[-1]) if i != processor.latent_token_id]
    torch.testing.assert_close(after[..., others], before[..., others])


def test_without_guidance_the_question_leaves_image_tokens_alone(
    build: Callable[..., Built], pictures: list[Pixels]
) -> None:
    def image_tokens(question: str, *, text_guidance: bool) -> Tensor:
        model, processor = build(text_guidance=text_guidance)
        batch = _batch(processor, pictures[:1], [[Turn(question, "three")]], 4)
        vision = VisionInputs(batch["pixel_values"], batch["guidance_ids"], batch["guidance_mask"])
        with torch.no_grad():
            return model.encode(vision, 4).image_tokens_GVD

    for guided in (True, False):
        first = image_tokens("How many?", text_guidance=guided)
        second = image_tokens("What colour is the square?", text_guidance=guided)
        assert torch.equal(first, second) != guided


def test_every_parameter_learns(tiny: Built, pictures: list[Pixels]) -> None:
    model, processor = tiny
    model(**_batch(processor, pictures[:2], [TWO_TURNS, TWO_TURNS], 4)).loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("count", [1, 7])
def test_accumulated_losses_divide_by_the_given_count(
    tiny: Built, pictures: list[Pixels], count: int
) -> None:
    model, processor = tiny
    batch = _batch(processor, pictures[:1], [TWO_TURNS], 4)
    targets = int((batch["labels"] != IGNORE).sum())
    mean = model(**batch).answer_loss
    torch.testing.assert_close(
        model(**batch, num_items_in_batch=count).answer_loss, mean * targets / count
    )
