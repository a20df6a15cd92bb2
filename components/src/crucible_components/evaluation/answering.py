"""Asking a model: batches of questions in, texts and probabilities out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from crucible_components.data.images import ImageArchive, Pixels
from crucible_components.data.schema import Record
from crucible_components.evaluation.scoring import Verdict, score

YES_NO = ("yes", "no")
_PROBABILITY_DIGITS = 4  # the last bits depend on the processor and on the batch


@dataclass(frozen=True)
class Response:
    """What a model said to one question."""

    text: str
    confidence: float
    """Probability of the whole text under the model."""
    truncated: bool
    """True if it was cut at the limit of new tokens."""
    num_tokens: int


class Responder(Protocol):
    """A loaded model. Answers must not depend on which questions share a batch."""

    def answer(
        self, images: Sequence[Pixels | None], questions: Sequence[str], *, max_new_tokens: int
    ) -> list[Response]:
        """The most probable answer to each question, token by token."""
        ...

    def option_logprobs(
        self, images: Sequence[Pixels | None], questions: Sequence[str], options: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Log-probability of each option as the whole answer, questions x options."""
        ...


@dataclass(frozen=True)
class Answered:
    """One question with the model's response and the verdict on it."""

    question: Record
    response: Response
    verdict: Verdict
    probability_yes: float | None
    """P(yes) against P(no), for questions whose answer is one of the two."""

    def to_record(self) -> Record:
        """One record of schema Predictions."""
        record: Record = {
            key: self.question[key]
            for key in ("id", "image", "category", "question", "answer", "choices")
            if key in self.question
        }
        record.update(
            prediction=self.verdict.answer,
            correct=self.verdict.correct,
            text=self.response.text,
            rule=self.verdict.rule,
            confidence=round(self.response.confidence, _PROBABILITY_DIGITS),
            truncated=self.response.truncated,
        )
        if self.probability_yes is not None:
            record["probability_yes"] = round(self.probability_yes, _PROBABILITY_DIGITS)
        return record


def ask_all(
    responder: Responder,
    questions: Sequence[Record],
    archive: ImageArchive,
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> list[Answered]:
    """Every question answered and scored, in the order given.

    Questions about one picture go into one batch, and pictures whose questions are of like length
    stand together: the picture is read and encoded once, and little is padded. ``on_batch`` gets
    the number of questions answered so far.
    """
    answered: dict[int, Answered] = {}
    for batch in _batches(questions, batch_size):
        chosen = [questions[index] for index in batch]
        images = _pictures(chosen, archive)
        texts = [record["question"] for record in chosen]
        responses = responder.answer(images, texts, max_new_tokens=max_new_tokens)
        chances = _chances_of_yes(responder, chosen, images)
        for index, record, response, chance in zip(batch, chosen, responses, chances, strict=True):
            verdict = score(response.text, record)
            answered[index] = Answered(record, response, verdict, chance)
        on_batch(len(answered))
    return [answered[index] for index in range(len(questions))]


def is_yes_no(question: Record) -> bool:
    """True for an open question that is answered by yes or no."""
    return not question.get("choices") and question["answer"].casefold() in YES_NO


def _batches(questions: Sequence[Record], batch_size: int) -> Iterator[list[int]]:
    longest: dict[str, int] = {}
    for record in questions:
        name = record.get("image") or ""
        longest[name] = max(longest.get(name, 0), len(record["question"].split()))

    def place(index: int) -> tuple[int, str, int]:
        name = questions[index].get("image") or ""
        return longest[name], name, index

    order = sorted(range(len(questions)), key=place)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _pictures(questions: Sequence[Record], archive: ImageArchive) -> list[Pixels | None]:
    """One picture a question, the same object for the same picture; None for questions without."""
    pictures: dict[str, Pixels] = {}
    for record in questions:
        name = record.get("image")
        if name is not None and name not in pictures:
            pictures[name] = archive.read(name)
    return [pictures.get(record.get("image") or "") for record in questions]


def _chances_of_yes(
    responder: Responder, questions: Sequence[Record], images: Sequence[Pixels | None]
) -> list[float | None]:
    asked = [index for index, record in enumerate(questions) if is_yes_no(record)]
    chances: list[float | None] = [None] * len(questions)
    if asked:
        logprobs = responder.option_logprobs(
            [images[index] for index in asked],
            [questions[index]["question"] for index in asked],
            YES_NO,
        )
        for index, (yes, no) in zip(asked, logprobs, strict=True):
            chances[index] = 1 / (1 + math.exp(min(no - yes, 700.0)))
    return chances


class FusionResponder:
    """A FUSION vision-language model from its folder."""

    def __init__(self, folder: Path) -> None:
        from crucible_components.models.fusion import load_model

        self._model, self._processor = load_model(folder)

    def answer(
        self, images: Sequence[Pixels | None], questions: Sequence[str], *, max_new_tokens: int
    ) -> list[Response]:
        from crucible_components.models.fusion import generate_answers

        answers = generate_answers(
            self._model,
            self._processor,
            images,
            questions,
            max_new_tokens=max_new_tokens,
            batch_size=len(questions),
        )
        return [
            Response(
                text=answer.text,
                confidence=math.exp(sum(answer.logprobs)),
                truncated=answer.token_ids[-1] != self._processor.end_token_id,
                num_tokens=len(answer.token_ids),
            )
            for answer in answers
        ]

    def option_logprobs(
        self, images: Sequence[Pixels | None], questions: Sequence[str], options: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        import torch

        from crucible_components.models.fusion import completion_log_probs

        tokenizer = self._processor.tokenizer
        completions = [
            [
                *tokenizer(option, add_special_tokens=False)["input_ids"],
                self._processor.end_token_id,
            ]
            for option in options
        ]
        repeats = len(options)
        with torch.inference_mode():
            logprobs, mask = completion_log_probs(
                self._model,
                self._processor,
                [image for image in images for _ in range(repeats)],
                [question for question in questions for _ in range(repeats)],
                [completion for _ in questions for completion in completions],
            )
        totals = (logprobs * mask).sum(dim=1).double()
        return np.asarray(totals.numpy()).reshape(len(questions), repeats)
