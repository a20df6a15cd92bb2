"""``evaluate-model``: how often a model answers rightly, how sure that is, and against whom."""

from __future__ import annotations

from pydantic import Field

from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Resources,
)
from crucible.sdk.context import Context
from crucible.sdk.types import (
    Dataset,
    Metrics,
    Model,
    Predictions,
    Questions,
    Report,
    VisionLanguage,
)


class EvaluateModel(Component):
    """Score a vision-language model on questions with known answers."""

    name = "evaluate-model"
    image = "train"
    resources = Resources(cpus=1.0, memory_gib=2.0)
    preload = ("crucible_components.evaluation.evaluation", "crucible_components.models.fusion")

    class Inputs(ComponentInputs):
        """A model, questions, and maybe another model's predictions on the same questions."""

        model: Model[VisionLanguage]
        """What is asked."""
        dataset: Dataset[Questions]
        """What it is asked, with the right answers."""
        baseline: Dataset[Predictions] | None
        """Another model's predictions on the same questions, for a paired comparison."""

    class Config(ComponentConfig):
        """How to ask and how to count."""

        max_new_tokens: int = Field(default=8, ge=1)
        """Longest answer; a longer one is cut and counted in ``truncated``."""
        batch_size: int = Field(default=64, ge=1)
        """Questions answered together. Changes speed and memory, not answers."""
        limit: int | None = Field(default=None, ge=1)
        """Ask only the first so many questions; all if not set."""
        confidence: float = Field(default=0.95, gt=0, lt=1)
        """Of all intervals."""
        num_bootstrap: int = Field(default=10_000, ge=100)
        """Resamples of pictures behind each interval; 10,000 is what reports need."""
        num_samples: int = Field(default=24, ge=0, le=200)
        """Most pictures shown in the report."""

    class Outputs(ComponentOutputs):
        """Every prediction, the numbers, and a page to read."""

        predictions: Dataset[Predictions]
        """What was said to each question, and whether it was right."""
        metrics: Metrics
        """Accuracy overall and by category with intervals, baselines, differences."""
        report: Report
        """One page: by category, confusions, pictures with answers."""

    def run(self, inputs: Inputs, config: Config, outputs: Outputs, context: Context) -> None:
        from crucible_components.evaluation.evaluation import evaluate

        evaluate(inputs, config, outputs, context)
