"""The page of one evaluation: by category, what was confused with what, and pictures to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from crucible_components.data.images import ImageArchive
from crucible_components.evaluation.answering import Answered
from crucible_components.evaluation.summary import GroupSummary, Summary
from crucible_components.reporting.elements.cards import answer_line, sample_card
from crucible_components.reporting.elements.charts import (
    Estimate,
    IntervalRow,
    Line,
    interval_plot,
    line_chart,
)
from crucible_components.reporting.elements.markup import Child, Markup, el
from crucible_components.reporting.elements.page import (
    Section,
    Tile,
    page,
    percent,
    percent_range,
    picture,
    signed_points,
    table,
)

_MAX_ANSWERS_IN_MATRIX = 12
_OTHER = "other"


def render_report(
    answered: Sequence[Answered],
    summary: Summary,
    archive: ImageArchive,
    *,
    confidence: float,
    num_samples: int,
) -> str:
    """A self-contained HTML page."""
    sections = [
        _category_section(summary, confidence),
        *_yes_no_section(answered, summary),
        *_confusion_section(answered),
        *_sample_section(answered, archive, num_samples),
    ]
    return page(
        "Evaluation",
        subtitle=f"{len(answered)} questions about {_num_pictures(answered)} pictures",
        tiles=_tiles(summary),
        sections=sections,
        footer="Intervals resample pictures; where fewer than five answers are right, or wrong, "
        "they are Wilson's.",
    )


def _tiles(summary: Summary) -> list[Tile]:
    overall = summary.overall
    accuracy = overall.accuracy
    tiles = [
        Tile("Accuracy", percent(accuracy.mean), percent_range(accuracy.low, accuracy.high)),
        Tile("Mean over categories", percent(summary.macro_accuracy)),
        Tile("Calibration error", percent(summary.calibration_error), "10 bins"),
        Tile("Cut or unanswered", percent(summary.truncated), percent(summary.unanswered)),
    ]
    if summary.yes_no is not None:
        tiles.insert(2, Tile("AUC of yes/no", f"{summary.yes_no.auc:.3f}"))
    if overall.difference is not None:
        found = overall.difference
        more = (
            f"{signed_points(found.low)} to {signed_points(found.high)}, p = {found.mcnemar_p:.2g}"
        )
        tiles.insert(1, Tile("Against baseline", f"{signed_points(found.mean)} points", more))
    return tiles


def _category_section(summary: Summary, confidence: float) -> Section:
    rows = [_plot_row(name, group) for name, group in summary.categories.items()]
    headers = ["Category", "Questions", "Accuracy", f"{100 * confidence:g} % interval", "Majority"]
    compared = summary.overall.difference is not None
    if compared:
        headers += ["Baseline", "Difference", "Interval"]
    groups = [*summary.categories.items(), ("all", summary.overall)]
    return Section(
        "By category",
        [
            interval_plot("Accuracy by category", rows),
            table(
                headers,
                [_table_row(name, group) for name, group in groups],
                caption="Accuracy by category",
                numbers_from=1,
            ),
        ],
        note="Dots are accuracies, bars their intervals; the dotted tick is the share of the "
        "commonest answer, which needs no model.",
    )


def _plot_row(name: str, group: GroupSummary) -> IntervalRow:
    found = group.accuracy
    estimate = Estimate("accuracy", found.mean, found.low, found.high)
    return IntervalRow(name, [estimate], reference=group.majority)


def _table_row(name: str, group: GroupSummary) -> list[Child]:
    found = group.accuracy
    row: list[Child] = [
        name,
        group.num_questions,
        percent(found.mean),
        percent_range(found.low, found.high),
        percent(group.majority),
    ]
    if group.difference is not None:
        found_difference = group.difference
        row += [
            percent(found.mean - found_difference.mean),
            signed_points(found_difference.mean),
            f"{signed_points(found_difference.low)} to {signed_points(found_difference.high)}",
        ]
    return row


def _yes_no_section(answered: Sequence[Answered], summary: Summary) -> list[Section]:
    if summary.yes_no is None:
        return []
    curve = summary.yes_no
    points = list(
        zip(curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist(), strict=True)
    )
    lines = [Line(f"model, AUC {curve.auc:.3f}", points), Line("chance", [(0, 0), (1, 1)], True)]
    chart = line_chart("True positive rate", lines, x_label="false positive rate", unit_square=True)
    number = sum(each.probability_yes is not None for each in answered)
    note = f"{number} questions, ranked by the probability of yes against no."
    return [Section("Yes or no", el("div", chart, class_="charts"), note=note)]


def _confusion_section(answered: Sequence[Answered]) -> list[Section]:
    by_category: dict[str, list[Answered]] = {}
    for each in answered:
        by_category.setdefault(each.question["category"], []).append(each)
    matrices = [
        _matrix(name, members)
        for name, members in sorted(by_category.items())
        if 1 < len({each.question["answer"] for each in members}) <= _MAX_ANSWERS_IN_MATRIX
    ]
    if not matrices:
        return []
    note = "Rows are right answers, columns what the model said."
    return [Section("Confusions", el("div", matrices, class_="matrices"), note=note)]


def _matrix(name: str, answered: Sequence[Answered]) -> Markup:
    answers = sorted({each.question["answer"] for each in answered})
    # What a right answer was said in does not matter, so it is counted under its own name.
    said = Counter(
        (
            each.question["answer"],
            each.question["answer"]
            if each.verdict.correct
            else each.verdict.answer
            if each.verdict.answer in answers
            else _OTHER,
        )
        for each in answered
    )
    columns = [*answers, *([_OTHER] if any(column == _OTHER for _, column in said) else [])]
    rows: list[list[Child]] = []
    for answer in answers:
        total = sum(said[answer, column] for column in columns)
        rows.append([answer, *(_cell(said[answer, column], total) for column in columns)])
    return table(["right \\ said", *columns], rows, caption=name, numbers_from=1)


def _cell(number: int, total: int) -> Markup:
    strength = round(70 * number / total) if total else 0
    tint = f"background:color-mix(in srgb,var(--accent) {strength // 2}%,transparent)"
    return el("span", number or "·", style=f"display:block;border-radius:5px;{tint}")


def _sample_section(
    answered: Sequence[Answered], archive: ImageArchive, num_samples: int
) -> list[Section]:
    chosen = choose_samples(answered, num_samples)
    if not chosen:
        return []
    cards = [_card(each, archive) for each in chosen]
    note = "One right and one wrong answer of each category in turn, in the order of the data."
    return [Section("Samples", el("div", cards, class_="samples"), note=note)]


def choose_samples(answered: Sequence[Answered], limit: int) -> list[Answered]:
    """Right and wrong answers of all categories in turn, each about a picture of its own."""
    piles: dict[tuple[str, bool], list[Answered]] = {}
    for each in sorted(answered, key=lambda each: str(each.question["category"])):
        if each.question.get("image"):
            key = (each.question["category"], each.verdict.correct)
            piles.setdefault(key, []).append(each)
    chosen: list[Answered] = []
    shown: set[str] = set()
    queues = [iter(pile) for pile in piles.values()]
    while queues and len(chosen) < limit:
        for queue in list(queues):
            found = next((each for each in queue if each.question["image"] not in shown), None)
            if found is None:
                queues.remove(queue)
            elif len(chosen) < limit:
                chosen.append(found)
                shown.add(found.question["image"])
    return chosen


def _card(each: Answered, archive: ImageArchive) -> Markup:
    question = each.question
    lines = [
        answer_line(each.verdict.answer, correct=each.verdict.correct, who="model"),
        answer_line(question["answer"], correct=None, who="expected"),
    ]
    image = picture(archive.read_bytes(question["image"]), f"Picture of question {question['id']}")
    return sample_card(question["question"], lines, image, question["category"])


def _num_pictures(answered: Sequence[Answered]) -> int:
    return len({each.question.get("image") for each in answered} - {None})
