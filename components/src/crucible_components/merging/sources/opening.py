"""From the model references of a merge file to tensors, settings and files, all checked.

Nothing but settings and headers is read. What is wrong with any model is told together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from crucible.errors import Problem, UserError
from crucible_components.merging.recipe.schema import ModelReference
from crucible_components.merging.sources import adapters
from crucible_components.merging.sources.checking import check_values, read_settings, read_weights
from crucible_components.merging.sources.locating import Folder, Kind, Located, locate
from crucible_components.merging.sources.lora import LoraReader
from crucible_components.merging.sources.text_settings import TIE_KEY, with_text_settings
from crucible_components.merging.sources.ties import find_tie
from crucible_components.merging.sources.views import ClosableReader, with_alias
from crucible_components.models.weights import TensorReader


@dataclass(frozen=True)
class Source:
    """One model of a merge. Use as a context manager, or call `close`."""

    reference: str
    """As the merge file has it."""
    folder: Folder
    """Of the model, not of its adapter."""
    reader: ClosableReader
    config: Mapping[str, Any]
    """Of config.json; says of the head what holds with the adapter."""
    kind: Kind
    hub_names: tuple[str, ...] = ()
    """Of model and adapter, if they are from the hub."""
    digest: str | None = None
    """Of the model's artifact, or its commit; with an adapter, both joined by ``+``."""

    def close(self) -> None:
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_models(
    references: Iterable[ModelReference],
    lookup: Mapping[str, Folder],
    *,
    scratch_dir: Path | None = None,
) -> dict[str, Source]:
    """Every model once, by how the merge file refers to it; close each when done.

    Raises:
        UserError: some cannot be merged; lists all that is wrong with all of them.
    """
    opened: dict[str, Source] = {}
    problems: list[Problem] = []
    for reference in {str(each): each for each in references}.values():
        try:
            opened[str(reference)] = open_model(reference, lookup, scratch_dir=scratch_dir)
        except UserError as refused:
            problems += [each for each in refused.problems if each not in problems]
        except BaseException:
            _close(opened.values())
            raise
    if problems:
        _close(opened.values())
        raise _refused("models", problems)
    return opened


def open_model(
    reference: ModelReference, lookup: Mapping[str, Folder], *, scratch_dir: Path | None = None
) -> Source:
    """The model, with its adapter if it has one.

    Args:
        reference: as in the merge file.
        lookup: folders by name, such as the inputs of a step; they come before all other places.
        scratch_dir: where artifacts of other stores may put files.

    Raises:
        UserError: it cannot be merged; lists all that is wrong with it.
    """
    problems: list[Problem] = []
    source = None
    try:
        source = _open_plain(reference, locate(reference.model, lookup, scratch_dir=scratch_dir))
    except UserError as refused:
        problems += refused.problems
    if reference.lora is not None:
        try:
            found = locate(reference.lora, lookup, scratch_dir=scratch_dir)
            adapted = _open_adapter(str(reference.lora), found, source)
        except UserError as refused:
            problems += refused.problems
        else:
            source = adapted and replace(adapted, reference=str(reference))
    if problems or source is None:
        _close([] if source is None else [source])
        raise _refused(str(reference), problems)
    return source


def _open_plain(reference: ModelReference, located: Located) -> Source:
    label, folder = str(reference.model), located.folder
    config, problems = read_settings(label, folder)
    reader, faults = read_weights(label, folder)
    problems += faults
    problems += check_values(label, config, {} if reader is None else reader.infos)
    if problems or reader is None:
        if reader is not None:
            reader.close()
        raise _refused(label, problems)
    if reference.override_architecture is not None:
        config = {**config, "architectures": [reference.override_architecture]}
    return Source(
        reference=str(reference),
        folder=folder,
        reader=reader,
        config=config,
        kind=located.kind,
        hub_names=located.hub_names,
        digest=located.digest,
    )


def _open_adapter(label: str, located: Located, source: Source | None) -> Source | None:
    """The source with the adapter; without a source, only what is wrong with the adapter alone."""
    folder, paths = located.folder, located.folder.paths()
    missing = [p for p in (adapters.CONFIG_FILE, adapters.WEIGHTS_FILE) if p not in paths]
    if missing:
        raise _refused(label, [_no_adapter(label, path) for path in missing])
    raw, problems = read_settings(label, folder, adapters.CONFIG_FILE)
    config, faults = adapters.parse_config(label, raw) if not problems else (None, [])
    problems += faults
    weights, faults = read_weights(label, folder, only=adapters.WEIGHTS_FILE)
    problems += faults
    if not problems and config is not None and weights is not None and source is not None:
        base, settings = _with_own_head(source, config, weights)
        adapter, problems = adapters.bind(label, config, weights.infos, base.infos)
        if not problems:
            digests = f"{source.digest or 'unknown'}+{located.digest or 'unknown'}"
            reader = LoraReader(base, weights, adapter)
            names = source.hub_names + located.hub_names
            return replace(source, reader=reader, config=settings, digest=digests, hub_names=names)
    if weights is not None:
        weights.close()
    if problems:
        raise _refused(label, problems)
    return None


def _with_own_head(
    source: Source, config: adapters.AdapterConfig, weights: TensorReader
) -> tuple[ClosableReader, Mapping[str, Any]]:
    """The base, with a head of its own if the adapter changes one of head and embedding.

    An adapter that was trained on one of two modules that share a weight changes that one only.
    """
    tie = find_tie(source.reader.infos, source.config)
    if tie is None or not tie.is_tied or config.ensure_weight_tying:
        return source.reader, source.config
    if not adapters.touched_names(weights.infos, source.reader.infos) & {tie.head, tie.embedding}:
        return source.reader, source.config
    untied = with_text_settings(source.config, {TIE_KEY: False}, everywhere=True)
    return with_alias(source.reader, tie.head, tie.embedding), untied


def _no_adapter(label: str, path: str) -> Problem:
    return Problem(
        path=f"{label}.{path}",
        message="is missing: not an adapter.",
        fix="After the + give a folder that peft's save_pretrained wrote, with safetensors.",
    )


def _refused(label: str, problems: list[Problem]) -> UserError:
    listed = "; ".join(map(str, problems))
    return UserError(f"{label}: cannot be merged ({len(problems)} problems): {listed}", problems)


def _close(sources: Iterable[Source]) -> None:
    for source in sources:
        source.close()
