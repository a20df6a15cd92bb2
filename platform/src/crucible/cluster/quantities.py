"""Amounts as Kubernetes writes them: ``500m``, ``2``, ``128Mi``, ``1e3``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_QUANTITY = re.compile(r"(?P<number>[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(?P<suffix>[a-zA-Z]*)")
_FACTORS = {
    "": 1.0,
    **{unit: 1000.0**power for power, unit in enumerate(("n", "u", "m"), -3)},
    **{unit: 1000.0**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)},
}


def quantity(text: str | int | float) -> float:
    """The amount in its base unit: cores, bytes, pieces.

    Raises:
        ValueError: it is none.
    """
    found = _QUANTITY.fullmatch(str(text))
    if found is None or found["suffix"] not in _FACTORS:
        raise ValueError(f"{text!r} is no amount")
    return float(found["number"]) * _FACTORS[found["suffix"]]


def total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum by resource."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            sums[name] = sums.get(name, 0.0) + amount
    return sums
