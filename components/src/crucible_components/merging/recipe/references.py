"""Which models a merge file names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crucible_components.merging.recipe.schema import (
    MergeFile,
    ModelReference,
    ModelToken,
    Module,
)


def merged_models(file: MergeFile) -> list[ModelReference]:
    """Those whose weights are read, in the order of the file, each once; the base comes last."""
    bases = [file.base_model]
    found: list[ModelReference | None] = []
    for part in _parts(file):
        found += [source.model for source in part.models or ()]
        for each in part.slices or ():
            found += [source.model for source in each.sources]
            bases.append(each.base_model)
    return _once([*found, *bases])


def tokenizer_models(file: MergeFile) -> list[ModelReference]:
    """Those that the tokenizer's rules name."""
    found: list[object] = [file.tokenizer_source]
    if file.tokenizer is not None:
        sources = [rule.source for rule in file.tokenizer.tokens.values()]
        found += [file.tokenizer.source, *sources]
        found += [each.model for each in sources if isinstance(each, ModelToken)]
    return _once(each for each in found if isinstance(each, ModelReference))


def base_of(file: MergeFile) -> ModelReference | None:
    """The base of the merge, else of the first slice that has one."""
    slices = [each for part in _parts(file) for each in part.slices or ()]
    bases = (each.base_model for each in slices if each.base_model is not None)
    return file.base_model or next(bases, None)


def leading_model(file: MergeFile) -> ModelReference:
    """Whose settings and tokenizer the result has: the base, else the first model."""
    return base_of(file) or merged_models(file)[0]


def _parts(file: MergeFile) -> Iterator[MergeFile | Module]:
    yield file
    yield from (file.modules or {}).values()


def _once(references: Iterable[ModelReference | None]) -> list[ModelReference]:
    return list({str(each): each for each in references if each is not None}.values())
