"""The promotion gate: a pure function from numbers to a decision that explains itself.

A candidate passes when every threshold holds and it is not worse than the present champion by a
paired test on the same questions. "Not worse" has two readings, and the policy names one:

- ``not-worse`` (the default): refused only if the whole interval of mean(candidate - champion)
  lies below ``-max_regression``. The burden of proof is on the refusal; few questions refuse
  little.
- ``non-inferior``: promoted only if the whole interval lies at or above ``-max_regression``. The
  burden is on the candidate; with ``max_regression`` 0 it must be shown to be at least as good.

The decision holds every number that it was made from, so it can be read, checked and made again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crucible.registry.paired import Answers, PairedComparison, compare_paired

# Decisions are read back from tags, also by older code than wrote them: unknown fields pass.
_MODEL = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)
_SAME_DATA = "Evaluate both on the same data, or promote with force and a reason."


class MetricBound(BaseModel):
    """A bound on one metric of the candidate; both ends are inclusive."""

    model_config = _MODEL

    metric: str
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"threshold on {self.metric!r} has neither min nor max. Give one.")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"threshold on {self.metric!r}: min {self.min} > max {self.max}.")
        return self


class GatePolicy(BaseModel):
    """When a candidate may take the alias."""

    model_config = _MODEL

    thresholds: tuple[MetricBound, ...] = ()
    rule: Literal["not-worse", "non-inferior"] = "not-worse"
    """Which side of the interval of mean(candidate - champion) is held against -max_regression."""
    max_regression: float = Field(default=0.0, ge=0.0, le=1.0)
    """Loss against the champion that is tolerated, in units of the score (0.01: one point)."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    compare: bool = True
    """False if the pipeline declares no predictions: then thresholds alone decide."""
    num_resamples: int = Field(default=10_000, ge=100)
    seed: int = Field(default=0, ge=0)

    @property
    def sha256(self) -> str:
        """Hex digest of the policy: equal policies, equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class ThresholdResult(BaseModel):
    """One threshold and what the candidate reached."""

    model_config = _MODEL

    bound: MetricBound
    value: float | None
    """None if the metric is missing or not a number."""
    passed: bool


class Decision(BaseModel):
    """What the gate said and from which numbers."""

    model_config = _MODEL

    status: Literal["pass", "fail"]
    reasons: tuple[str, ...]
    """Why the candidate was refused; empty if it passed."""
    notes: tuple[str, ...]
    """What a reader must know to weigh the decision, e.g. that there was no champion."""
    policy: GatePolicy
    policy_sha256: str
    thresholds: tuple[ThresholdResult, ...]
    comparison: PairedComparison | None

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    def to_json(self) -> str:
        """Compact JSON; equal decisions give equal bytes."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.model_validate_json(text)


def decide(
    policy: GatePolicy,
    candidate_metrics: Mapping[str, float],
    candidate_predictions: Answers | None,
    champion_predictions: Answers | None,
) -> Decision:
    """Whether the candidate may replace the champion.

    Args:
        policy: What to hold the candidate to.
        candidate_metrics: The candidate's numbers by metric name.
        candidate_predictions: The candidate's scored answers by record id.
        champion_predictions: The champion's; None if there is no champion, empty if it left none.
    """
    thresholds = tuple(_check(bound, candidate_metrics) for bound in policy.thresholds)
    reasons = [_why_failed(result) for result in thresholds if not result.passed]
    notes: list[str] = []
    comparison = None
    if champion_predictions is None:
        notes.append("There is no champion yet: thresholds alone decided.")
    elif not policy.compare:
        notes.append("The policy declares no predictions: the champion was not compared.")
    elif problem := _not_comparable(candidate_predictions or {}, champion_predictions):
        reasons.append(problem)
    else:
        comparison = compare_paired(
            candidate_predictions or {},
            champion_predictions,
            confidence=policy.confidence,
            num_resamples=policy.num_resamples,
            seed=policy.seed,
        )
        reasons.extend(_why_worse(policy, comparison))
    return Decision(
        status="fail" if reasons else "pass",
        reasons=tuple(reasons),
        notes=tuple(notes),
        policy=policy,
        policy_sha256=policy.sha256,
        thresholds=thresholds,
        comparison=comparison,
    )


def _check(bound: MetricBound, metrics: Mapping[str, float]) -> ThresholdResult:
    value = metrics.get(bound.metric)
    if value is None or not math.isfinite(value):
        return ThresholdResult(bound=bound, value=None, passed=False)
    above = bound.min is None or value >= bound.min
    below = bound.max is None or value <= bound.max
    return ThresholdResult(bound=bound, value=value, passed=above and below)


def _why_failed(result: ThresholdResult) -> str:
    bound, value = result.bound, result.value
    if value is None:
        return f"{bound.metric}: the candidate has no such finite metric."
    if bound.min is not None and value < bound.min:
        return f"{bound.metric}: {value:.6g} is below the minimum {bound.min:.6g}."
    return f"{bound.metric}: {value:.6g} is above the maximum {bound.max:.6g}."


def _not_comparable(candidate: Answers, champion: Answers) -> str | None:
    """Why the two cannot be paired. Ids must be equal: a subset could hide what was lost."""
    if not candidate:
        return "Not comparable: the candidate left no predictions."
    if not champion:
        return "Not comparable: the champion left no predictions, or the store lost them."
    common = candidate.keys() & champion.keys()
    if not common:
        return (
            f"Not comparable: none of the candidate's {len(candidate)} record ids is among the "
            f"champion's {len(champion)}. {_SAME_DATA}"
        )
    if len(common) < max(len(candidate), len(champion)):
        return (
            f"Not comparable: {len(common)} common records, {len(candidate) - len(common)} only of "
            f"the candidate, {len(champion) - len(common)} only of the champion. {_SAME_DATA}"
        )
    changed = sum(candidate[i].task != champion[i].task for i in common)
    if changed:
        return (
            f"Not comparable: {changed} of {len(common)} records have another question or "
            f"reference answer than the champion's. {_SAME_DATA}"
        )
    return None


def _why_worse(policy: GatePolicy, comparison: PairedComparison) -> list[str]:
    low, high = comparison.difference_low, comparison.difference_high
    floor = 0.0 - policy.max_regression  # not -x: that would print as -0.0000
    interval = (
        f"{comparison.difference_mean:+.4f}, {policy.confidence:.0%} interval "
        f"[{low:+.4f}, {high:+.4f}] over {comparison.num_pairs} questions"
    )
    if policy.rule == "not-worse" and high < floor:
        return [f"Worse than the champion: {interval} lies below {floor:.4f}."]
    if policy.rule == "non-inferior" and low < floor:
        return [f"Not shown to be as good as the champion: {interval} reaches below {floor:.4f}."]
    return []
