"""The plan: a resolved, typed, fingerprinted DAG that both engines execute and nothing else.

Everything here is frozen, printable and JSON-serialisable (`crucible.plan.serialise`). References
are gone: parameters are substituted, fan-outs are expanded into one `PlanStep` per item, artifact
slots name the step output (or import) that fills them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crucible.sdk.component import Estimate, Resources
from crucible.sdk.types import ArtifactType

JsonValue = Any
Operator = Literal["==", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class StepOutput:
    """Fills a slot with what another step of this plan writes."""

    step_id: str
    output: str


@dataclass(frozen=True)
class Import:
    """Fills a slot from outside the plan."""

    uri: str
    """``file:///path`` (file or folder), ``artifact:sha256:<hex>`` or ``models:/NAME@alias``."""
    identity: str
    """What the content is, for fingerprints: digest of the file tree, or of the manifest."""


Source = StepOutput | Import


@dataclass(frozen=True)
class SlotInput:
    """How one input slot of a step is filled. One source unless ``many``."""

    slot: str
    type: ArtifactType
    sources: tuple[Source, ...]
    many: bool = False


@dataclass(frozen=True)
class MetricRef:
    """A number known only when another step has ended: one value of a Metrics output."""

    step_id: str
    output: str
    metric: str


@dataclass(frozen=True)
class Condition:
    """``when``: holds if ``left <op> right``. The planner has resolved what it could."""

    left: MetricRef
    op: Operator
    right: float


@dataclass(frozen=True)
class Retry:
    """How often and how fast a step is tried again, on temporary failures only."""

    limit: int = 2
    backoff_seconds: float = 10.0
    backoff_factor: float = 2.0
    max_backoff_seconds: float = 300.0


@dataclass(frozen=True)
class CacheOutlook:
    """Whether a step's outputs are expected from the cache, and why not."""

    hit: bool
    reason: str
    """E.g. ``run 3f2a``, ``config.seed changed: 7 -> 8``, ``code of train-vlm changed``."""


@dataclass(frozen=True)
class PlanStep:
    """One process (or pod) to run."""

    id: str
    """Step name, or ``name[3]`` for the fourth item of a fan-out."""
    name: str
    component: str
    """The value of ``uses``: a catalogue name or ``package.module:Class``."""
    config: dict[str, JsonValue]
    """Validated settings with every default filled in."""
    inputs: tuple[SlotInput, ...]
    outputs: dict[str, ArtifactType]
    fingerprint: str
    """``sha256:<hex>`` over component code, environment, config, input identities and seed."""
    fingerprint_parts: dict[str, str]
    """What went into the fingerprint, by name: explains a miss against an earlier plan."""
    seed: int = 0
    after: tuple[str, ...] = ()
    """Ids of all steps that must end first, data dependencies included."""
    when: tuple[Condition, ...] = ()
    """All must hold, else the step and what depends on it is skipped."""
    resources: Resources = field(default_factory=Resources)
    retry: Retry = field(default_factory=Retry)
    timeout_minutes: float | None = None
    cache_enabled: bool = True
    optional_outputs: tuple[str, ...] = ()
    metric_refs: dict[str, MetricRef] = field(default_factory=dict)
    """Settings whose value is a number that another step measures. ``config`` lacks these keys;
    the engine reads the metric when the step may start and adds it before the step validates."""
    image: str = ""
    """Container image by digest; empty on the local engine."""
    environment: str = ""
    """What the component runs on: image digest, or a digest of the installed distributions."""
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Threshold:
    """A bound on one metric of the release gate."""

    metric: str
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Gate:
    """When a registered version may take the alias."""

    metrics: StepOutput
    """A Metrics output with the candidate's numbers."""
    thresholds: tuple[Threshold, ...] = ()
    predictions: StepOutput | None = None
    """A Dataset[predictions] output, paired by record id with the champion's own."""
    max_regression: float = 0.0
    """Loss against the champion that is tolerated, in units of the score."""
    confidence: float = 0.95
    rule: Literal["not-worse", "non-inferior"] = "not-worse"
    """Refuse only if the whole interval of mean(candidate - champion) lies below -max_regression,
    or promote only if all of it lies above."""


@dataclass(frozen=True)
class Release:
    """What to register after success, and how it may be promoted."""

    model: StepOutput
    register_as: str
    gate: Gate
    promote_to: str = "champion"


@dataclass(frozen=True)
class Plan:
    """A pipeline, ready to run."""

    name: str
    description: str
    spec_path: str
    spec_text: str
    params: dict[str, JsonValue]
    steps: tuple[PlanStep, ...]
    """In an order in which every step stands after what it needs."""
    on_exit: PlanStep | None = None
    """Runs last whatever happened. Its RunRecord slot, if any, is filled by the engine."""
    release: Release | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    """Why, by step name: steps of the file that a condition on a parameter ruled out."""
    release_skipped: str = ""
    """Why there is no release although the file has one: a step that it needs is skipped."""

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the canonical JSON, without the spec's path and text."""
        from crucible.plan.serialise import plan_digest

        return plan_digest(self)

    def step(self, step_id: str) -> PlanStep:
        """The step of that id, the exit step included.

        Raises:
            KeyError: no such step.
        """
        return {step.id: step for step in self.all_steps}[step_id]

    @property
    def all_steps(self) -> tuple[PlanStep, ...]:
        """The steps and, last, the exit step."""
        return self.steps if self.on_exit is None else (*self.steps, self.on_exit)
