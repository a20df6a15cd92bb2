"""Paired comparison of two models on the same questions.

With s the score of one answer (1 or 0 for right or wrong, the mean over samples when there are
several), d = s(candidate) - s(champion) per question. Reported are mean(d), a percentile interval
from the paired bootstrap, and, for right-or-wrong scores, the exact McNemar p-value over the
questions on which the two differ. The picture is what is resampled; without pictures it is the
question. The interval decides.

Source: Miller, arXiv:2411.00640 (pairing, clusters). The resampling is `crucible.sdk.resampling`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from crucible.sdk.resampling import Cluster, bootstrap_interval, clusters_of, mcnemar_p_value


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer of one model: what was asked and how well it was answered."""

    score: float
    """1 or 0 for a right or wrong answer; a mean over several samples may lie between."""
    category: str = ""
    task: str = ""
    """Digest of question and reference answer: equal for two models that were asked the same."""
    cluster: str = ""
    """What it shares its fate with, e.g. the picture; empty: nothing."""


Answers = Mapping[str, ScoredAnswer]
"""Scored answers by record id."""


class CategoryComparison(BaseModel):
    """One category's share of a `PairedComparison`. For reading; the gate does not decide on it."""

    model_config = ConfigDict(frozen=True)

    category: str
    num_pairs: int
    candidate_mean: float
    champion_mean: float


class PairedComparison(BaseModel):
    """Candidate against champion on the same questions."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    num_pairs: int
    num_clusters: int
    candidate_mean: float
    champion_mean: float
    difference_mean: float
    """mean(d) = candidate - champion."""
    difference_low: float
    """Lower end of the bootstrap percentile interval of mean(d)."""
    difference_high: float
    confidence: float
    num_resamples: int
    seed: int
    standard_error: float | None
    """Of mean(d), between clusters; none for a single cluster."""
    minimum_detectable_effect: float | None
    """About 2.8 standard errors: the smallest difference found with 80 % power at 5 %."""
    num_candidate_only: int | None
    """Questions that only the candidate answered rightly; none if scores are fractional."""
    num_champion_only: int | None
    mcnemar_p_value: float | None
    """Exact, two-sided; none if scores are fractional."""
    categories: tuple[CategoryComparison, ...]


def compare_paired(
    candidate: Answers,
    champion: Answers,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """The comparison over all ids of ``candidate``; ``champion`` must hold the same ids.

    Equal inputs give equal results, whatever the order of the records.

    Raises:
        ValueError: no pair, or the ids differ.
    """
    if not candidate or candidate.keys() != champion.keys():
        raise ValueError("compare_paired needs the same ids, at least one, on both sides.")
    ids = sorted(candidate)
    n = len(ids)
    clusters = _clusters(candidate, champion)
    mean = math.fsum(candidate[i].score - champion[i].score for i in ids) / n
    low, high = bootstrap_interval(
        clusters, confidence=confidence, num_resamples=num_resamples, seed=seed
    )
    error = _standard_error(clusters, mean)
    wins, losses, p_value = _mcnemar_counts(candidate, champion)
    return PairedComparison(
        num_pairs=n,
        num_clusters=len(clusters),
        candidate_mean=math.fsum(candidate[i].score for i in ids) / n,
        champion_mean=math.fsum(champion[i].score for i in ids) / n,
        difference_mean=mean,
        difference_low=low,
        difference_high=high,
        confidence=confidence,
        num_resamples=num_resamples,
        seed=seed,
        standard_error=error,
        minimum_detectable_effect=None if error is None else 2.8 * error,
        num_candidate_only=wins,
        num_champion_only=losses,
        mcnemar_p_value=p_value,
        categories=_by_category(candidate, champion),
    )


def _mcnemar_counts(
    candidate: Answers, champion: Answers
) -> tuple[int, int, float] | tuple[None, None, None]:
    scores = {a.score for a in candidate.values()} | {a.score for a in champion.values()}
    if not scores <= {0.0, 1.0}:
        return None, None, None
    wins = sum(candidate[i].score > champion[i].score for i in candidate)
    losses = sum(candidate[i].score < champion[i].score for i in candidate)
    return wins, losses, mcnemar_p_value(wins, losses)


def _clusters(candidate: Answers, champion: Answers) -> list[Cluster]:
    return clusters_of(
        (answer.score - champion[record_id].score for record_id, answer in candidate.items()),
        # Without a cluster a question is its own.
        ((a.cluster, "" if a.cluster else record_id) for record_id, a in candidate.items()),
    )


def _standard_error(clusters: Sequence[Cluster], mean: float) -> float | None:
    num_clusters = len(clusters)
    if num_clusters < 2:
        return None
    num_pairs = sum(size for _, size in clusters)
    spread = math.fsum((total - size * mean) ** 2 for total, size in clusters)
    return math.sqrt(spread * num_clusters / (num_clusters - 1)) / num_pairs


def _by_category(candidate: Answers, champion: Answers) -> tuple[CategoryComparison, ...]:
    ids_of: dict[str, list[str]] = defaultdict(list)
    for record_id, answer in candidate.items():
        ids_of[answer.category].append(record_id)
    return tuple(
        CategoryComparison(
            category=category,
            num_pairs=len(ids),
            candidate_mean=math.fsum(candidate[i].score for i in ids) / len(ids),
            champion_mean=math.fsum(champion[i].score for i in ids) / len(ids),
        )
        for category, ids in sorted(ids_of.items())
    )
