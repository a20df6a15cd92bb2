"""The references that fill a pod's slots, and the numbers that its settings need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from crucible.artifacts.manifest import ArtifactRef
from crucible.artifacts.store import Store
from crucible.errors import UserError
from crucible.journal import Journal
from crucible.sdk.pod.request import Metric, PodStep


def outputs_needed(step: PodStep) -> set[str]:
    """Ids of the steps whose outputs ``step`` reads."""
    sources = (source for sources in step.inputs.values() for source in sources)
    found = {step_id for source in sources for step_id in source.step_ids}
    return found | {ref.step_id for ref in step.metric_refs.values()}


def write_references(
    step: PodStep, outputs: Mapping[str, Mapping[str, str]], store: Store, folder: Path
) -> dict[str, list[Path]]:
    """Reference files by slot, written below ``folder``.

    What was not written makes a list shorter and leaves an optional slot empty; the step process
    refuses a required slot that is empty.

    Args:
        step: what is about to run.
        outputs: manifest digests by output name, by step id: of the steps that ended well.
        store: has the manifests.
        folder: gets ``<slot>/<number>``.
    """
    found: dict[str, list[Path]] = {}
    for slot, sources in step.inputs.items():
        digests: list[str] = []
        for source in sources:
            if source.digest:
                digests.append(source.digest)
            written = (outputs.get(step_id, {}) for step_id in source.step_ids)
            digests += [names[source.output] for names in written if source.output in names]
        if digests:
            found[slot] = list(_write(digests, store, folder / slot))
    return found


def read_metrics(
    refs: Mapping[str, Metric], outputs: Mapping[str, Mapping[str, str]], store: Store
) -> dict[str, float]:
    """The numbers behind ``refs``.

    Raises:
        UserError: a step did not measure what is asked; names everything that is missing.
    """
    values: dict[str, float] = {}
    problems: list[str] = []
    for name, ref in refs.items():
        digest = outputs.get(ref.step_id, {}).get(ref.output)
        metadata = store.manifest(digest).metadata if digest else {}
        value = metadata.get(ref.metric)
        if isinstance(value, (int, float)):
            values[name] = value
        else:
            known = ", ".join(key for key, other in metadata.items() if not isinstance(other, str))
            problems.append(
                f"{ref.step_id}.{ref.output} has no metric {ref.metric!r}. It has: "
                f"{known or 'none'}. Correct the reference, then submit again."
            )
    if problems:
        raise UserError("\n".join(problems))
    return values


def known_outputs(
    wanted: Iterable[str], own: Mapping[str, Mapping[str, str]], journal: Journal
) -> dict[str, Mapping[str, str]]:
    """Outputs of the steps in ``wanted``: of this pod's own, and of others by the journal."""
    wanted = set(wanted)
    found: dict[str, Mapping[str, str]] = {s: own[s] for s in wanted if s in own}
    found.update(journal.outputs(sorted(wanted - own.keys())))
    return found


def _write(digests: Iterable[str], store: Store, folder: Path) -> Iterable[Path]:
    for number, digest in enumerate(digests):
        path = folder / str(number)
        ArtifactRef.of(store.manifest(digest), store.uri).write(path)
        yield path
