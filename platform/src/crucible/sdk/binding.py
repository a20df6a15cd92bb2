"""Between artifact references and the ``Inputs`` and ``Outputs`` that a component sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crucible.artifacts import open_store
from crucible.artifacts.manifest import ArtifactRef
from crucible.errors import (
    ArtifactError,
    ArtifactNotFound,
    OutputMissing,
    Problem,
    StepFailed,
    UserError,
)
from crucible.sdk.component import Component, ComponentInputs, ComponentOutputs, Slot, slots_of
from crucible.sdk.executor import ExecutorInput, RuntimeArtifact
from crucible.sdk.suggestion import did_you_mean
from crucible.sdk.types import ARTIFACT_CLASSES, Artifact, ArtifactType

if TYPE_CHECKING:
    from crucible.artifacts.draft import Draft
    from crucible.artifacts.store import Store


@dataclass(frozen=True)
class BoundInputs:
    """References by slot, checked against the slots."""

    cls: type[Component]
    refs: Mapping[str, tuple[ArtifactRef, ...]]
    problems: tuple[Problem, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of all input artifacts, sorted: the parents of every output."""
        return tuple(sorted({ref.digest for refs in self.refs.values() for ref in refs}))

    def open(self, store: Store, scratch_dir: Path) -> ComponentInputs:
        """What ``run`` receives. No byte of an artifact is read yet."""
        values: dict[str, object] = {}
        for slot in slots_of(self.cls.Inputs):
            artifacts = [_open(slot, ref, store, scratch_dir) for ref in self.refs[slot.name]]
            values[slot.name] = artifacts if slot.many else next(iter(artifacts), None)
        return self.cls.Inputs(**values)


def bind_inputs(cls: type[Component], request: ExecutorInput, *, where: str) -> BoundInputs:
    """Read the reference of every input and compare type and number with the slots.

    Args:
        cls: the component.
        request: names the reference files.
        where: dotted path of the step's ``with`` for messages.

    Raises:
        ArtifactError: the reference of an input that must be there is missing or damaged.
    """
    slots = {slot.name: slot for slot in slots_of(cls.Inputs)}
    problems = [
        Problem(f"{where}.{name}", f"is not an input of {cls.name}.", did_you_mean(name, slots))
        for name in request.inputs.keys() - slots.keys()
    ]
    refs: dict[str, tuple[ArtifactRef, ...]] = {}
    for name, slot in slots.items():
        refs[name] = tuple(_read_refs(slot, request.inputs.get(name, ())))
        problems += _slot_problems(slot, refs[name], f"{where}.{name}")
    return BoundInputs(cls, refs, tuple(problems))


def _read_refs(slot: Slot, entries: Sequence[RuntimeArtifact]) -> Iterator[ArtifactRef]:
    for entry in entries:
        try:
            yield ArtifactRef.read(entry.path)
        except ArtifactNotFound:
            # A producer may leave an optional output unwritten: then there is no file to read.
            if slot.many or not slot.optional:
                raise


def _slot_problems(slot: Slot, refs: Sequence[ArtifactRef], path: str) -> Iterator[Problem]:
    if not refs and not slot.optional:
        yield Problem(path, "is required.", f"Give it a {slot.type}.")
    if len(refs) > 1 and not slot.many:
        yield Problem(path, f"got {len(refs)} artifacts, wants one.", "Name one of them.")
    for index, ref in enumerate(refs):
        found = ArtifactType(ref.manifest.type, ref.manifest.variant)
        if not slot.type.accepts(found):
            at = f"{path}[{index}]" if slot.many else path
            origin = ref.manifest.producer.get("component", "an import")
            yield Problem(
                at,
                f"got {found} of {origin} ({ref.digest[:19]}), wants {slot.type}.",
                "Name the output of a step that makes one.",
            )


