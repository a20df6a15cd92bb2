"""Training examples in memory: conversations tokenised once, pictures cut once.

An example is one record: its picture and its conversation, whole or in samples of a few turns.
The samples of an example share the encoding of the picture's crops; each has a guided pass of its
own, in which the tower hears the questions of that sample only.

Legend: N pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crucible.errors import UserError
from crucible_components.data.records import ImageArchive, Record, read_records
from crucible_components.models.fusion import FusionProcessor, Turn
from crucible_components.models.fusion.layout import EncodedConversation

if TYPE_CHECKING:
    from crucible.sdk.types import Conversations, Dataset


@dataclass(frozen=True)
class TrainingSet:
    """Everything that training reads; nothing is decoded or tokenised after this."""

    examples: list[list[EncodedConversation]]
    """The samples of each record."""
    picture_of: NDArray[np.int64]
    """Row of ``pixels_N`` for each example, -1 for a text-only one."""
    pixels_N: Tensor
    """(N, 5, 3, side, side) uint8, each distinct picture once."""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def is_text_only(self) -> NDArray[np.bool_]:
        return self.picture_of < 0

    def lengths(self, processor: FusionProcessor) -> NDArray[np.int64]:
        """Positions of each example's longest sample for the default number of latents."""
        return np.array(
            [max(_length(sample, processor) for sample in samples) for samples in self.examples]
        )

    def gather(
        self, chosen: NDArray[np.int64]
    ) -> tuple[list[EncodedConversation], dict[str, Tensor]]:
        """Samples of the chosen examples, with their pixels and the picture of each context."""
        samples = [sample for index in chosen for sample in self.examples[index]]
        counts = [len(self.examples[index]) for index in chosen]
        rows = self.picture_of[chosen]
        inputs = {"pixel_values": self.pixels_N[torch.from_numpy(rows[rows >= 0])]}
        if max(counts) > 1:
            inputs["picture_index"] = torch.arange(len(chosen)).repeat_interleave(
                torch.tensor(counts)
            )
        return samples, inputs


def load_training_set(
    dataset: Dataset[Conversations],
    processor: FusionProcessor,
    *,
    categories: Sequence[str] | None = None,
    turns_per_sample: int | None = None,
) -> TrainingSet:
    """The dataset's conversations, those of ``categories`` only if given.

    ``turns_per_sample`` cuts them into samples of at most so many turns; None keeps them whole.

    Raises:
        UserError: a category that no record has, or nothing left to train on.
    """
    records = select_records(read_records(dataset), categories, name=dataset.name)
    names = sorted({str(record["image"]) for record in records if record.get("image")})
    rows = {name: row for row, name in enumerate(names)}
    side = processor.image_size
    pixels = np.zeros((len(names), 5, 3, side, side), dtype=np.uint8)
    if names:
        with ImageArchive(dataset) as archive:
            for row, name in enumerate(names):
                pixels[row] = processor.preprocess(archive.read_picture(name))
    return TrainingSet(
        examples=[
            [
                processor.encode(turns, has_image=bool(record.get("image")))
                for turns in split_turns(turns_of(record), turns_per_sample)
            ]
            for record in records
        ],
        picture_of=np.array([rows.get(str(record.get("image")), -1) for record in records]),
        pixels_N=torch.from_numpy(pixels),
    )


def select_records(
    records: list[Record], categories: Sequence[str] | None, *, name: str
) -> list[Record]:
    """Records of the given categories, in order; all of them for None."""
    if categories is None:
        chosen = records
    else:
        present = {record.get("category") for record in records}
        if unknown := sorted(set(categories) - present):
            known = ", ".join(sorted(str(each) for each in present if each)) or "none at all"
            raise UserError(
                f"categories: {', '.join(unknown)} not in {name}. Its categories: {known}."
            )
        chosen = [record for record in records if record.get("category") in categories]
    if not chosen:
        raise UserError(f"{name}: holds no record to train on. Give a dataset with conversations.")
    return chosen


def turns_of(record: Record) -> list[Turn]:
    """The record's conversation as question-answer pairs."""
    values = [str(turn["value"]).strip() for turn in record["conversations"]]
    return [Turn(*pair) for pair in zip(values[::2], values[1::2], strict=True)]


def split_turns(turns: list[Turn], limit: int | None) -> list[list[Turn]]:
    """Consecutive pieces of at most ``limit`` turns; one piece for None."""
    size = limit or len(turns)
    return [turns[start : start + size] for start in range(0, len(turns), size)]


def training_texts(datasets: Iterable[Dataset[Conversations]]) -> list[str]:
    """All text of the datasets, for training a tokenizer."""
    return [
        text
        for dataset in datasets
        for record in read_records(dataset)
        for turn in turns_of(record)
        for text in (turn.question, turn.answer or "")
    ]


def _length(sample: EncodedConversation, processor: FusionProcessor) -> int:
    return (
        len(sample.ids)
        + sample.has_image * (processor.num_image_tokens - 1)
        + len(sample.latent_at) * (processor.default_query_len - 1)
    )
