"""Component `train-vlm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible.sdk.component import (
    Component,
    ComponentInputs,
    ComponentOutputs,
    Estimate,
    Resources,
)
from crucible.sdk.types import Conversations, Dataset, Metrics, Model, VisionLanguage
from crucible_components.training.config import STAGE_DEFAULTS, TrainVlmConfig

if TYPE_CHECKING:
    from crucible.sdk.context import Context

_PICO_CPU_SECONDS_PER_CONVERSATION = 0.014


class TrainVlm(Component):
    """Train a FUSION vision-language model through one of its three stages."""

    name = "train-vlm"
    image = "train"
    resources = Resources(cpus=1.0, memory_gib=2.0)
    preload = ("crucible_components.training.stage",)
    distributed = True

    class Inputs(ComponentInputs):
        """The stage's data, and the model of the stage before.

        Without ``init``, in stage alignment only, a new model is built; its tokenizer is trained on
        the text of ``dataset`` and of ``vocabulary``, the data of later stages.
        """

        dataset: Dataset[Conversations]
        init: Model[VisionLanguage] | None
        vocabulary: list[Dataset[Conversations]] | None

    Config = TrainVlmConfig

    class Outputs(ComponentOutputs):
        """The trained model and its final losses."""

        model: Model[VisionLanguage]
        metrics: Metrics

    @classmethod
    def estimate(cls, config: TrainVlmConfig) -> Estimate | None:
        if config.steps is None or config.preset not in (None, "pico"):
            return None
        batch_size = config.batch_size or STAGE_DEFAULTS["pico"][config.stage].batch_size
        conversations = config.steps * batch_size
        return Estimate(
            memory_gib=1.5,
            seconds=conversations * _PICO_CPU_SECONDS_PER_CONVERSATION / cls.resources.cpus,
            formula="pico: 14 ms of one core a conversation with bfloat16 instructions",
        )

    def run(
        self, inputs: Inputs, config: TrainVlmConfig, outputs: Outputs, context: Context
    ) -> None:
        from crucible_components.training.stage import run_stage

        run_stage(inputs, config, outputs, context)
