"""What a parameter is for one tensor: filters, gradients over layers, and who overrules whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from crucible_components.merging.recipe.schema import Conditional, Parameters, Scalar, Setting


def resolve(name: str, sources: Iterable[Parameters], tensor: str, position: float) -> Any:
    """The value of the first source that has one for the tensor; None if none has.

    Args:
        name: of the parameter.
        sources: most specific first: model, slice, module, file.
        tensor: its name; ``filter`` is a part of it.
        position: of its layer in the slice, from 0 to 1; what belongs to no layer is at 0.
    """
    for parameters in sources:
        if name in parameters:
            value = _of_setting(parameters[name], tensor, position)
            if value is not None:
                return value
    return None


def _of_setting(setting: Setting, tensor: str, position: float) -> Any:
    if not isinstance(setting, list):
        return setting
    if all(isinstance(entry, Conditional) for entry in setting):
        for entry in setting:
            assert isinstance(entry, Conditional)
            if entry.filter in (None, "*") or str(entry.filter) in tensor:
                value = entry.value
                return _at(value, position) if isinstance(value, list) else value
        return None
    return _at([entry for entry in setting if not isinstance(entry, Conditional)], position)


def _at(values: list[Scalar], position: float) -> Any:
    """A gradient: numbers are interpolated linearly, others hold until the next one's place."""
    if not values:
        return None
    scaled = position * (len(values) - 1)
    lower = int(scaled)
    first, second = values[lower], values[min(len(values) - 1, lower + 1)]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        fraction = scaled - lower
        return (1 - fraction) * float(first) + fraction * float(second)
    return first
