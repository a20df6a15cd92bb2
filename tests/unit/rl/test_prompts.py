from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crucible.errors import UserError
from crucible.sdk.types import ArtifactType, Dataset
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import DatasetWriter, ImageArchive
from crucible_components.rl.prompts import Prompt, PromptStream, read_prompts, select_prompts

PROMPTS = [Prompt(str(n), "ab"[n % 2], "how many?", "two", image_name=f"{n}.png") for n in range(7)]

SeedFor = Callable[[str], int]


def test_every_prompt_comes_once_an_epoch_in_another_order(seeds: SeedFor) -> None:
    stream = PromptStream(PROMPTS, seeds)
    epochs = [[prompt.id for prompt in stream.take(7)] for _ in range(3)]
    assert all(sorted(epoch) == list("0123456") for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_does_not_depend_on_the_size_of_the_takes(seeds: SeedFor) -> None:
    one, other = PromptStream(PROMPTS, seeds), PromptStream(PROMPTS, seeds)
    taken = [prompt.id for count in (1, 5, 11, 3) for prompt in one.take(count)]
    assert taken == [prompt.id for prompt in other.take(20)]


def test_a_set_position_goes_on_where_another_stopped(seeds: SeedFor) -> None:
    one, other = PromptStream(PROMPTS, seeds), PromptStream(PROMPTS, seeds)
    one.take(10)
    other.position = one.position
    assert other.take(9) == one.take(9)


def test_pictures_are_loaded_when_served(seeds: SeedFor) -> None:
    asked: list[str] = []

    def load(name: str) -> str:
        asked.append(name)
        return name.upper()

    stream = PromptStream(PROMPTS, seeds, load_image=load)
    (prompt,) = stream.take(1)
    assert prompt.image == f"{prompt.id}.PNG"
    assert asked == [f"{prompt.id}.png"]


def test_categories_are_filtered_and_unknown_ones_named() -> None:
    assert [prompt.id for prompt in select_prompts(PROMPTS, ["b"])] == ["1", "3", "5"]
    assert select_prompts(PROMPTS, None) == PROMPTS
    with pytest.raises(UserError) as caught:
        select_prompts(PROMPTS, ["b", "c", "d"])
    messages = [str(problem) for problem in caught.value.problems]
    assert messages == [
        f"categories: {name!r} has no question in prompts. Use some of: a, b." for name in "cd"
    ]


def test_no_prompt_at_all_is_a_users_error() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        select_prompts([], None)


def test_records_become_prompts(tmp_path: Path) -> None:
    kind = ArtifactType("Dataset", "questions")
    dataset = Dataset("prompts", FolderBytes(tmp_path), kind)
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    record = {"category": "count", "question": "how many?", "answer": "two"}
    with DatasetWriter(dataset) as writer:
        name = writer.add_image(pixels)
        writer.add_record({"id": "a", "image": name, **record})
        writer.add_record({"id": "b", **record})
    assert read_prompts(dataset) == [
        Prompt("a", "count", "how many?", "two", image_name=name),
        Prompt("b", "count", "how many?", "two"),
    ]
    with ImageArchive(dataset) as archive:
        np.testing.assert_array_equal(archive.read(name), pixels)
