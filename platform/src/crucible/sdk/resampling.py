"""How far a mean score, or a difference of two, may be from the true one.

Questions about one picture succeed and fail together, so the picture is the unit that is resampled
(a cluster); with one question a picture this is the plain bootstrap over questions. Clusters enter
only through their sum of scores and number of questions, so a resample is one multinomial draw over
the distinct pairs of these: the same distribution as drawing clusters, at no cost per question and
whatever their order.

Sources: Miller, arXiv:2411.00640 (clusters, pairing by question); Efron and Tibshirani, An
Introduction to the Bootstrap, chapter 13 (percentile interval); McNemar 1947, exact binomial.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Cluster = tuple[float, int]
"""Sum of the scores of one cluster's questions, and how many they are."""

_MAX_DRAWN = 1 << 20
"""Counts drawn at a time: fractional scores can make as many kinds as clusters."""


def clusters_of(scores: Iterable[float], keys: Iterable[Hashable]) -> list[Cluster]:
    """Clusters of ``scores``, each of which belongs to the key beside it."""
    members: dict[Hashable, list[float]] = defaultdict(list)
    for score, key in zip(scores, keys, strict=True):
        members[key].append(score)
    # fsum rounds once, so a sum does not depend on the order of the records.
    return sorted((math.fsum(each), len(each)) for each in members.values())


def resampled_means(clusters: Sequence[Cluster], *, num_resamples: int, seed: int) -> Floats:
    """The mean score of each of ``num_resamples`` resamples of whole clusters."""
    import numpy as np

    kinds, counts = np.unique(np.asarray(clusters, dtype=np.float64), axis=0, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    num_at_a_time = 1 + _MAX_DRAWN // len(kinds)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, num_at_a_time):
        part = means[start : start + num_at_a_time]
        draws = generator.multinomial(len(clusters), counts / len(clusters), size=len(part))
        # No matrix product: its order of summing, so its rounding, is the machine's.
        sums, sizes = (draws[:, None, :] * kinds.T).sum(axis=2).T
        part[:] = sums / sizes
    return means


def bootstrap_interval(
    clusters: Sequence[Cluster], *, confidence: float, num_resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the mean score over resamples of whole clusters."""
    import numpy as np

    means = resampled_means(clusters, num_resamples=num_resamples, seed=seed)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def mcnemar_p_value(num_candidate_only: int, num_baseline_only: int) -> float:
    """Two-sided exact p: without a difference, questions that differ are fair coin tosses.

    Takes questions as independent, so it is there to be read; the interval decides.
    """
    total = num_candidate_only + num_baseline_only
    smaller = min(num_candidate_only, num_baseline_only)
    term = tail = 1  # binomial coefficient and running sum, as integers: exact
    for k in range(smaller):
        term = term * (total - k) // (k + 1)
        tail += term
    return min(1.0, float(Fraction(2 * tail, 2**total)))
