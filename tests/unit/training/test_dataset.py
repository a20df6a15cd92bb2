from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crucible.errors import UserError
from crucible.sdk.types import Conversations, Dataset
from crucible_components.data.records import ImageArchive, read_records
from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.training.dataset import (
    TrainingSet,
    load_training_set,
    select_records,
    training_texts,
    turns_of,
)

Build = Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]]


def test_examples_keep_their_pictures_and_words(
    dataset: Dataset[Conversations], training_set: TrainingSet, build: Build
) -> None:
    processor = build()[1]
    records = read_records(dataset)
    assert len(training_set) == len(records)
    with ImageArchive(dataset) as archive:
        for record, (one,), row in zip(
            records, training_set.examples, training_set.picture_of, strict=True
        ):
            expected = processor.encode(turns_of(record), has_image="image" in record)
            np.testing.assert_array_equal(one.ids, expected.ids)
            assert (row < 0) == ("image" not in record)
            if row >= 0:
                pixels = processor.preprocess(archive.read(record["image"]))
                np.testing.assert_array_equal(training_set.pixels_N[row].numpy(), pixels)


def test_lengths_are_those_of_expanded_conversations(
    training_set: TrainingSet, build: Build
) -> None:
    processor = build()[1]
    expected = [
        len(processor.expand(one, processor.default_query_len).ids)
        for (one,) in training_set.examples
    ]
    assert training_set.lengths(processor).tolist() == expected


def test_specialists_see_their_categories_only(
    dataset: Dataset[Conversations], build: Build
) -> None:
    chosen = load_training_set(dataset, build()[1], categories=["two"])
    assert {len(one.turn_ends) for (one,) in chosen.examples} == {2}
    assert len(chosen.pixels_N) == len(chosen)


def test_an_unknown_category_is_named_with_the_known_ones() -> None:
    records = [{"category": "count"}, {"category": "color"}, {}]
    with pytest.raises(UserError, match=r"colour not in data\. Its categories: color, count\."):
        select_records(records, ["count", "colour"], name="data")
    with pytest.raises(UserError, match="holds no record"):
        select_records([], None, name="data")


def test_tokenizers_see_questions_and_answers(dataset: Dataset[Conversations]) -> None:
    texts = training_texts([dataset, dataset])
    assert {"two", "what is one plus one?"} <= set(texts)
    turns = sum(len(turns_of(record)) for record in read_records(dataset))
    assert len(texts) == 2 * 2 * turns
