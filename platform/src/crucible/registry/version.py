"""One registered version as MLflow holds it, and how it reads to a person."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from crucible.registry.gate import Decision

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

TAG_STATUS: Final = "gate.status"
TAG_DECISION: Final = "gate.decision"
TAG_POLICY: Final = "gate.policy_sha"
TAG_CHAMPION: Final = "gate.champion"
TAG_FORCED: Final = "gate.forced_reason"
TAG_ROLLED_BACK: Final = "gate.rolled_back"
TAG_DIGEST: Final = "artifact.digest"
TAG_STORE: Final = "artifact.store"
TAG_VARIANT: Final = "artifact.variant"
TAG_WEIGHTS: Final = "weights.sha256"
TAG_EVALUATION: Final = "evaluation.step"
TAG_METRICS: Final = "metrics.digest"
TAG_PREDICTIONS: Final = "predictions.digest"
TAG_DATA: Final = "data.digests"
TAG_PARENTS: Final = "parents"
TAG_RUN: Final = "crucible.run_id"
TAG_PIPELINE: Final = "crucible.pipeline"
TAG_PLAN: Final = "crucible.plan_digest"
TAG_MLFLOW_RUN: Final = "mlflow.run_id"
TAG_GIT: Final = "git.sha"
TAG_GIT_DIRTY: Final = "git.dirty"

NO_CHAMPION: Final = "none"

GateStatus = Literal["pass", "fail", "forced", "unknown"]
_STATUSES: Final[dict[str, GateStatus]] = {"pass": "pass", "fail": "fail", "forced": "forced"}


@dataclass(frozen=True)
class Version:
    """A registered version: where its files are, where it comes from, what the gate said."""

    name: str
    version: int
    aliases: tuple[str, ...]
    gate_status: GateStatus
    """``unknown`` for a version that something else registered."""
    decision: Decision | None
    decided_against: int | None
    """Version that was champion when the gate decided; None if there was none."""
    digest: str | None
    """Manifest digest of the model."""
    run_id: str
    """The pipeline run; empty if something else registered the version."""
    created_at: float
    """Seconds since the epoch."""
    source: str
    """Where MLflow keeps the version's MLmodel folder."""
    mlflow_run_id: str | None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """What any MLflow client loads it by."""
        return f"models:/{self.name}/{self.version}"

    @property
    def summary(self) -> str:
        """The decision in a few words, for a table row."""
        if self.decision is None:
            return "no gate decision"
        parts = [f"{r.bound.metric} {_number(r.value)}" for r in self.decision.thresholds]
        if found := self.decision.comparison:
            low, high = found.difference_low, found.difference_high
            parts.append(f"{found.difference_mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        elif self.decision.passed:
            parts.append("no paired comparison")
        elif not parts:
            parts.append(self.decision.reasons[0].partition(":")[0])
        return ", ".join(parts)

    @classmethod
    def from_mlflow(cls, found: ModelVersion, aliases: Mapping[str, Any]) -> Version:
        """Read an MLflow version; ``aliases`` is the registered model's alias to version map."""
        tags = dict(found.tags)
        against = tags.get(TAG_CHAMPION, NO_CHAMPION)
        status = tags.get(TAG_STATUS, "")
        number = int(found.version)
        return cls(
            name=found.name,
            version=number,
            aliases=tuple(sorted(a for a, v in aliases.items() if int(v) == number)),
            gate_status=_STATUSES.get(status, "unknown"),
            decision=_decision(found),
            decided_against=int(against) if against.isdecimal() else None,
            digest=tags.get(TAG_DIGEST),
            run_id=tags.get(TAG_RUN, ""),
            created_at=found.creation_timestamp / 1000,
            source=found.source or "",
            mlflow_run_id=found.run_id or None,
            tags=tags,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, with the decision as an object and list-valued tags parsed."""
        return {
            "name": self.name,
            "version": self.version,
            "uri": self.uri,
            "aliases": list(self.aliases),
            "gate_status": self.gate_status,
            "decision": self.decision.model_dump(mode="json") if self.decision else None,
            "decided_against": self.decided_against,
            "digest": self.digest,
            "run_id": self.run_id,
            "mlflow_run_id": self.mlflow_run_id,
            "created_at": self.created_at,
            "source": self.source,
            "parents": _json_tag(self.tags, TAG_PARENTS, []),
            "data": _json_tag(self.tags, TAG_DATA, {}),
            "tags": {k: v for k, v in self.tags.items() if k != TAG_DECISION},
        }

    def describe(self) -> str:
        """What `models show` prints."""
        rows = [
            ("model", f"{self.uri}  {' '.join('@' + alias for alias in self.aliases)}".rstrip()),
            ("artifact", f"{self.digest or '-'} in {self.tags.get(TAG_STORE, '-')}"),
            ("variant", self.tags.get(TAG_VARIANT, "-")),
            ("weights", self.tags.get(TAG_WEIGHTS, "-")),
            ("parents", " ".join(_json_tag(self.tags, TAG_PARENTS, [])) or "-"),
            *((f"data {name}", d) for name, d in _json_tag(self.tags, TAG_DATA, {}).items()),
            ("run", f"{self.run_id or '-'} (MLflow {self.mlflow_run_id or '-'})"),
            ("commit", self.tags.get(TAG_GIT, "-")),
            ("gate", self.gate_status),
        ]
        if reason := self.tags.get(TAG_FORCED):
            rows.append(("forced", reason))
        if moment := self.tags.get(TAG_ROLLED_BACK):
            rows.append(("rolled back", moment))
        width = max(len(label) for label, _ in rows) + 2
        head = "\n".join(f"{label:<{width}}{text}" for label, text in rows)
        return head + (f"\n\n{decision_text(self.decision)}" if self.decision else "")


def _decision(found: ModelVersion) -> Decision | None:
    text = found.tags.get(TAG_DECISION)
    if text is None:
        return None
    try:
        return Decision.from_json(text)
    except ValidationError as error:
        logger.warning("models:/%s/%s: unreadable %s: %s", found.name, found.version, text, error)
        return None


def decision_text(decision: Decision) -> str:
    """The decision in Markdown: verdict, reasons, a table of every number it rests on."""
    lines = [f"**Gate: {decision.status}**"]
    if decision.reasons or decision.notes:
        lines += ["", *(f"- {said}" for said in (*decision.reasons, *decision.notes))]
    if decision.thresholds:
        lines += ["", "| metric | value | bound | holds |", "|---|---|---|---|"]
        for result in decision.thresholds:
            bounds = (("≥", result.bound.min), ("≤", result.bound.max))
            bound = " and ".join(f"{sign} {end:g}" for sign, end in bounds if end is not None)
            held = "yes" if result.passed else "no"
            lines.append(f"| {result.bound.metric} | {_number(result.value)} | {bound} | {held} |")
    if decision.comparison:
        lines += ["", *_comparison_lines(decision)]
    return "\n".join(lines)


def _comparison_lines(decision: Decision) -> list[str]:
    found = decision.comparison
    assert found is not None
    low, high = found.difference_low, found.difference_high
    grouped = found.num_clusters < found.num_pairs
    pictures = f" about {found.num_clusters} pictures" if grouped else ""
    lines = [
        f"Paired on {found.num_pairs} questions{pictures}, rule `{decision.policy.rule}`, "
        f"tolerated loss {decision.policy.max_regression:g}: {found.difference_mean:+.4f}, "
        f"{found.confidence:.0%} interval [{low:+.4f}, {high:+.4f}].",
    ]
    if found.mcnemar_p_value is not None:
        lines.append(
            f"Only the candidate right: {found.num_candidate_only}, only the champion right: "
            f"{found.num_champion_only}, exact McNemar p = {found.mcnemar_p_value:.3g}."
        )
    if found.minimum_detectable_effect is not None:
        lines.append(f"Smallest detectable difference: {found.minimum_detectable_effect:.4f}.")
    lines += ["", "| category | questions | candidate | champion |", "|---|---|---|---|"]
    lines += [
        f"| {c.category or '-'} | {c.num_pairs} | {c.candidate_mean:.3f} | {c.champion_mean:.3f} |"
        for c in found.categories
    ]
    overall = (found.num_pairs, found.candidate_mean, found.champion_mean)
    lines.append("| all | {} | {:.3f} | {:.3f} |".format(*overall))
    return lines


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4g}"


def _json_tag(tags: Mapping[str, str], key: str, default: Any) -> Any:
    return json.loads(tags[key]) if key in tags else default
