"""A FUSION model as the policy.

All answers to one prompt share its forward pass: the prompt runs once, with gradient, and its keys
and values are repeated for the answers. A group of eight short answers so costs little more than
one.

Legend: P prompts, G answers each, B = P * G answers, T completion tokens, S prompt positions,
A vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    generate_answers,
)
from crucible_components.models.fusion.generation import answer_log_probs
from crucible_components.models.fusion.processing import pad
from crucible_components.models.fusion.prompting import encode_prompts, share_vision
from crucible_components.rl.config import TrainedPart
from crucible_components.rl.prompts import Prompt
from crucible_components.rl.rollout import Sample, TokenScores

_MODULES: dict[TrainedPart, tuple[str, ...]] = {
    "vision_tower": ("vision_tower",),
    "text_to_vision": ("text_to_vision",),
    "vision_to_text": ("vision_to_text",),
    "interaction_layers": ("interaction_layers",),
    "language_model": ("language_model", "lm_head"),
}


class FusionPolicy:
    """Implements `crucible_components.rl.rollout.Policy`; changes what ``trained_parts`` name."""

    def __init__(
        self,
        model: FusionForConditionalGeneration,
        processor: FusionProcessor,
        *,
        temperature: float,
        max_new_tokens: int,
        trained_parts: Iterable[TrainedPart] = (),
    ) -> None:
        self._model = model.train(False)
        self._processor = processor
        self._temperature = temperature
        self._max_new_tokens = max_new_tokens
        trained = {module for part in trained_parts for module in _MODULES[part]}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.partition(".")[0] in trained)

    def trained_parameters(self) -> Mapping[str, nn.Parameter]:
        return {n: p for n, p in self._model.named_parameters() if p.requires_grad}

    def sample(
        self, prompts: Sequence[Prompt], *, num_samples: int, seed: int
    ) -> list[list[Sample]]:
        answers = generate_answers(
            self._model,
            self._processor,
            [prompt.image for prompt in prompts],
            [prompt.question for prompt in prompts],
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            seed=seed,
            num_samples=num_samples,
        )
        end = self._processor.end_token_id
        samples = [
            Sample(a.text, tuple(a.token_ids), tuple(a.logprobs), a.token_ids[-1] == end)
            for a in answers
        ]
        groups = [samples[i : i + num_samples] for i in range(0, len(samples), num_samples)]
        # The generator reports temperature 1, which is the sampled distribution only there.
        return groups if self._temperature == 1.0 else self._rescored(prompts, groups)

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]]) -> TokenScores:
        rows = [sample.token_ids for group in samples for sample in group]
        mask_BT = pad([np.ones(len(ids), dtype=np.bool_) for ids in rows], False)
        tokens_BT = pad([np.array(ids, dtype=np.int64) for ids in rows], 0)
        logits_BTA = self._logits(prompts, tokens_BT, mask_BT)
        logprobs_BTA = answer_log_probs(logits_BTA / self._temperature, self._processor)
        logprobs_BT = logprobs_BTA.gather(2, tokens_BT[..., None]).squeeze(2)
        with torch.no_grad():
            likely_BTA = logprobs_BTA.clamp_min(torch.finfo(logprobs_BTA.dtype).min)
            entropy_BT = -(likely_BTA.exp() * likely_BTA).sum(dim=-1)
        return TokenScores(torch.where(mask_BT, logprobs_BT, 0.0), entropy_BT, mask_BT)

    def _logits(self, prompts: Sequence[Prompt], tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits (B, T, A) of every completion token, all prompts run once."""
        model, processor = self._model, self._processor
        images = [prompt.image for prompt in prompts]
        conversations = encode_prompts(processor, images, [prompt.question for prompt in prompts])
        batch = share_vision(processor, images, conversations)
        query_len = model.config.default_query_len
        rows = processor.collate(conversations, query_len)
        end_P1 = rows["turn_ends"].max(dim=1, keepdim=True).values
        positions_S = torch.arange(rows["input_ids"].shape[1])
        cache = DynamicCache(config=model.config.text)
        first_PA: Tensor = model(
            input_ids=rows["input_ids"],
            turn_ends=rows["turn_ends"],
            latent_starts=rows["latent_starts"],
            vision_context=None if batch.vision is None else model.encode(batch.vision, query_len),
            context_index=batch.context_index_B,
            query_len=query_len,
            past_key_values=cache,
            logits_to_keep=positions_S == end_P1,
        ).logits
        num_answers = len(tokens_BT) // len(prompts)
        first_B1A = first_PA.repeat_interleave(num_answers, 0).unsqueeze(1)
        num_tokens = tokens_BT.shape[1]
        if num_tokens == 1:
            return first_B1A
        cache.batch_repeat_interleave(num_answers)
        prompt_mask_BS = (positions_S <= end_P1).repeat_interleave(num_answers, 0)
        # The model does not run on the last token of an answer: nothing follows it.
        rest_BTA = model(
            tokens_BT[:, :-1],
            attention_mask=torch.cat([prompt_mask_BS, mask_BT[:, :-1]], dim=1).long(),
            position_ids=end_P1.repeat_interleave(num_answers, 0) + torch.arange(1, num_tokens),
            past_key_values=cache,
        ).logits
        return torch.cat([first_B1A, rest_BTA], dim=1)

    def _rescored(
        self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Sample]]
    ) -> list[list[Sample]]:
        with torch.no_grad():
            scores = self.score(prompts, groups)
        logprobs = iter(scores.logprobs_BT.tolist())
        return [
            [
                Sample(s.text, s.token_ids, tuple(next(logprobs)[: len(s.token_ids)]), s.ended)
                for s in group
            ]
            for group in groups
        ]
