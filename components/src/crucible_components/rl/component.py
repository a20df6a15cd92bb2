"""Component `train-grpo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible.sdk.component import Component, ComponentInputs, ComponentOutputs, Resources
from crucible.sdk.types import Dataset, Metrics, Model, Predictions, Questions, VisionLanguage
from crucible_components.rl.config import GrpoConfig

if TYPE_CHECKING:
    from crucible.sdk.context import Context


class TrainGrpo(Component):
    """Reinforce a vision-language model on questions whose answers a rule can check."""

    name = "train-grpo"
    image = "train"
    resources = Resources(cpus=1.0, memory_gib=2.0)
    preload = ("crucible_components.rl.training",)

    class Inputs(ComponentInputs):
        """A model and what to ask it."""

        model: Model[VisionLanguage]
        """The policy to start from; also the reference that the KL is measured against."""
        prompts: Dataset[Questions]
        """Questions, best with some that the model answers only now and then."""

    Config = GrpoConfig

    class Outputs(ComponentOutputs):
        """What the run leaves."""

        model: Model[VisionLanguage]
        """The reinforced model, in the type that the input had."""
        metrics: Metrics
        """``first/...`` and ``last/...`` means over ten steps, and totals."""
        samples: Dataset[Predictions]
        """Twenty answers of the last step with pictures, rewards and advantages."""

    def run(self, inputs: Inputs, config: GrpoConfig, outputs: Outputs, context: Context) -> None:
        from crucible_components.rl.training import reinforce

        reinforce(inputs, config, outputs, context)