def _open(slot: Slot, ref: ArtifactRef, store: Store, scratch_dir: Path) -> Artifact:
    holder = store if ref.store == store.uri else _store_with(ref, store)
    return ARTIFACT_CLASSES.get(ref.manifest.type, Artifact)(
        name=slot.name,
        source=holder.reader(ref, scratch_dir),
        type=ArtifactType(ref.manifest.type, ref.manifest.variant),
        digest=ref.digest,
        metadata=dict(ref.manifest.metadata),
    )


def _store_with(ref: ArtifactRef, store: Store) -> Store:
    """Our store if it has the artifact: it may be the other one, moved or under another name."""
    try:
        store.manifest(ref.digest)
    except ArtifactNotFound:
        return open_store(ref.store)
    return store


@dataclass
class OutputDrafts:
    """One draft per declared output, from `open` to `close`."""

    inputs: BoundInputs
    request: ExecutorInput
    store: Store
    scratch_dir: Path
    _drafts: dict[str, Draft] = field(default_factory=dict)
    _artifacts: dict[str, Artifact] = field(default_factory=dict)

    def open(self) -> ComponentOutputs:
        """What ``run`` writes to.

        Raises:
            UserError: the engine has not said where a reference goes.
        """
        holder = self.inputs.cls.Outputs
        slots = slots_of(holder)
        unplaced = [slot.name for slot in slots if slot.name not in self.request.outputs]
        if unplaced:
            raise UserError(
                f"--executor-input: outputs {', '.join(unplaced)} of {self.inputs.cls.name} are "
                "not among the outputs. The plan is of another version: submit again."
            )
        for slot in slots:
            draft = self._drafts[slot.name] = self.store.draft(self.scratch_dir)
            artifact_type = ArtifactType(slot.type.name, self._variant(slot))
            artifact_class = ARTIFACT_CLASSES[slot.type.name]
            self._artifacts[slot.name] = artifact_class(slot.name, draft, artifact_type)
        return holder(**self._artifacts)

    def commit(self, producer: Mapping[str, str]) -> dict[str, ArtifactRef]:
        """Store every output that was written.

        Raises:
            OutputMissing: an output that must be there was not written; none is stored then.
            StepFailed: an output breaks a rule of artifacts.
            ArtifactError: the store refused.
        """
        slots = slots_of(self.inputs.cls.Outputs)
        self._require([slot for slot in slots if self._drafts[slot.name].is_empty])
        return {
            slot.name: self._commit(slot, producer)
            for slot in slots
            if not self._drafts[slot.name].is_empty
        }

    def _require(self, empty: Sequence[Slot]) -> None:
        may_miss = self.request.step.optional_outputs
        missing = [slot.name for slot in empty if not slot.optional and slot.name not in may_miss]
        if missing:
            raise OutputMissing(
                f"{self.inputs.cls.name} ended without writing its output"
                f"{'s' * (len(missing) > 1)} {', '.join(missing)}."
            )

    def _commit(self, slot: Slot, producer: Mapping[str, str]) -> ArtifactRef:
        artifact = self._artifacts[slot.name]
        if not slot.type.accepts(artifact.type):
            raise StepFailed(
                f"output {slot.name} is {artifact.type}, declared as {slot.type}. "
                "Set the type of the output to one that its declaration accepts."
            )
        try:
            return self._drafts[slot.name].commit(
                type=artifact.type.name,
                variant=artifact.type.variant,
                metadata=artifact.metadata,
                producer=producer,
                parents=self.inputs.digests,
            )
        except UserError as error:  # the component broke a rule, not the user
            raise StepFailed(f"output {slot.name}: {error.message}") from error
        except ArtifactError as error:
            if type(error) is ArtifactError:
                raise StepFailed(f"output {slot.name}: {error.message}") from error
            raise

    def _variant(self, slot: Slot) -> str:
        refs = self.inputs.refs[slot.same_variant_as] if slot.same_variant_as else ()
        variants = {ref.manifest.variant for ref in refs}
        return variants.pop() if len(variants) == 1 else slot.type.variant

    def close(self) -> None:
        """Abandon what was not committed."""
        for draft in self._drafts.values():
            draft.abandon()
