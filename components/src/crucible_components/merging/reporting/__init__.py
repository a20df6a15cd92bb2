"""What a merge did: figures gathered while it runs, metrics, and one HTML page."""

from crucible_components.merging.reporting.figures import (
    Accumulator,
    Partial,
    TensorFigures,
    figures_of,
)
from crucible_components.merging.reporting.metrics import summary_metrics
from crucible_components.merging.reporting.page import MergeReport, render_report

__all__ = [
    "Accumulator",
    "MergeReport",
    "Partial",
    "TensorFigures",
    "figures_of",
    "render_report",
    "summary_metrics",
]
