"""Paired comparison of two models on the same questions.

With s the score of one answer (1 or 0 for right or wrong, the mean over samples when there are
several), d = s(candidate) - s(champion) per question. Reported are mean(d), a percentile interval
from the paired bootstrap, and, for right-or-wrong scores, the exact McNemar p-value over the
questions on which the two differ. Questions about one picture succeed and fail together, so the
picture is what is resampled (a cluster); without pictures it is the question. McNemar's test takes
questions as independent: it is there to be read, the interval decides.

Source: Miller, arXiv:2411.00640 (pairing, clusters); Efron and Tibshirani, An Introduction to the
Bootstrap, chapter 13 (percentile interval); McNemar 1947, exact binomial.
Departs: resamples the counts of the distinct kinds of clusters, a multinomial draw, instead of the
clusters. That is the same distribution, costs nothing per question and ignores their order.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


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


_MAX_DRAWN = 1 << 20
"""Counts drawn at a time: fractional scores can make as many kinds as clusters."""

Cluster = tuple[float, int]
"""Sum of d over the questions of one cluster, and how many they are."""

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


def bootstrap_interval(
    clusters: Sequence[Cluster], *, confidence: float, num_resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the mean over ``num_resamples`` resamples of whole clusters."""
    import numpy as np

    kinds, counts = np.unique(np.asarray(clusters, dtype=np.float64), axis=0, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    means: list[float] = []
    while len(means) < num_resamples:
        num_draws = min(num_resamples - len(means), 1 + _MAX_DRAWN // len(kinds))
        draws = generator.multinomial(len(clusters), counts / len(clusters), size=num_draws)
        sums, sizes = (draws[:, None, :] * kinds.T).sum(axis=2).T
        means += (sums / sizes).tolist()
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def mcnemar_p_value(num_candidate_only: int, num_champion_only: int) -> float:
    """Two-sided exact p-value: under no difference the discordant pairs are fair coin tosses.

    Twice the binomial tail at the smaller count, at most 1; summed in integers, so exact.
    """
    n = num_candidate_only + num_champion_only
    smaller = min(num_candidate_only, num_champion_only)
    term = tail = 1  # binomial coefficient and running sum, as integers
    for k in range(smaller):
        term = term * (n - k) // (k + 1)
        tail += term
    p_value: float = 2 * tail / 2**n
    return min(1.0, p_value)


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
    members: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record_id, answer in candidate.items():
        alone = "" if answer.cluster else record_id
        members[answer.cluster, alone].append(answer.score - champion[record_id].score)
    # fsum rounds once, so a sum does not depend on the order of the records.
    return sorted((math.fsum(each), len(each)) for each in members.values())


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
