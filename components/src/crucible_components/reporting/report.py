"""A run's page from its record and predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crucible.sdk.types import Dataset, Predictions
from crucible_components.data.records import ImageArchive, read_records
from crucible_components.evaluation.uncertainty import Bootstrap
from crucible_components.reporting.accuracy import (
    Clusters,
    Comparison,
    compare_in_order,
    read_series,
)
from crucible_components.reporting.dag import STATUS_MARKS, duration
from crucible_components.reporting.elements.markup import Child
from crucible_components.reporting.elements.page import Tile, page, percent, percent_range, pill
from crucible_components.reporting.results import accuracy_section, sample_section, stage_section
from crucible_components.reporting.run import RunView, read_run
from crucible_components.reporting.sections import (
    curve_section,
    failure_section,
    lineage_section,
    parameter_section,
    pipeline_section,
    release_section,
)

if TYPE_CHECKING:
    from crucible_components.reporting.component import ReportRun


def render_run(inputs: ReportRun.Inputs, config: ReportRun.Config, seed: int) -> str:
    """The HTML page of a run. What an unfinished run lacks is left out.

    Raises:
        UserError: the record is of another schema, or a dataset holds invalid records.
    """
    run = read_run(inputs.run)
    predictions = inputs.predictions or []
    series = read_series(predictions, _labels(run, predictions))
    questions = read_records(inputs.questions) if inputs.questions else []
    bootstrap = Bootstrap(config.num_bootstrap, config.confidence, seed)
    clusters = Clusters(questions)
    comparisons = compare_in_order(series, clusters, bootstrap)
    with contextlib.ExitStack() as stack:
        archive = None
        if inputs.questions is not None:
            archive = stack.enter_context(ImageArchive(inputs.questions))
        sections = [
            *failure_section(run),
            *release_section(run),
            pipeline_section(run),
            *accuracy_section(series, clusters, bootstrap),
            *stage_section(comparisons, clusters, bootstrap),
            *curve_section(run),
            *sample_section(series, questions, archive, config.num_samples),
            *parameter_section(run),
            lineage_section(run),
        ]
    return page(
        config.title or run.pipeline,
        subtitle=_subtitle(run),
        tiles=_tiles(run, comparisons),
        sections=sections,
        footer=f"Run {run.run_id}, plan {run.plan_digest}.",
    )


def _labels(run: RunView, predictions: Sequence[Dataset[Predictions]]) -> list[str]:
    """The step that wrote each; steps that wrote the same are taken in their order."""
    labels: list[str] = []
    for number, each in enumerate(predictions, start=1):
        producers = run.producers_of(each.digest)
        free = [step_id for step_id in producers if step_id not in labels]
        labels.append((free or producers or [f"predictions {number}"])[0])
    return labels


def _subtitle(run: RunView) -> list[Child]:
    mark, tone, word = STATUS_MARKS.get(run.status, ("?", None, run.status))
    started = ""
    if run.started_at is not None:
        moment = datetime.fromtimestamp(run.started_at, UTC)
        started = f" {moment:%Y-%m-%d %H:%M} UTC."
    return [pill(f"{mark} {word}", tone), f" Run {run.run_id}.{started} {run.description}"]


def _tiles(run: RunView, comparisons: Sequence[Comparison]) -> list[Tile]:
    cached = sum(step.status == "cached" for step in run.steps)
    done = sum(step.status in ("succeeded", "cached") for step in run.steps)
    tiles = [
        Tile("Duration", duration(run.seconds)),
        Tile("Steps", f"{done} of {len(run.steps)}", f"{cached} from the cache"),
    ]
    if comparisons:
        last = comparisons[-1]
        found = last.accuracy
        more = f"{percent_range(found.low, found.high)}, {last.series.label}"
        tiles.append(Tile("Held-out accuracy", percent(found.mean), more))
    if len(comparisons) > 1:
        first = comparisons[0]
        tiles.append(Tile("At first", percent(first.accuracy.mean), f"after {first.series.label}"))
    if run.release:
        version = f"{run.release.get('name', '')} v{run.release.get('version', '')}"
        more = f"{run.release.get('outcome', '')}: {run.release.get('alias', '')}"
        tiles.append(Tile("Release", version, more))
    return tiles
