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
    resources = Resources(cpus=2.0, memory_gib=2.0)

    class Inputs(ComponentInputs):
        """The policy to start from, and verifiable questions."""

        model: Model[VisionLanguage]
        prompts: Dataset[Questions]

    Config = GrpoConfig

    class Outputs(ComponentOutputs):
        """The reinforced model, the run in a few numbers, and answers of its last step."""

        model: Model[VisionLanguage]
        metrics: Metrics
        samples: Dataset[Predictions]

    def run(self, inputs: Inputs, config: GrpoConfig, outputs: Outputs, context: Context) -> None:
        from crucible_components.rl.training import reinforce

        reinforce(inputs, config, outputs, context)
