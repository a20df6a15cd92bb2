"""What type of artifact flows along each edge, and whether it fits the slot at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from crucible.sdk.component import Component, Slot
from crucible.sdk.types import ArtifactType
from crucible.specs.binding import Binding, External, Fault, input_slots, output_slots
from crucible.specs.references import OutputRef


@dataclass(frozen=True)
class OutputType:
    """The type of an output as far as it is known before anything runs."""

    type: ArtifactType
    is_certain: bool = True
    """False if the variant is that of something from outside the pipeline."""

    def fits(self, wanted: ArtifactType) -> bool:
        if self.is_certain:
            return wanted.accepts(self.type)
        return wanted.name in ("Artifact", self.type.name)


OutputTypes = Mapping[tuple[str, str], OutputType]
"""By step and output name."""


def output_types(
    order: Iterable[str], classes: Mapping[str, type[Component]], bindings: Mapping[str, Binding]
) -> dict[tuple[str, str], OutputType]:
    """Types of all outputs.

    Args:
        order: step names, each after those whose outputs it takes.
        classes: component by step.
        bindings: what fills the inputs, by step.
    """
    found: dict[tuple[str, str], OutputType] = {}
    for name in order:
        inputs = input_slots(classes[name])
        for output in output_slots(classes[name]).values():
            kind = OutputType(output.type)
            if output.same_variant_as is not None:
                slot = inputs[output.same_variant_as]
                sources = [source for _, source in bindings[name].slots.get(slot.name, ())]
                kind = _with_variant_of(output, slot, sources, found)
            found[name, output.name] = kind
    return found


def _with_variant_of(
    output: Slot, slot: Slot, sources: list[OutputRef | External], known: OutputTypes
) -> OutputType:
    if slot.type.variant != "any":
        return OutputType(replace(output.type, variant=slot.type.variant))
    types = [
        known.get((source.step, source.output)) if isinstance(source, OutputRef) else None
        for source in sources
    ]
    certain = [kind for kind in types if kind is not None and kind.is_certain]
    if not types or len(certain) < len(types):
        return OutputType(output.type, is_certain=False)
    variants = {kind.type.variant for kind in certain}
    return OutputType(replace(output.type, variant=variants.pop() if len(variants) == 1 else "any"))


def edge_faults(cls: type[Component], binding: Binding, types: OutputTypes) -> Iterator[Fault]:
    """Artifacts of ``binding`` that do not fit their slot, with what would."""
    for slot in input_slots(cls).values():
        for path, source in binding.slots.get(slot.name, ()):
            if isinstance(source, OutputRef):
                fault = misfit(source, slot.type, path, types)
                if fault is not None:
                    yield fault
            elif source.text.startswith("models:") and slot.type.name not in ("Model", "Artifact"):
                message = f"wants {slot.type}, {source.text} is a Model."
                yield Fault(path, message)


def misfit(source: OutputRef, wanted: ArtifactType, path: str, types: OutputTypes) -> Fault | None:
    """The fault of a reference to an output of another type than ``wanted``."""
    found = types.get((source.step, source.output))
    if found is None or found.fits(wanted):
        return None
    fitting = [
        f"${{steps.{step}.outputs.{name}}}"
        for (step, name), kind in types.items()
        if kind.is_certain and kind.fits(wanted)
    ]
    fix = f"Fitting: {', '.join(fitting[:5])}." if fitting else "No step writes one."
    return Fault(path, f"wants {wanted}, {source} is {found.type}.", fix)
