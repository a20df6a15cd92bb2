"""What makes a merge doubtful, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from crucible_components.merging.reporting.figures import TensorFigures
from crucible_components.merging.reporting.modules import Place
from crucible_components.merging.reporting.shares import Pool

NO_PART_SHARE = 0.01
"""Shares below this in every module mean that a source might as well have been left out."""
LARGE_CHANGE_RATIO = 10.0
"""A change this many times as long as any other drowns them when weights are alike."""
AGAINST_COSINE = -0.02
"""Cosines above this and below 0 are those of unrelated changes, which nobody needs to look at."""
_MAX_NAMES = 5


def check_merge(
    figures: Sequence[TensorFigures], whole: Pool, modules: Mapping[Place, Pool]
) -> list[str]:
    """Warnings; an empty list where nothing is doubtful."""
    warnings = [*_broken(figures), *_parts(whole, modules)]
    if whole.has_base:
        warnings += [*_directions(whole), *_sizes(whole)]
    return warnings


def _broken(figures: Sequence[TensorFigures]) -> Iterator[str]:
    names = [each.name for each in figures if not each.is_finite]
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        listed = ", ".join(names[:_MAX_NAMES])
        yield f"NaN or infinity in {listed}{more}. Check the models' weights and the result's type."


def _parts(whole: Pool, modules: Mapping[Place, Pool]) -> Iterator[str]:
    if whole.has_base and whole.num_changed == 0:
        yield "The result equals the base: no source changed it. Check the weights of the models."
        return
    for number, source in enumerate(whole.sources):
        highest = max((module.shares[number] for module in modules.values()), default=0.0)
        if highest < NO_PART_SHARE:
            yield (
                f"{source} has hardly a part in the result: a share of at most {highest:.2%} in "
                "any module. Raise its weight, or leave it out."
            )


def _directions(whole: Pool) -> Iterator[str]:
    for number, source in enumerate(whole.sources):
        cosine = whole.cosine(number)
        if cosine is not None and cosine < AGAINST_COSINE:
            yield (
                f"The result moved away from {source}: the cosine of its change with the merged "
                f"one is {cosine:.3f}. Check the sign of its weight."
            )
    for first, second in combinations(range(len(whole.sources)), 2):
        cosine = whole.cosine(first, second)
        if cosine is not None and cosine < AGAINST_COSINE:
            yield (
                f"{whole.sources[first]} and {whole.sources[second]} changed the base against each "
                f"other: cosine {cosine:.3f}. Check that both were trained from this base."
            )


def _sizes(whole: Pool) -> Iterator[str]:
    norms = [whole.norm(number) for number in range(len(whole.sources))]
    for number, source in enumerate(whole.sources):
        others = max((norm for i, norm in enumerate(norms) if i != number), default=0.0)
        if others > 0 and norms[number] > LARGE_CHANGE_RATIO * others:
            yield (
                f"{source} changed the base {norms[number] / others:.0f} times as much as any "
                "other source. Check that it was trained from this base, or lower its weight."
            )
