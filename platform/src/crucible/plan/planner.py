"""`build`: from a checked spec to a plan. Pure but for reading sources and imported files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from crucible.errors import Problem, UserError
from crucible.plan.fingerprint import fingerprint, fingerprint_parts
from crucible.plan.model import (
    Gate,
    MetricRef,
    Plan,
    PlanStep,
    Release,
    Retry,
    SlotInput,
    Source,
    StepOutput,
    Threshold,
)
from crucible.plan.resolve import (
    Imports,
    ResolveModel,
    metric_conditions,
    metric_ref,
    skipped_steps,
)
from crucible.sdk.catalogue import load_component
from crucible.sdk.component import Component, Estimate
from crucible.sdk.fingerprint import environment_digest
from crucible.sdk.types import ArtifactType
from crucible.specs.binding import NO_ITEM, Binding, Place, bind, input_slots, output_slots
from crucible.specs.edges import OutputTypes, output_types
from crucible.specs.graph import topological_order
from crucible.specs.model import ReleaseSpec, Spec, StepSpec, TaskSpec
from crucible.specs.reference_check import needs_of
from crucible.specs.references import OutputRef, parse_reference
from crucible.specs.spec import EXIT, PipelineSpec


def build(
    spec: PipelineSpec,
    *,
    images: Mapping[str, str] | None = None,
    resolve_model: ResolveModel | None = None,
) -> Plan:
    """The plan of ``spec``: equal specs, sources and files give equal plans.

    Args:
        spec: from `load_pipeline`.
        images: image by digest of each set of dependencies (`Component.image`) that steps run in;
            None: the distributions installed here.
        resolve_model: looks ``models:/NAME@alias`` up; needed only if the spec has one.

    Raises:
        UserError: an imported path cannot be read, a model cannot be looked up, a component's
            estimate fails, there is no image for a step, or one cannot run on several nodes.
    """
    return _Planning(spec, images, resolve_model).plan()


@dataclass(frozen=True)
class _Inputs:
    """What one step takes from elsewhere."""

    slots: tuple[SlotInput, ...]
    metric_refs: dict[str, MetricRef]

    def producers(self) -> Iterable[str]:
        for slot in self.slots:
            yield from (s.step_id for s in slot.sources if isinstance(s, StepOutput))
        yield from (ref.step_id for ref in self.metric_refs.values())


class _Planning:
    """One pass over a spec in topological order."""

    def __init__(
        self,
        spec: PipelineSpec,
        images: Mapping[str, str] | None,
        resolve_model: ResolveModel | None,
    ) -> None:
        self._spec = spec
        self._images = images
        self._imports = Imports(spec.dir, resolve_model)
        self._needs = {name: needs_of(step) for name, step in spec.steps.items()}
        self._order = topological_order(self._needs)
        self._skipped = skipped_steps(spec, self._order, self._needs)
        self._classes = {name: load_component(step.uses) for name, step in spec.steps.items()}
        self._types = self._output_types()
        self._ids: dict[str, list[str]] = {}
        self._fingerprints: dict[str, str] = {}

    def plan(self) -> Plan:
        spec = self._spec
        steps: list[PlanStep] = []
        for name in self._order:
            if name not in self._skipped:
                steps += self._steps(name)
        self._check_nodes(steps)
        release, release_skipped = self._release(spec.release)
        return Plan(
            name=spec.metadata.name,
            description=spec.metadata.description,
            spec_path=str(spec.path),
            spec_text=spec.text,
            params=spec.params,
            steps=tuple(steps),
            on_exit=self._exit_step(spec.on_exit),
            release=release,
            skipped=self._skipped,
            release_skipped=release_skipped,
        )

    def _check_nodes(self, steps: Iterable[PlanStep]) -> None:
        """Raise for every step on several nodes whose component could not share its work.

        Raises:
            UserError: with all of them.
        """
        problems = [
            Problem(
                f"steps.{step.name}.resources.nodes",
                f"got {step.resources.nodes}; {self._classes[step.name].name} runs on one node.",
                "Set 1, or leave it out. A component whose run() shares its work declares "
                "`distributed = True`.",
            )
            for step in steps
            if step.resources.nodes > 1 and not self._classes[step.name].distributed
        ]
        unique = list(dict.fromkeys(problems))
        if unique:
            raise UserError("\n".join(map(str, unique)), unique)

    def _output_types(self) -> OutputTypes:
        bindings = {}
        for name, step in self._spec.steps.items():
            bindings[name] = self._bind(step, self._classes[name], 0 if step.foreach else None)
        return output_types(self._order, self._classes, bindings)

    def _bind(self, task: TaskSpec, cls: type[Component], index: int | None) -> Binding:
        """For one item of a step, by its number; None for a step without ``foreach``."""
        items = task.foreach if isinstance(task, StepSpec) else None
        place = None if index is None or items is None else Place(index, items)
        item = NO_ITEM if place is None else place.items[place.index]
        return bind(task.with_, cls, "", item=item, place=place, fanned=self._spec.fanned)

    def _steps(self, name: str) -> list[PlanStep]:
        step, cls = self._spec.steps[name], self._classes[name]
        numbers = [None] if step.foreach is None else range(len(step.foreach))
        planned = []
        for index in numbers:
            step_id = name if index is None else f"{name}[{index}]"
            binding = self._bind(step, cls, index)
            made = self._step(step_id, name, step, cls, binding)
            self._fingerprints[step_id] = made.fingerprint
            planned.append(replace(made, **self._flow(step, made)))
        self._ids[name] = [made.id for made in planned]
        return planned

    def _flow(self, step: StepSpec, made: PlanStep) -> dict[str, Any]:
        """Conditions, and all ids that must end first."""
        when = metric_conditions(step, self._spec)
        waits = [step_id for name in step.after for step_id in self._ids[name]]
        after = [*made.after, *(condition.left.step_id for condition in when), *waits]
        return {"when": when, "after": tuple(dict.fromkeys(after))}

    def _step(
        self, step_id: str, name: str, task: TaskSpec, cls: type[Component], binding: Binding
    ) -> PlanStep:
        inputs = self._inputs(cls, binding)
        config, estimate = _config(cls, binding, step_id)
        defaults = self._spec.defaults
        seed = defaults.seed if task.seed is None else task.seed
        image = self._image(name, task, cls)
        environment = image.rpartition("@")[2] or environment_digest()
        parts = fingerprint_parts(
            cls,
            config=config,
            inputs=inputs.slots,
            metric_refs=inputs.metric_refs,
            seed=seed,
            environment=environment,
            fingerprints=self._fingerprints,
        )
        cache = defaults.cache if task.cache is None else task.cache
        return PlanStep(
            id=step_id,
            name=name,
            component=task.uses,
            config=config,
            inputs=inputs.slots,
            outputs=self._outputs(name, cls),
            fingerprint=fingerprint(parts),
            fingerprint_parts=parts,
            seed=seed,
            after=tuple(dict.fromkeys(inputs.producers())),
            resources=replace(cls.resources, **_set(defaults.resources, task.resources)),
            retry=replace(Retry(), **_set(defaults.retry, task.retry)),
            timeout_minutes=task.timeout_minutes or defaults.timeout_minutes,
            cache_enabled=cache and cls.cacheable,
            optional_outputs=tuple(s.name for s in output_slots(cls).values() if s.optional),
            metric_refs=inputs.metric_refs,
            image=image,
            environment=environment,
            estimate=estimate,
        )

    def _outputs(self, name: str, cls: type[Component]) -> dict[str, ArtifactType]:
        declared = {output: slot.type for output, slot in output_slots(cls).items()}
        known = {output: self._types.get((name, output)) for output in declared}
        return declared | {output: kind.type for output, kind in known.items() if kind is not None}

    def _image(self, name: str, task: TaskSpec, cls: type[Component]) -> str:
        """The container image of a step; none where steps are processes here."""
        if self._images is None:
            return ""
        image = task.image or self._images.get(cls.image)
        if image is None:
            raise UserError(
                f"steps.{name}: {cls.name} runs in the image {cls.image!r}, of which the context "
                f"has none. It has: {', '.join(self._images)}. Add it under images, by digest, or "
                "give the step an image of its own."
            )
        return image

    def _inputs(self, cls: type[Component], binding: Binding) -> _Inputs:
        slots = []
        for slot in input_slots(cls).values():
            sources: list[Source] = []
            for _, source in binding.slots.get(slot.name, ()):
                if not isinstance(source, OutputRef):
                    sources.append(self._imports.get(source))
                else:  # nothing for a skipped step, which only the exit step can name
                    ids = list(self._ids.get(source.step, ()))
                    ids = ids if source.item is None else ids[source.item : source.item + 1]
                    sources += [StepOutput(step_id, source.output) for step_id in ids]
            if sources:
                slots.append(SlotInput(slot.name, slot.type, tuple(sources), slot.many))
        refs = {name: metric_ref(reference) for name, reference in binding.metrics.items()}
        return _Inputs(tuple(slots), refs)

    def _exit_step(self, task: TaskSpec | None) -> PlanStep | None:
        if task is None:
            return None
        cls = load_component(task.uses)
        made = self._step(EXIT, EXIT, task, cls, self._bind(task, cls, None))
        reads_run = any(slot.type.name == "RunRecord" for slot in input_slots(cls).values())
        return replace(made, cache_enabled=made.cache_enabled and not reads_run)

    def _release(self, spec: ReleaseSpec | None) -> tuple[Release | None, str]:
        """The release, or why there is none."""
        if spec is None:
            return None, ""
        outputs = [_output(text) for text in (spec.model, spec.gate.metrics)]
        predictions = None if spec.gate.predictions is None else _output(spec.gate.predictions)
        for output in (*outputs, *filter(None, [predictions])):
            if output.step_id in self._skipped:
                return None, f"needs {output.step_id}, which is skipped"
        thresholds = spec.gate.thresholds.items()
        gate = Gate(
            metrics=outputs[1],
            thresholds=tuple(Threshold(name, bound.min, bound.max) for name, bound in thresholds),
            predictions=predictions,
            max_regression=spec.gate.max_regression,
            confidence=spec.gate.confidence,
            rule=spec.gate.rule,
        )
        return Release(outputs[0], spec.register_as, gate, spec.promote_to), ""


def _output(text: str) -> StepOutput:
    reference = parse_reference(text)
    if not isinstance(reference, OutputRef):
        raise TypeError(f"{text!r} is no output: the spec was not checked")
    return StepOutput(reference.step, reference.output)


def _set(*specs: Spec) -> dict[str, Any]:
    """The fields that a user has set; later specs win."""
    fields: dict[str, Any] = {}
    for spec in specs:
        fields |= spec.model_dump(exclude_none=True)
    return fields


def _config(
    cls: type[Component], binding: Binding, step_id: str
) -> tuple[dict[str, Any], Estimate | None]:
    """Settings with all defaults but without those that are metrics, and the estimate for them."""
    try:
        config = cls.Config.model_validate(binding.settings)
    except ValidationError:
        if not binding.metrics:
            raise
        return binding.settings, None  # a required one is a metric: the step fills in the defaults
    values = config.model_dump(mode="json", by_alias=True)
    for name in binding.metrics:
        _remove(values, name.split("."))
    try:
        return values, cls.estimate(config)
    except Exception as error:  # a formula of a user's component may raise anything
        raise UserError(
            f"steps.{step_id}: the estimate of {cls.name} fails: {type(error).__name__}: {error}. "
            "Mend the component's estimate()."
        ) from error


def _remove(values: Mapping[str, Any], path: list[str]) -> None:
    holder: Any = values
    for part in path[:-1]:
        holder = holder.get(part, {}) if isinstance(holder, dict) else {}
    if isinstance(holder, dict):
        holder.pop(path[-1], None)
