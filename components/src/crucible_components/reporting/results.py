"""What the evaluated steps of a run reached: by category, one against the other, in pictures."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_components.data.images import ImageArchive
from crucible_components.data.schema import Record
from crucible_components.evaluation.uncertainty import Bootstrap, PairedDifference
from crucible_components.reporting.accuracy import (
    Clusters,
    Comparison,
    PredictionSeries,
    categories_of,
    category_interval,
    difference_of,
    majority_share,
)
from crucible_components.reporting.elements.cards import answer_line, sample_card
from crucible_components.reporting.elements.charts import Estimate, IntervalRow, interval_plot
from crucible_components.reporting.elements.markup import Child, Markup, el
from crucible_components.reporting.elements.page import (
    Section,
    legend,
    percent,
    percent_range,
    picture,
    signed_points,
    table,
)

_MIN_SERIES_FOR_PAIRS = 2


def accuracy_section(
    series: Sequence[PredictionSeries], clusters: Clusters, bootstrap: Bootstrap
) -> list[Section]:
    """Accuracy by category, one marker and one column a series."""
    if not series:
        return []
    plot, rows = [], []
    for category in categories_of(series):
        found = [category_interval(each, category, clusters, bootstrap) for each in series]
        majority = majority_share(series, category)
        estimates = [
            Estimate(each.label, interval.mean, interval.low, interval.high) if interval else None
            for each, interval in zip(series, found, strict=True)
        ]
        plot.append(IntervalRow(category, estimates, majority))
        cells = [
            f"{percent(each.mean)} ({percent_range(each.low, each.high)})" if each else "–"
            for each in found
        ]
        rows.append([category, percent(majority), *cells])
    labels = [each.label for each in series]
    details = table(
        ["Category", "Majority", *labels], rows, caption="Accuracy by category", numbers_from=1
    )
    body = [
        legend(labels),
        interval_plot("Accuracy by category", plot),
        el("details", el("summary", "Numbers"), details),
    ]
    note = (
        f"Dots are accuracies on held-out questions, bars {100 * bootstrap.confidence:g} % "
        "intervals; the dotted tick is the share of the commonest answer, which needs no model."
    )
    return [Section("Accuracy by category", body, note=note)]


def stage_section(
    comparisons: Sequence[Comparison], clusters: Clusters, bootstrap: Bootstrap
) -> list[Section]:
    """Each evaluated step against the one before it, and every pair."""
    if not comparisons:
        return []
    headers = ["Step", "Questions", "Accuracy", "Interval", "Change", "Interval", "McNemar p"]
    rows = [_stage_row(each) for each in comparisons]
    body = [table(headers, rows, caption="Each step against the one above it", numbers_from=1)]
    if len(comparisons) > _MIN_SERIES_FOR_PAIRS:
        body.append(_pair_table([each.series for each in comparisons], clusters, bootstrap))
    note = (
        "Changes are percentage points on the questions that both were asked, with the interval "
        "of a paired bootstrap over pictures; coloured where the interval leaves out zero."
    )
    return [Section("Before and after", body, note=note)]


def _stage_row(each: Comparison) -> list[Child]:
    row: list[Child] = [
        each.series.label,
        each.num_questions,
        percent(each.accuracy.mean),
        percent_range(each.accuracy.low, each.accuracy.high),
    ]
    found = each.difference
    if found is None:
        return [*row, "–", "–", "–"]
    return [*row, _points(found), _point_range(found), f"{found.mcnemar_p:.2g}"]


def _pair_table(
    series: Sequence[PredictionSeries], clusters: Clusters, bootstrap: Bootstrap
) -> Markup:
    rows: list[list[Child]] = []
    for index, candidate in enumerate(series[1:], start=1):
        row: list[Child] = [candidate.label]
        for column, baseline in enumerate(series[:-1]):
            found = None
            if column < index:
                found = difference_of(candidate, baseline, clusters, bootstrap)
            if found is None:
                row.append("·")
            else:
                row.append([_points(found), el("div", _point_range(found), class_="note")])
        rows.append(row)
    headers = ["Row minus column", *(each.label for each in series[:-1])]
    return table(headers, rows, caption="Every pair", numbers_from=1)


def sample_section(
    series: Sequence[PredictionSeries],
    questions: Sequence[Record],
    archive: ImageArchive | None,
    limit: int,
) -> list[Section]:
    """Pictures with what every evaluated step said about them."""
    if not series or archive is None:
        return []
    chosen = choose_questions(series, questions, limit)
    cards = []
    for question in chosen:
        lines = [
            answer_line(record["prediction"], correct=record["correct"], who=each.label)
            for each in series
            if (record := each.records.get(question["id"]))
        ]
        lines.append(answer_line(question["answer"], correct=None, who="expected"))
        alt = f"Picture of question {question['id']}"
        image = picture(archive.read_bytes(question["image"]), alt)
        cards.append(sample_card(question["question"], lines, image, question["category"]))
    note = "Categories in turn, questions on which the steps differ first."
    return [Section("Samples", el("div", cards, class_="samples"), note=note)] if cards else []


def choose_questions(
    series: Sequence[PredictionSeries], questions: Sequence[Record], limit: int
) -> list[Record]:
    """Questions with a picture of their own, categories in turn, those with changes first."""

    def verdicts(question: Record) -> set[bool]:
        found = (each.records.get(question["id"]) for each in series)
        return {bool(record["correct"]) for record in found if record}

    piles: dict[str, list[Record]] = {}
    shown: set[str] = set()
    for wanted in (2, 1):
        for question in questions:
            image = question.get("image")
            if image and image not in shown and len(verdicts(question)) == wanted:
                piles.setdefault(question["category"], []).append(question)
                shown.add(image)
    ranked = [(rank, category) for category, pile in piles.items() for rank in range(len(pile))]
    return [piles[category][rank] for rank, category in sorted(ranked)[:limit]]


def _points(found: PairedDifference) -> Markup:
    tone = "good-text" if found.low > 0 else "bad-text" if found.high < 0 else None
    return el("b", signed_points(found.mean), class_=tone)


def _point_range(found: PairedDifference) -> str:
    return f"{signed_points(found.low)} to {signed_points(found.high)}"
