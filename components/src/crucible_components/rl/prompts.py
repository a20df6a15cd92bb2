"""Questions to sample answers to: read once, filtered, and served in a seeded endless order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crucible.errors import Problem, UserError
from crucible.sdk.types import Dataset, Questions
from crucible_components.data.records import read_records


@dataclass(frozen=True)
class Prompt:
    """One question with what is needed to answer and to check it."""

    id: str
    category: str
    question: str
    answer: str | None
    image_name: str | None = None
    """Name of its picture in the data set, None for a question without one."""
    image: Any = None
    """The picture once loaded; equal pictures of one round are the same object."""


class PromptStream:
    """Prompts in an order that depends on the seed and the position only.

    Every prompt comes once an epoch, each epoch in its own order. ``position`` counts prompts
    served and may be set, to go on where an earlier run stopped. ``load_image`` turns the name of
    a picture into the picture when its prompt is served.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        seed_for: Callable[[str], int],
        *,
        load_image: Callable[[str], Any] | None = None,
    ) -> None:
        if not prompts:
            raise ValueError("no prompts to serve.")
        self._prompts = prompts
        self._seed_for = seed_for
        self._load_image = load_image
        self._order: list[int] = []
        self._epoch = -1
        self.position = 0

    def take(self, count: int) -> list[Prompt]:
        """The next ``count`` prompts."""
        taken = []
        for _ in range(count):
            epoch, offset = divmod(self.position, len(self._prompts))
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = list(range(len(self._prompts)))
                random.Random(self._seed_for(f"prompts/{epoch}")).shuffle(self._order)
            taken.append(self._loaded(self._prompts[self._order[offset]]))
            self.position += 1
        return taken

    def _loaded(self, prompt: Prompt) -> Prompt:
        if self._load_image is None or prompt.image_name is None:
            return prompt
        return replace(prompt, image=self._load_image(prompt.image_name))


def read_prompts(dataset: Dataset[Questions]) -> list[Prompt]:
    """All questions of a data set, pictures not yet loaded."""
    return [
        Prompt(
            id=record["id"],
            category=record["category"],
            question=record["question"],
            answer=record["answer"],
            image_name=record.get("image"),
        )
        for record in read_records(dataset)
    ]


def select_prompts(prompts: Sequence[Prompt], categories: Sequence[str] | None) -> list[Prompt]:
    """The prompts of ``categories``; all if unset.

    Raises:
        UserError: a category without any prompt, or no prompt at all.
    """
    present = sorted({prompt.category for prompt in prompts})
    problems = [
        Problem(
            path="categories",
            message=f"{category!r} has no question in prompts.",
            fix=f"Use some of: {', '.join(present)}.",
        )
        for category in categories or ()
        if category not in present
    ]
    if not prompts:
        problems.append(Problem(path="prompts", message="is empty.", fix="Give some questions."))
    if problems:
        raise UserError("prompts: nothing to train on.", problems)
    wanted = set(categories or present)
    return [prompt for prompt in prompts if prompt.category in wanted]
