"""Predictions of several steps on the same questions: accuracy, intervals, and what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crucible.sdk.types import Dataset, Predictions
from crucible_components.data.records import read_records
from crucible_components.data.schema import Record
from crucible_components.evaluation.summary import cluster_of
from crucible_components.evaluation.uncertainty import (
    Bootstrap,
    Interval,
    PairedDifference,
    accuracy_interval,
    paired_difference,
)


@dataclass(frozen=True)
class PredictionSeries:
    """What one evaluation found."""

    label: str
    """The step that wrote it."""
    records: Mapping[str, Record]
    """Predictions by id."""

    def correct(self, ids: Sequence[str]) -> list[bool]:
        return [bool(self.records[each]["correct"]) for each in ids]


@dataclass(frozen=True)
class Comparison:
    """One series, all its questions, and how it differs from the series before."""

    series: PredictionSeries
    accuracy: Interval
    num_questions: int
    difference: PairedDifference | None
    """On the questions that both were asked; None for the first, or without common ones."""


class Clusters:
    """Which predictions are about one picture; each its own where the questions are not given."""

    def __init__(self, questions: Sequence[Record]) -> None:
        self._cluster = {question["id"]: cluster_of(question) for question in questions}

    def of(self, ids: Sequence[str]) -> list[str]:
        return [self._cluster.get(each, each) for each in ids]


def read_series(
    predictions: Sequence[Dataset[Predictions]], labels: Sequence[str]
) -> list[PredictionSeries]:
    """The series in order; a label that occurs twice is numbered."""
    times: Counter[str] = Counter()
    series = []
    for dataset, label in zip(predictions, labels, strict=True):
        times[label] += 1
        name = label if times[label] == 1 else f"{label} ({times[label]})"
        series.append(PredictionSeries(name, {r["id"]: r for r in read_records(dataset)}))
    return series


def compare_in_order(
    series: Sequence[PredictionSeries], clusters: Clusters, bootstrap: Bootstrap
) -> list[Comparison]:
    """Each series with its accuracy, and against the one before."""
    found = []
    for index, current in enumerate(series):
        ids = list(current.records)
        accuracy = accuracy_interval(current.correct(ids), clusters.of(ids), bootstrap)
        difference = None
        if index:
            difference = difference_of(current, series[index - 1], clusters, bootstrap)
        found.append(Comparison(current, accuracy, len(ids), difference))
    return found


def difference_of(
    candidate: PredictionSeries,
    baseline: PredictionSeries,
    clusters: Clusters,
    bootstrap: Bootstrap,
) -> PairedDifference | None:
    """Candidate minus baseline on the questions that both were asked; None if there are none."""
    common = [
        key
        for key, record in candidate.records.items()
        if key in baseline.records and baseline.records[key]["question"] == record["question"]
    ]
    if not common:
        return None
    return paired_difference(
        candidate.correct(common), baseline.correct(common), clusters.of(common), bootstrap
    )


def categories_of(series: Sequence[PredictionSeries]) -> list[str]:
    """All categories of all series, sorted."""
    return sorted({record["category"] for each in series for record in each.records.values()})


def category_interval(
    series: PredictionSeries, category: str, clusters: Clusters, bootstrap: Bootstrap
) -> Interval | None:
    """Accuracy in one category; None if nothing of it was asked."""
    ids = [key for key, record in series.records.items() if record["category"] == category]
    if not ids:
        return None
    return accuracy_interval(series.correct(ids), clusters.of(ids), bootstrap)


def majority_share(series: Sequence[PredictionSeries], category: str) -> float:
    """Share of the commonest right answer of a category over all questions asked."""
    answers = {
        key: record["answer"]
        for each in series
        for key, record in each.records.items()
        if record["category"] == category
    }
    return max(Counter(answers.values()).values()) / len(answers)
