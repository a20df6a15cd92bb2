"""Component `suggest-parameters`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Resources,
)
from crucible.sdk.types import Metrics

if TYPE_CHECKING:
    from crucible.sdk.context import Context


class Range(ComponentConfig):
    """The values that one parameter may take."""

    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    """Distance of the values; None: any between."""
    log: bool = False
    """Search evenly over orders of magnitude."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log wants low above 0, and no step")
        return self


class SuggestConfig(ComponentConfig):
    """Settings of one suggestion."""

    space: dict[str, Range] = Field(min_length=1)
    """Ranges by parameter."""
    number: int = Field(ge=0)
    """Which of the suggestions made side by side this is, from 0; they differ."""
    objective: str = "accuracy"
    """Metric of ``results`` that is to become large."""
    direction: Literal["maximize", "minimize"] = "maximize"
    sampler: Literal["tpe", "quasi-random"] = "tpe"
    """Without results both spread suggestions evenly; with them, TPE goes where they were good."""


class SuggestParameters(Component):
    """Suggest parameters to try next, by what was tried before and how it did."""

    name = "suggest-parameters"
    image = "train"
    resources = Resources(cpus=1.0, memory_gib=1.0)

    class Inputs(ComponentInputs):
        """What is known; empty in the first round."""

        tried: list[Metrics] | None
        """Suggestions of rounds before."""
        results: list[Metrics] | None
        """Metrics of the same trials, in the same order."""

    Config = SuggestConfig

    class Outputs(ComponentOutputs):
        """The suggestion."""

        parameters: Metrics
        """A number for each name of ``space``."""

    def run(
        self, inputs: Inputs, config: SuggestConfig, outputs: Outputs, context: Context
    ) -> None:
        from crucible_components.search.suggesting import Trial, suggest

        tried, results = inputs.tried or [], inputs.results or []
        trials = [
            Trial(parameters.read(), result.read())
            for parameters, result in zip(tried, results, strict=True)
        ]
        outputs.parameters.write(suggest(config, trials, seed=context.seed))
