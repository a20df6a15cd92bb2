"""From a conversation to token ids: where pictures, latents, prompts and answers stand.

Ids are built segment by segment, so the supervised spans are exact by construction. An encoded
conversation keeps one id per placeholder; `expand` repeats them for a number of latents, which
training draws anew for every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crucible_components.models.fusion.template import (
    IMAGE,
    LATENT,
    VISION_END,
    VISION_START,
    Template,
)

IdArray = NDArray[np.int64]
Tokenise = Callable[[str], list[int]]


@dataclass(frozen=True)
class Turn:
    """A question and its answer; None asks the model to answer."""

    question: str
    answer: str | None = None


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids of a conversation with its placeholders unexpanded."""

    ids: IdArray
    supervised: NDArray[np.bool_]
    """True for answer tokens and the end token after each."""
    turn_ends: IdArray
    """Index of each turn's last prompt token."""
    latent_at: IdArray
    """Index of each turn's latent placeholder."""
    guidance_ids: IdArray
    has_image: bool


@dataclass(frozen=True)
class ExpandedConversation:
    """The same with every placeholder repeated; positions are those of the model's sequence."""

    ids: IdArray
    supervised: NDArray[np.bool_]
    turn_ends: IdArray
    latent_starts: IdArray


class ConversationEncoder:
    """Encodes conversations for one tokenizer and template."""

    def __init__(
        self,
        template: Template,
        tokenise: Tokenise,
        *,
        tokenise_guidance: Tokenise,
        bos_token_id: int | None,
        image_token_id: int,
        latent_token_id: int,
    ) -> None:
        self._template = template
        self._tokenise = tokenise
        self._tokenise_guidance = tokenise_guidance
        self._bos = [] if bos_token_id is None else [bos_token_id]
        self._image_token_id = image_token_id
        self._latent_token_id = latent_token_id

    def encode(self, turns: Sequence[Turn], *, has_image: bool) -> EncodedConversation:
        """Token ids of ``turns``; an answer of None ends the prompt there.

        The picture stands in the first turn, before that turn's latents, wherever ``<image>`` was
        written; a conversation without picture has latents only.
        """
        ids: list[int] = [*self._bos]
        supervised = [False] * len(ids)
        turn_ends, latent_at = [], []
        for index, turn in enumerate(turns):
            opening = self._template.system_prefix if index == 0 else ""
            ids += self._tokenise(opening + self._template.user_role + VISION_START)
            question = strip_image(turn.question)
            if index == 0 and has_image:
                ids.append(self._image_token_id)
                ids += self._tokenise(VISION_END + VISION_START)
                question = "\n" + question
            latent_at.append(len(ids))
            ids.append(self._latent_token_id)
            closing = self._template.end + self._template.assistant_role
            ids += self._tokenise(VISION_END + question + closing)
            turn_ends.append(len(ids) - 1)
            supervised += [False] * (len(ids) - len(supervised))
            if turn.answer is not None:
                ids += self._tokenise(turn.answer + self._template.end)
                supervised += [True] * (len(ids) - len(supervised))
        return EncodedConversation(
            ids=np.array(ids, dtype=np.int64),
            supervised=np.array(supervised, dtype=np.bool_),
            turn_ends=np.array(turn_ends, dtype=np.int64),
            latent_at=np.array(latent_at, dtype=np.int64),
            guidance_ids=self._guidance(turns) if has_image else np.zeros(0, dtype=np.int64),
            has_image=has_image,
        )

    def _guidance(self, turns: Sequence[Turn]) -> IdArray:
        """All questions joined without separator, as published."""
        text = "".join(strip_image(turn.question) for turn in turns)
        return np.array(self._tokenise_guidance(text), dtype=np.int64)


def strip_image(question: str) -> str:
    """The question without placeholders and markers that records may carry."""
    for marker in (IMAGE, LATENT, VISION_START, VISION_END):
        question = question.replace(marker, "")
    return question.strip()


def expand(
    encoded: EncodedConversation,
    query_len: int,
    *,
    num_image_tokens: int,
    image_token_id: int,
    max_length: int | None = None,
) -> ExpandedConversation:
    """Repeat the placeholders and cut at ``max_length`` positions.

    A turn whose prompt does not fit is dropped whole: nothing of it would be supervised. At least
    the first turn's prompt must fit.
    """
    counts = np.ones(len(encoded.ids), dtype=np.int64)
    counts[encoded.ids == image_token_id] = num_image_tokens
    counts[encoded.latent_at] = query_len
    stops = np.cumsum(counts)
    turn_ends = stops[encoded.turn_ends] - 1
    length = int(stops[-1])
    keep = len(turn_ends)
    if max_length is not None and length > max_length:
        keep = int((turn_ends < max_length).sum())
        if keep == 0:
            raise ValueError(
                f"a first prompt of {turn_ends[0] + 1} positions, the limit is {max_length}. "
                "Shorten the question or raise max_length."
            )
        length = max_length
        if keep < len(turn_ends):
            answered = encoded.supervised[: encoded.turn_ends[keep]]
            length = min(length, int(stops[np.flatnonzero(answered)[-1]]))
    return ExpandedConversation(
        ids=np.repeat(encoded.ids, counts)[:length],
        supervised=np.repeat(encoded.supervised, counts)[:length],
        turn_ends=turn_ends[:keep],
        latent_starts=(stops - counts)[encoded.latent_at][:keep],
    )
