"""``report-run``: one page that shows what a run did and what came of it."""

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
from crucible.sdk.types import Dataset, Predictions, Questions, Report, RunRecord


class ReportRun(Component):
    """Show a run on one self-contained page: graph, curves, accuracy, samples, lineage."""

    name = "report-run"
    image = "eval"
    resources = Resources(cpus=1.0, memory_gib=1.0)
    cacheable = False

    class Inputs(ComponentInputs):
        """The engine's record of the run, and what was predicted on the way."""

        run: RunRecord
        """Filled by the engine."""
        predictions: list[Dataset[Predictions]] | None
        """Of the steps to compare, in order; each is held against the one before."""
        questions: Dataset[Questions] | None
        """What they were asked: for the pictures, and to resample by picture."""

    class Config(ComponentConfig):
        """What the page shows of the data."""

        title: str | None = None
        """Heading of the page; the pipeline's name if not set."""
        num_samples: int = Field(default=24, ge=0, le=200)
        """Most pictures shown."""
        confidence: float = Field(default=0.95, gt=0, lt=1)
        """Of all intervals."""
        num_bootstrap: int = Field(default=10_000, ge=100)
        """Resamples of pictures behind each interval."""

    class Outputs(ComponentOutputs):
        """The page."""

        report: Report
        """One page that needs nothing else."""

    def run(self, inputs: Inputs, config: Config, outputs: Outputs, context: Context) -> None:
        from crucible_components.reporting.report import render_run

        outputs.report.new_file("report.html").write_text(
            render_run(inputs, config, context.seed_for("bootstrap")), encoding="utf-8"
        )
