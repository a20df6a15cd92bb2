"""``synthesize-scenes``: pictures with known content and what a model is taught with them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Estimate,
    Resources,
)
from crucible.sdk.context import Context
from crucible.sdk.types import Conversations, Dataset, Metrics, Questions

SignWord = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}$")]

_SECONDS_PER_SCENE = 0.0012
_SECONDS_TO_START = 3.0


class SynthesizeScenes(Component):
    """Draw scenes and write captions, conversations and held-out questions about them."""

    name = "synthesize-scenes"
    image = "eval"
    resources = Resources(cpus=1.0, memory_gib=1.0)

    class Inputs(ComponentInputs):
        """Nothing is read: scenes come from the seed, digits from scikit-learn's data set."""

    class Config(ComponentConfig):
        """How many scenes, and what they may contain."""

        num_scenes: int = Field(default=4000, ge=1, le=1_000_000)
        """Scenes of each of the three training sets; no two sets share a scene."""
        num_prompt_scenes: int = Field(default=500, ge=1, le=1_000_000)
        """Scenes of the question set for reinforcement, none of them in a training set."""
        num_evaluation_scenes: int = Field(default=500, ge=1, le=1_000_000)
        """Scenes of the held-out question set; training shows none of their contents."""
        image_size_px: int = Field(default=64, ge=64, le=1024, multiple_of=4)
        """Side of the square pictures, four cells. Below 64 words on signs cannot be read."""
        max_objects: int = Field(default=4, ge=1, le=6)
        """Most figures in one picture."""
        num_colors: int = Field(default=6, ge=2, le=8)
        """How many of red, green, blue, yellow, purple, cyan, orange, pink appear."""
        num_shapes: int = Field(default=4, ge=2, le=6)
        """How many of circle, square, triangle, cross, star, ring appear."""
        words: tuple[SignWord, ...] = Field(
            default=("cat", "dog", "sun", "bus", "key", "map", "hat", "cup"), min_length=2
        )
        """Words on signs: two to four lower-case letters, the most that 64 pixels can show."""
        captions_per_scene: int = Field(default=1, ge=1, le=5)
        """Most captions of one alignment picture, each of another set."""
        turns_per_conversation: int = Field(default=6, ge=1, le=8)
        """Most question-answer pairs of one conversation. The published sets hold at most 8."""
        questions_per_scene: int = Field(default=4, ge=1, le=20)
        """Most questions about one prompt or evaluation picture."""

        @model_validator(mode="after")
        def _words_differ(self) -> Self:
            if len(set(self.words)) < len(self.words):
                raise ValueError(f"words: {list(self.words)} names a word twice. Remove it.")
            return self

    class Outputs(ComponentOutputs):
        """One dataset for each stage of the pipeline, and the counts."""

        alignment: Dataset[Conversations]
        """Captions, one or more a picture; ``category`` is the set, e.g. SynthColor."""
        fusion: Dataset[Conversations]
        """Conversations of every form; ``category`` is the set, e.g. SynthConvShort."""
        instruction: Dataset[Conversations]
        """Short answers; ``category`` is attribute, quantity, space, reading or choice."""
        prompts: Dataset[Questions]
        """Questions with answers about scenes that no training set shows."""
        evaluation: Dataset[Questions]
        """Questions with answers about contents that no training picture shows."""
        metrics: Metrics
        """Counts, and per category the accuracy of the commonest answer and of blind guessing."""

    @classmethod
    def estimate(cls, config: Config) -> Estimate:
        scenes = 3 * config.num_scenes + config.num_prompt_scenes + config.num_evaluation_scenes
        growth = (config.image_size_px / 64) ** 2
        return Estimate(
            memory_gib=0.3,
            seconds=_SECONDS_TO_START + scenes * _SECONDS_PER_SCENE * growth,
            formula="1.2 ms a scene of 64 x 64 pixels, plus 3 s",
        )

    def run(self, inputs: Inputs, config: Config, outputs: Outputs, context: Context) -> None:
        from crucible_components.synthesis.generation import synthesize

        metrics = synthesize(config, outputs, context)
        outputs.metrics.write(metrics)
        context.tracking.log_metrics(metrics)
