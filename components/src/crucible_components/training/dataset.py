"""Training examples in memory: conversations tokenised once, pictures cut once.

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

    conversations: list[EncodedConversation]
    picture_of: NDArray[np.int64]
    """Row of ``pixels_N`` for each conversation, -1 for a text-only one."""
    pixels_N: Tensor
    """(N, 5, 3, side, side) uint8, each distinct picture once."""

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def is_text_only(self) -> NDArray[np.bool_]:
        return self.picture_of < 0

    def lengths(self, processor: FusionProcessor) -> NDArray[np.int64]:
        """Positions of each conversation for the processor's default number of latents."""
        return np.array(
            [
                len(one.ids)
                + one.has_image * (processor.num_image_tokens - 1)
                + len(one.latent_at) * (processor.default_query_len - 1)
                for one in self.conversations
            ]
        )


def load_training_set(
    dataset: Dataset[Conversations],
    processor: FusionProcessor,
    *,
    categories: Sequence[str] | None = None,
) -> TrainingSet:
    """The dataset's conversations, those of ``categories`` only if given.

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
        conversations=[
            processor.encode(turns_of(record), has_image=bool(record.get("image")))
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


def training_texts(datasets: Iterable[Dataset[Conversations]]) -> list[str]:
    """All text of the datasets, for training a tokenizer."""
    return [
        text
        for dataset in datasets
        for record in read_records(dataset)
        for turn in turns_of(record)
        for text in (turn.question, turn.answer or "")
    ]
