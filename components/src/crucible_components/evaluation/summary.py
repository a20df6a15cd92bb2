"""Numbers of one evaluation: accuracy by category with intervals, baselines, paired comparison."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crucible.errors import Problem, UserError
from crucible_components.data.schema import Record
from crucible_components.evaluation.answering import Answered
from crucible_components.evaluation.roc import RocCurve, roc_curve
from crucible_components.evaluation.uncertainty import (
    Bootstrap,
    Interval,
    PairedDifference,
    accuracy_interval,
    calibration_error,
    paired_difference,
)

_TAKEN_SUFFIXES = ("low", "high", "macro")


@dataclass(frozen=True)
class GroupSummary:
    """Results of one category, or of all questions."""

    num_questions: int
    accuracy: Interval
    majority: float
    """Share of the commonest right answer: what a model reaches that always says it."""
    difference: PairedDifference | None
    """Against the baseline's predictions, if there are any."""


@dataclass(frozen=True)
class Summary:
    """Results of one evaluation."""

    overall: GroupSummary
    categories: Mapping[str, GroupSummary]
    """By category, in alphabetical order."""
    macro_accuracy: float
    """Mean over categories."""
    calibration_error: float
    truncated: float
    """Share of answers that were cut at the limit."""
    unanswered: float
    """Share of answers in which no answer was found."""
    yes_no: RocCurve | None

    def metrics(self) -> dict[str, float]:
        """Flat and named for MLflow and the promotion gate."""
        overall = self.overall
        values = {
            "accuracy": overall.accuracy.mean,
            "accuracy_low": overall.accuracy.low,
            "accuracy_high": overall.accuracy.high,
            "accuracy_macro": self.macro_accuracy,
            "majority": overall.majority,
            "calibration_error": self.calibration_error,
            "truncated": self.truncated,
            "unanswered": self.unanswered,
            "num_questions": float(overall.num_questions),
        }
        if self.yes_no is not None:
            values["auc_yes_no"] = self.yes_no.auc
        if overall.difference is not None:
            values["accuracy_baseline"] = overall.accuracy.mean - overall.difference.mean
            values["mcnemar_p"] = overall.difference.mcnemar_p
            values |= _difference_metrics("difference", overall.difference)
        for category, group in self.categories.items():
            name = metric_name(category)
            values[f"num_questions_{name}"] = float(group.num_questions)
            values[f"majority_{name}"] = group.majority
            values[f"accuracy_{name}"] = group.accuracy.mean
            values[f"accuracy_{name}_low"] = group.accuracy.low
            values[f"accuracy_{name}_high"] = group.accuracy.high
            if group.difference is not None:
                values |= _difference_metrics(f"difference_{name}", group.difference)
        return values


def summarise(
    answered: Sequence[Answered], baseline: Mapping[str, bool] | None, bootstrap: Bootstrap
) -> Summary:
    """The results of ``answered``, compared with ``baseline`` (verdicts by id) if given."""
    by_category: dict[str, list[Answered]] = {}
    for each in answered:
        by_category.setdefault(each.question["category"], []).append(each)
    categories = {
        name: _summarise_group(members, baseline, bootstrap)
        for name, members in sorted(by_category.items())
    }
    yes_no = [each for each in answered if each.probability_yes is not None]
    return Summary(
        overall=_summarise_group(answered, baseline, bootstrap),
        categories=categories,
        macro_accuracy=sum(g.accuracy.mean for g in categories.values()) / len(categories),
        calibration_error=calibration_error(
            [each.response.confidence for each in answered],
            [each.verdict.correct for each in answered],
        ),
        truncated=_share([each.response.truncated for each in answered]),
        unanswered=_share([not each.verdict.answer for each in answered]),
        yes_no=roc_curve(
            [each.probability_yes or 0.0 for each in yes_no],
            [each.question["answer"].casefold() == "yes" for each in yes_no],
        ),
    )


def check_questions(questions: Sequence[Record]) -> None:
    """Refuse what cannot be evaluated, before any model is loaded.

    Raises:
        UserError: no questions, an id twice, or categories whose metrics would share a name.
    """
    problems = []
    if not questions:
        problems.append(Problem("dataset", "holds no questions.", "Give at least one."))
    for record_id, times in Counter(record["id"] for record in questions).items():
        if times > 1:
            problems.append(Problem("id", f"{record_id!r} stands {times} times.", "Ids differ."))
    names = Counter(metric_name(name) for name in {record["category"] for record in questions})
    for name, times in names.items():
        if times > 1 or name in _TAKEN_SUFFIXES or name.endswith(("_low", "_high")):
            rule = f"{name!r} does not give metric names of its own."
            problems.append(Problem("category", rule, "Rename the category."))
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems[:20])
        raise UserError(f"dataset: cannot be evaluated:\n{listed}", problems)


def match_baseline(questions: Sequence[Record], predictions: Sequence[Record]) -> dict[str, bool]:
    """The baseline's verdicts on ``questions`` by id; it may hold others besides.

    Raises:
        UserError: it lacks some of the questions, or was asked something else under their ids.
    """
    found = {record["id"]: record for record in predictions}
    missing = [record["id"] for record in questions if record["id"] not in found]
    other = [
        record["id"]
        for record in questions
        if record["id"] in found
        and any(record[key] != found[record["id"]][key] for key in ("question", "answer"))
    ]
    problems = [
        Problem("baseline", f"{len(ids)} of {len(questions)} ids {what}, first {ids[0]!r}.", fix)
        for ids, what, fix in (
            (missing, "have no prediction", "Evaluate the baseline on the same dataset and limit."),
            (other, "have another question or answer", "Evaluate it on the same dataset."),
        )
        if ids
    ]
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise UserError(f"baseline: cannot be paired with the questions:\n{listed}", problems)
    return {record["id"]: bool(found[record["id"]]["correct"]) for record in questions}


def cluster_of(question: Record) -> str:
    """What resampling keeps together: the picture, or the question itself without one."""
    return str(question.get("image") or question["id"])


def metric_name(category: str) -> str:
    """``category`` in the alphabet of metric names."""
    return re.sub(r"\W+", "_", category, flags=re.ASCII)


def _summarise_group(
    answered: Sequence[Answered], baseline: Mapping[str, bool] | None, bootstrap: Bootstrap
) -> GroupSummary:
    correct = [each.verdict.correct for each in answered]
    clusters = [cluster_of(each.question) for each in answered]
    answers = Counter(each.question["answer"] for each in answered)
    difference = None
    if baseline is not None:
        before = [baseline[each.question["id"]] for each in answered]
        difference = paired_difference(correct, before, clusters, bootstrap)
    return GroupSummary(
        num_questions=len(answered),
        accuracy=accuracy_interval(correct, clusters, bootstrap),
        majority=max(answers.values()) / len(answered),
        difference=difference,
    )


def _difference_metrics(prefix: str, difference: PairedDifference) -> dict[str, float]:
    return {
        prefix: difference.mean,
        f"{prefix}_low": difference.low,
        f"{prefix}_high": difference.high,
    }


def _share(facts: Sequence[bool]) -> float:
    return sum(facts) / len(facts)
