"""Receiver operating characteristic of yes/no questions, from the probability of "yes"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RocCurve:
    """Rates at every threshold, from nothing called positive to everything."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    auc: float
    """Chance that a random positive scores above a random negative; ties count half."""


def roc_curve(scores: Sequence[float], positive: Sequence[bool]) -> RocCurve | None:
    """The curve of ``scores`` against the truth; None unless both classes occur."""
    labels = np.asarray(positive, dtype=bool)
    num_positive = int(labels.sum())
    num_negative = len(labels) - num_positive
    if not num_positive or not num_negative:
        return None
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    # Equal scores pass a threshold together, so only the last of each run is a point.
    last = np.append(np.flatnonzero(np.diff(values[order])), len(labels) - 1)
    true_positive = np.append(0, np.cumsum(labels[order])[last]) / num_positive
    false_positive = np.append(0, np.cumsum(~labels[order])[last]) / num_negative
    auc = float(np.trapezoid(true_positive, false_positive))
    return RocCurve(false_positive, true_positive, auc)
