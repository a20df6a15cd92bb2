"""How far a measured accuracy, or a difference of two, may be from the true one.

Questions about one picture succeed and fail together, so the picture is the unit that is resampled
(a cluster); with one question a picture this is the plain bootstrap over questions. Clusters enter
only through their number of questions and sum of scores, so a resample is one multinomial draw over
the distinct pairs of these: the same distribution as drawing clusters, at no cost per question.

Sources: Miller, arXiv:2411.00640 (clusters, pairing by question); Efron and Tibshirani, An
Introduction to the Bootstrap, chapter 13 (percentile interval); Wilson 1927; McNemar 1947.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_FEW = 5
"""With fewer successes or failures than this the bootstrap sees too few distinct resamples."""


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float
    method: Literal["bootstrap", "wilson"]


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline on the same questions."""

    mean: float
    low: float
    high: float
    num_candidate_only: int
    """Questions that only the candidate answered rightly."""
    num_baseline_only: int
    mcnemar_p: float
    """Exact and two-sided; takes questions as independent."""
    minimum_detectable_effect: float
    """About 2.8 standard errors: what 80 % of repetitions would find at a confidence of 95 %."""


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the resampling."""

    num_resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0


def accuracy_interval(
    correct: Sequence[bool], clusters: Sequence[Hashable], bootstrap: Bootstrap
) -> Interval:
    """Accuracy with its interval: bootstrap, or Wilson's where nearly all is right or wrong."""
    successes, total = sum(correct), len(correct)
    if min(successes, total - successes) < _FEW:
        return wilson_interval(successes, total, bootstrap.confidence)
    means = resampled_means(np.asarray(correct, dtype=np.float64), clusters, bootstrap)
    low, high = _percentiles(means, bootstrap.confidence)
    return Interval(successes / total, low, high, "bootstrap")


def wilson_interval(successes: int, total: int, confidence: float) -> Interval:
    """Score interval of a proportion; holds its level near 0 and 1, and never leaves [0, 1]."""
    if total == 0:
        raise ValueError("an interval needs at least one question, got none.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    return Interval(share, low, high, "wilson")


def paired_difference(
    candidate: Sequence[bool],
    baseline: Sequence[bool],
    clusters: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> PairedDifference:
    """Compare two models question by question; the sequences run over the same questions."""
    differences = np.asarray(candidate, np.float64) - np.asarray(baseline, np.float64)
    means = resampled_means(differences, clusters, bootstrap)
    low, high = _percentiles(means, bootstrap.confidence)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedDifference(
        mean=float(differences.mean()),
        low=low,
        high=high,
        num_candidate_only=wins,
        num_baseline_only=losses,
        mcnemar_p=mcnemar_p_value(wins, losses),
        minimum_detectable_effect=2.8 * float(means.std()),
    )


def resampled_means(scores: Floats, clusters: Sequence[Hashable], bootstrap: Bootstrap) -> Floats:
    """The mean score of each resample of whole clusters, ``num_resamples`` values."""
    numbers: dict[Hashable, int] = {}
    members = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sizes = np.bincount(members).astype(np.float64)
    sums = np.bincount(members, weights=scores)
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(bootstrap.seed))
    draws = generator.multinomial(len(numbers), counts / counts.sum(), size=bootstrap.num_resamples)
    means: Floats = (draws @ kinds[0]) / (draws @ kinds[1])
    return means


def mcnemar_p_value(num_candidate_only: int, num_baseline_only: int) -> float:
    """Two-sided exact p: without a difference, questions that differ are fair coin tosses."""
    total = num_candidate_only + num_baseline_only
    smaller = min(num_candidate_only, num_baseline_only)
    tail = sum(math.comb(total, k) for k in range(smaller + 1))
    return min(1.0, float(Fraction(2 * tail, 2**total)))


def calibration_error(
    confidences: Sequence[float], correct: Sequence[bool], *, num_bins: int = 10
) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over equal-width bins.

    Source: Guo et al., arXiv:1706.04599, equation 3.
    """
    confidence, right = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    bins = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _percentiles(means: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
