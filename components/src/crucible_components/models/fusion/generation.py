"""Answers and their probabilities, in batches.

Legend: B sequences, T completion tokens, A vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from crucible_components.models.fusion.layout import EncodedConversation
from crucible_components.models.fusion.modeling import FusionForConditionalGeneration
from crucible_components.models.fusion.processing import FusionProcessor, Picture, pad
from crucible_components.models.fusion.prompting import (
    Prompt,
    PromptBatch,
    encode_prompts,
    share_vision,
)


@dataclass(frozen=True)
class Answer:
    """One generated answer."""

    text: str
    token_ids: list[int]
    """With the end token, unless the answer was cut at the limit."""
    logprobs: list[float]
    """Natural logarithm of each token's probability at temperature 1."""


def generate_answers(  # noqa: PLR0913 - three inputs, the rest named
    model: FusionForConditionalGeneration,
    processor: FusionProcessor,
    images: Sequence[Picture | None],
    questions: Sequence[Prompt],
    *,
    max_new_tokens: int = 16,
    temperature: float = 0.0,
    seed: int | None = None,
    batch_size: int = 64,
    num_samples: int = 1,
    query_len: int | None = None,
) -> list[Answer]:
    """``num_samples`` answers to each question, question-major.

    Greedy at temperature 0; else sampled from a generator of its own, seeded by ``seed`` (default
    0). There is one image a question, None to ask without. ``batch_size`` prompts of like length
    are prefilled together and each continues ``num_samples`` times; the same object in ``images``
    is encoded once a batch. ``query_len``, the latents a turn, is by default the model's.
    """
    conversations = encode_prompts(processor, images, questions)
    order = sorted(range(len(conversations)), key=lambda i: len(conversations[i].ids))
    generator = torch.Generator(device="cpu")
    generator.manual_seed(0 if seed is None else seed)
    sampler = _Sampler(processor, temperature, generator)
    query_len = query_len or model.config.default_query_len
    answers: dict[int, list[Answer]] = {}
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = share_vision(
                processor, [images[i] for i in chosen], [conversations[i] for i in chosen]
            )
            decoder = _Decoder(model, processor, sampler, query_len)
            found = decoder.run(batch, max_new_tokens=max_new_tokens, num_samples=num_samples)
            for row, index in enumerate(chosen):
                answers[index] = found[row * num_samples : (row + 1) * num_samples]
    return [answer for index in range(len(order)) for answer in answers[index]]


def completion_log_probs(
    model: FusionForConditionalGeneration,
    processor: FusionProcessor,
    images: Sequence[Picture | None],
    questions: Sequence[Prompt],
    completions_token_ids: Sequence[Sequence[int]],
    *,
    query_len: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) of given completions at temperature 1, and their mask (B, T).

    Differentiable unless the caller disables gradients. Rows with the same image object and the
    same question share one vision pass. Masked entries are 0.
    """
    conversations = encode_prompts(processor, images, questions)
    batch = share_vision(processor, images, conversations)
    query_len = query_len or model.config.default_query_len
    lengths = [len(ids) for ids in completions_token_ids]
    rows = _expand_rows(processor, conversations, query_len, completions_token_ids)
    ends = rows["turn_ends"].max(dim=1).values
    offsets = torch.arange(rows["input_ids"].shape[1]) - ends[:, None]
    chosen = (offsets >= 0) & (offsets < torch.tensor(lengths)[:, None])
    output = model(
        **rows,
        vision_context=None if batch.vision is None else model.encode(batch.vision, query_len),
        context_index=batch.context_index_B,
        query_len=query_len,
        logits_to_keep=chosen,
    )
    targets = torch.tensor([token for ids in completions_token_ids for token in ids])
    chosen_logprobs = answer_log_probs(output.logits, processor).gather(1, targets[:, None])
    mask_BT = torch.arange(max(lengths, default=0)) < torch.tensor(lengths)[:, None]
    empty = torch.zeros(mask_BT.shape, dtype=chosen_logprobs.dtype)
    return empty.masked_scatter(mask_BT, chosen_logprobs.squeeze(1)), mask_BT


def answer_log_probs(logits: Tensor, processor: FusionProcessor) -> Tensor:
    """Float32 log-probabilities over what an answer may hold: no placeholder, no role token."""
    banned = torch.tensor(processor.banned_token_ids, device=logits.device)
    return logits.float().index_fill(-1, banned, float("-inf")).log_softmax(-1)


@dataclass(frozen=True)
class _Sampler:
    processor: FusionProcessor
    temperature: float
    generator: torch.Generator

    def __call__(self, logits_BA: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens and their log-probabilities at temperature 1, both (B,)."""
        logprobs = answer_log_probs(logits_BA, self.processor)
        if self.temperature > 0:
            weights = (logprobs / self.temperature).softmax(-1)
            tokens = torch.multinomial(weights, 1, generator=self.generator)
        else:
            tokens = logprobs.argmax(-1, keepdim=True)
        return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)


