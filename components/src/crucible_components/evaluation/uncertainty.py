"""Intervals of accuracies and of their differences, and calibration.

Pictures, not questions, are what is resampled: see `crucible.sdk.resampling`.

Sources: Wilson 1927 (score interval); Guo et al., arXiv:1706.04599 (calibration error).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from crucible.sdk.resampling import Cluster, bootstrap_interval, clusters_of, mcnemar_p_value

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


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the resampling."""

    num_resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def interval(self, clusters: Sequence[Cluster]) -> tuple[float, float]:
        """Percentile interval of the mean score."""
        return bootstrap_interval(
            clusters,
            confidence=self.confidence,
            num_resamples=self.num_resamples,
            seed=self.seed,
        )


def accuracy_interval(
    correct: Sequence[bool], clusters: Sequence[Hashable], bootstrap: Bootstrap
) -> Interval:
    """Accuracy with its interval: bootstrap, or Wilson's where nearly all is right or wrong."""
    successes, total = sum(correct), len(correct)
    if min(successes, total - successes) < _FEW:
        return wilson_interval(successes, total, bootstrap.confidence)
    low, high = bootstrap.interval(clusters_of(map(float, correct), clusters))
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
    differences = [float(ours) - theirs for ours, theirs in zip(candidate, baseline, strict=True)]
    low, high = bootstrap.interval(clusters_of(differences, clusters))
    wins, losses = differences.count(1.0), differences.count(-1.0)
    return PairedDifference(
        mean=math.fsum(differences) / len(differences),
        low=low,
        high=high,
        num_candidate_only=wins,
        num_baseline_only=losses,
        mcnemar_p=mcnemar_p_value(wins, losses),
    )


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
