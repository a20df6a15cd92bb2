"""A policy small enough to follow by hand: word logits by question and position."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from crucible_components.rl.prompts import Prompt, PromptStream
from crucible_components.rl.rollout import Sample, TokenScores

WORDS = ["<end>", "one", "two", "three", "four"]
END = 0


class TablePolicy:
    """Draws one word a position until the end word; implements `Policy`."""

    def __init__(self, num_questions: int, max_tokens: int = 4) -> None:
        self.table = nn.Parameter(torch.zeros(num_questions, max_tokens, len(WORDS)))
        self.seeds: list[int] = []

    def trained_parameters(self) -> Mapping[str, nn.Parameter]:
        return {"table": self.table}

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Prompt], *, num_samples: int, seed: int
    ) -> list[list[Sample]]:
        self.seeds.append(seed)
        generator = torch.Generator().manual_seed(seed)
        return [self._draw(prompt, num_samples, generator) for prompt in prompts]

    def score(self, prompts: Sequence[Prompt], samples: Sequence[Sequence[Sample]]) -> TokenScores:
        rows = [(self._row(p), s) for p, group in zip(prompts, samples, strict=True) for s in group]
        width = max(len(sample.token_ids) for _, sample in rows)
        mask = torch.tensor([[t < len(s.token_ids) for t in range(width)] for _, s in rows])
        tokens = torch.tensor([[*s.token_ids, *[0] * (width - len(s.token_ids))] for _, s in rows])
        every = torch.stack([row[:width] for row, _ in rows])
        logprobs = every.gather(2, tokens[..., None]).squeeze(2)
        entropy = -(every.exp() * every).sum(2).detach()
        return TokenScores(torch.where(mask, logprobs, 0.0), entropy, mask)

    def _row(self, prompt: Prompt) -> Tensor:
        return self.table[int(prompt.id)].log_softmax(-1)

    def _draw(self, prompt: Prompt, num_samples: int, generator: torch.Generator) -> list[Sample]:
        rows = self._row(prompt)
        drawn = torch.multinomial(rows.exp(), num_samples, replacement=True, generator=generator)
        logprobs = rows.gather(1, drawn)
        return [
            _sample(words, values)
            for words, values in zip(drawn.T.tolist(), logprobs.T.tolist(), strict=True)
        ]


def _sample(words: list[int], logprobs: list[float]) -> Sample:
    ended = END in words
    length = words.index(END) + 1 if ended else len(words)
    text = " ".join(WORDS[word] for word in words[:length] if word != END)
    return Sample(text, tuple(words[:length]), tuple(logprobs[:length]), ended)


def seed_for(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:7], "big")


@pytest.fixture
def make_policy() -> Callable[..., TablePolicy]:
    return TablePolicy


@pytest.fixture
def seeds() -> Callable[[str], int]:
    return seed_for


@pytest.fixture
def make_stream() -> Callable[..., PromptStream]:
    def make(answers: Sequence[str | None]) -> PromptStream:
        prompts = [
            Prompt(str(number), "toy", f"question {number}", answer)
            for number, answer in enumerate(answers)
        ]
        return PromptStream(prompts, seed_for)

    return make