@dataclass(frozen=True)
class _Decoder:
    """Cached decoding of one batch; rows leave the cache when most of them have ended."""

    model: FusionForConditionalGeneration
    processor: FusionProcessor
    sampler: _Sampler
    query_len: int

    def run(self, batch: PromptBatch, *, max_new_tokens: int, num_samples: int) -> list[Answer]:
        logits, cache, mask = self._prefill(batch)
        if num_samples > 1:
            logits = logits.repeat_interleave(num_samples, 0)
            mask = mask.repeat_interleave(num_samples, 0)
            cache.batch_repeat_interleave(num_samples)
        rows: list[tuple[list[int], list[float]]] = [([], []) for _ in range(len(mask))]
        active = torch.arange(len(mask))
        for step in range(max_new_tokens):
            tokens, logprobs = self.sampler(logits)
            open_rows = []
            for at, (row, token, logprob) in enumerate(
                zip(active.tolist(), tokens.tolist(), logprobs.tolist(), strict=True)
            ):
                rows[row][0].append(token)
                rows[row][1].append(logprob)
                if token != self.processor.end_token_id:
                    open_rows.append(at)
            if not open_rows or step + 1 == max_new_tokens:
                break
            if len(open_rows) < len(active):
                keep = torch.tensor(open_rows)
                active, tokens, mask = active[keep], tokens[keep], mask[keep]
                cache.batch_select_indices(keep)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._step(tokens, cache, mask)
        return [Answer(self.processor.decode(ids), ids, lps) for ids, lps in rows]

    def _prefill(self, batch: PromptBatch) -> tuple[Tensor, DynamicCache, Tensor]:
        """Logits after each prompt, the filled cache and the mask of its real positions."""
        rows = _expand_rows(self.processor, batch.conversations, self.query_len)
        ends = rows["turn_ends"].max(dim=1).values
        positions = torch.arange(rows["input_ids"].shape[1])
        cache = DynamicCache(config=self.model.config.text)
        vision = batch.vision
        output = self.model(
            **rows,
            vision_context=None if vision is None else self.model.encode(vision, self.query_len),
            context_index=batch.context_index_B,
            query_len=self.query_len,
            past_key_values=cache,
            logits_to_keep=positions == ends[:, None],
        )
        return output.logits, cache, (positions <= ends[:, None]).long()

    def _step(self, tokens: Tensor, cache: DynamicCache, mask: Tensor) -> Tensor:
        output = self.model(
            tokens[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def _expand_rows(
    processor: FusionProcessor,
    conversations: Sequence[EncodedConversation],
    query_len: int,
    completions: Sequence[Sequence[int]] | None = None,
) -> dict[str, Tensor]:
    """Ids and turn positions of prompts, each followed by its completion where there are some."""
    rows = [processor.expand(one, query_len) for one in conversations]
    ids = [row.ids for row in rows]
    if completions is not None:
        ids = [np.append(row, list(tail)) for row, tail in zip(ids, completions, strict=True)]
    return {
        "input_ids": pad([row.astype(np.int64) for row in ids], processor.pad_token_id),
        "turn_ends": pad([row.turn_ends for row in rows], -1),
        "latent_starts": pad([row.latent_starts for row in rows], -1),
    }
