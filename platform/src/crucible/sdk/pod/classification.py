"""Confusion matrix and ROC curve of scored answers, in the form that KFP's pages draw.

Source of the form: KFP's ``system.ClassificationMetrics`` (``confusionMatrix``,
``confidenceMetrics``), which live in the metadata of the artifact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_OTHER = "other"
_MAX_LABELS = 12
"""The most frequent answers have a row; the page gets unreadable, and the metadata long, beyond."""
_MAX_POINTS = 50


def classification_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Metadata for a ``system.ClassificationMetrics``; empty if there is nothing to draw.

    Args:
        records: of a ``Dataset[predictions]``: ``answer``, ``prediction`` and, for questions of
            yes or no, ``probability_yes``.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    scored: list[tuple[float, bool]] = []
    for record in records:
        pairs[str(record["answer"]), str(record["prediction"])] += 1
        if record.get("probability_yes") is not None:
            scored.append((float(record["probability_yes"]), record["answer"] == "yes"))
    metadata: dict[str, Any] = {}
    if pairs:
        metadata["confusionMatrix"] = _confusion(pairs)
    if any(positive for _, positive in scored) and not all(positive for _, positive in scored):
        metadata["confidenceMetrics"] = _curve(scored)
    return metadata


def _confusion(pairs: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    answers: Counter[str] = Counter()
    for (answer, _), count in pairs.items():
        answers[answer] += count
    labels = sorted(label for label, _ in answers.most_common(_MAX_LABELS))
    place = {label: index for index, label in enumerate([*labels, _OTHER])}
    rows = [[0] * len(place) for _ in place]
    for (answer, prediction), count in pairs.items():
        row = rows[place.get(answer, place[_OTHER])]
        row[place.get(prediction, place[_OTHER])] += count
    return {
        "annotationSpecs": [{"displayName": label} for label in place],
        "rows": [{"row": row} for row in rows],
    }


def _curve(scored: list[tuple[float, bool]]) -> list[dict[str, float]]:
    """Rates at falling thresholds; ties pass a threshold together."""
    num_positive = sum(positive for _, positive in scored)
    num_negative = len(scored) - num_positive
    points = [{"confidenceThreshold": 1.0, "recall": 0.0, "falsePositiveRate": 0.0}]
    true_positive = false_positive = 0
    ranked = sorted(scored, reverse=True)
    for index, (score, positive) in enumerate(ranked):
        true_positive += positive
        false_positive += not positive
        if index + 1 == len(ranked) or ranked[index + 1][0] != score:
            points.append(
                {
                    "confidenceThreshold": score,
                    "recall": true_positive / num_positive,
                    "falsePositiveRate": false_positive / num_negative,
                }
            )
    step = max(1, -(-len(points) // _MAX_POINTS))
    return [*points[:-1:step], points[-1]]
