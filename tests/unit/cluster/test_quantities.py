"""Amounts as Kubernetes writes them."""

from __future__ import annotations

import pytest

from crucible.cluster.quantities import quantity, total


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0), ("2", 2), ("1500m", 1.5), ("100u", 1e-4), ("5n", 5e-9), ("0.5", 0.5),
        ("1k", 1000), ("1Ki", 1024), ("128Mi", 2**27), ("1.5Gi", 1.5 * 2**30), ("2T", 2e12),
        ("1e3", 1000), ("1E3", 1000), ("1E", 1e18), ("3Ei", 3 * 2**60), ("-1", -1), (4, 4),
    ],
)  # fmt: skip
def test_amounts(text, amount) -> None:
    assert quantity(text) == pytest.approx(amount)


@pytest.mark.parametrize("text", ["", "a", "1mi", "1 Gi", "Gi", "1K"])
def test_what_is_none(text) -> None:
    with pytest.raises(ValueError, match="no amount"):
        quantity(text)


def test_sums() -> None:
    assert total([{"cpu": 1.0}, {"cpu": 0.5, "memory": 3.0}, {}]) == {"cpu": 1.5, "memory": 3.0}
