"""What a spec's references lead to: imports with their identity, metrics, decided conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from crucible.artifacts.tree import tree_digest
from crucible.errors import UserError
from crucible.plan.model import Condition, Import, MetricRef
from crucible.specs.binding import External
from crucible.specs.conditions import holds, parse_condition
from crucible.specs.document import shown
from crucible.specs.model import StepSpec
from crucible.specs.references import OutputRef, ParamRef
from crucible.specs.spec import PipelineSpec

ResolveModel = Callable[[str], str]
"""Manifest digest of the model version that a ``models:/NAME@alias`` stands for now."""


class Imports:
    """Finds the identity of what comes from outside; each thing is read once."""

    def __init__(self, folder: Path, resolve_model: ResolveModel | None) -> None:
        self._folder = folder
        self._resolve_model = resolve_model
        self._found: dict[str, Import] = {}

    def get(self, external: External) -> Import:
        """The import that ``external`` names.

        Raises:
            UserError: a path that cannot be read as an artifact, or a model without a registry.
        """
        if external.text not in self._found:
            self._found[external.text] = self._read(external)
        return self._found[external.text]

    def _read(self, external: External) -> Import:
        if external.is_path:
            path = external.path(self._folder).resolve()
            return Import(path.as_uri(), tree_digest(path))
        if external.text.startswith("artifact:"):
            return Import(external.text, external.text.removeprefix("artifact:"))
        if self._resolve_model is None:
            raise UserError(
                f"{external.text}: no model registry was given to look it up. "
                "Pass resolve_model, or name the model as artifact:sha256:<hex>."
            )
        return Import(external.text, self._resolve_model(external.text))


def skipped_steps(
    spec: PipelineSpec, order: list[str], needs: Mapping[str, list[str]]
) -> dict[str, str]:
    """Why, by step: those that a condition on a parameter rules out, and all that need them.

    Args:
        spec: the pipeline.
        order: step names, each after what it needs.
        needs: what each step waits for.
    """
    skipped: dict[str, str] = {}
    for name in order:
        reason = _unmet(spec.steps[name], spec)
        if reason is None:
            absent = [need for need in needs[name] if need in skipped]
            reason = f"needs {absent[0]}, which is skipped" if absent else None
        if reason is not None:
            skipped[name] = reason
    return skipped


def _unmet(step: StepSpec, spec: PipelineSpec) -> str | None:
    for text in step.when:
        comparison = parse_condition(text, spec.params)
        if isinstance(comparison.left, ParamRef) and not holds(comparison, spec.params):
            name = comparison.left.name
            value = spec.params[name]
            return f"params.{name} is {shown(value)}, not {comparison.op} {shown(comparison.right)}"
    return None


def metric_conditions(step: StepSpec, spec: PipelineSpec) -> tuple[Condition, ...]:
    """The conditions that only the engine can decide."""
    return tuple(
        Condition(metric_ref(found.left), found.op, float(found.right))
        for found in (parse_condition(text, spec.params) for text in step.when)
        if isinstance(found.left, OutputRef)
    )


def metric_ref(reference: OutputRef) -> MetricRef:
    """A metric of a step that is not fanned out, or of one item of it."""
    item = "" if reference.item is None else f"[{reference.item}]"
    return MetricRef(f"{reference.step}{item}", reference.output, str(reference.metric))
