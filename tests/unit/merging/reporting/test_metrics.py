from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from crucible_components.merging.reporting import TensorFigures, summary_metrics

Gather = Callable[..., TensorFigures]
NAMES = {
    "num_tensors",
    "num_parameters",
    "num_copied_tensors",
    "num_skipped_tensors",
    "num_nonfinite_tensors",
    "explained_fraction",
    "changed_fraction",
    "relative_change/merged",
    "share/source_1",
    "share/source_2",
    "relative_change/source_1",
    "relative_change/source_2",
}
NAMES_WITH_BASE = {"sign_conflict_fraction", "cosine/mean", "cosine/source_1", "cosine/source_2"}


@pytest.fixture
def two(gather: Gather, orthogonal: Callable[..., Tensor]) -> list[TensorFigures]:
    """A tensor of 64 elements merged 3 : 1, and one of 16 that was copied from b."""
    base_N, changes_KN = torch.ones(64), orthogonal(2)
    merged_N = base_N + 0.75 * changes_KN[0] + 0.25 * changes_KN[1]
    copied_N = torch.full((16,), 2.0)
    return [
        gather(base_N + changes_KN, base_N, merged_N),
        gather(copied_N[None], None, copied_N, sources=("b",), copied_from="b"),
    ]


def test_metrics_of_a_merge(two: list[TensorFigures], orthogonal: Callable[..., Tensor]) -> None:
    got = summary_metrics(two, ("a", "b"), num_skipped=3)
    length = np.hypot(0.75, 0.25)
    conflicts = (orthogonal(2).sign().sum(dim=0) == 0).float().mean().item()
    assert got == pytest.approx(
        {
            "num_tensors": 2,
            "num_parameters": 80,
            "num_copied_tensors": 1,
            "num_skipped_tensors": 3,
            "num_nonfinite_tensors": 0,
            "explained_fraction": 1,
            "changed_fraction": 1,
            "relative_change/merged": length / 8,
            "share/source_1": 0.75,
            "share/source_2": 0.25,
            "relative_change/source_1": 1 / 8,
            "relative_change/source_2": 1 / 8,
            "sign_conflict_fraction": conflicts,
            "cosine/mean": 0,
            "cosine/source_1": 0.75 / length,
            "cosine/source_2": 0.25 / length,
        },
        abs=1e-5,
    )
    assert 0 < conflicts < 1


def test_names_are_pinned_and_fit_mlflow(gather: Gather, two: list[TensorFigures]) -> None:
    with_base = summary_metrics(two, ("a", "b"))
    assert set(with_base) == NAMES | NAMES_WITH_BASE
    assert all(re.fullmatch(r"[a-z0-9_/]+", name) for name in with_base)
    models_KN = torch.randn(2, 64)
    alone = [gather(models_KN, None, models_KN.mean(0))]
    assert set(summary_metrics(alone, ("a", "b"))) == NAMES


def test_nan_reaches_no_metric_but_its_count(gather: Gather, two: list[TensorFigures]) -> None:
    broken = gather(torch.full((2, 8), torch.nan), torch.ones(8), torch.ones(8))
    before, after = (summary_metrics(each, ("a", "b")) for each in (two, [*two, broken]))
    assert after.pop("num_nonfinite_tensors") == 1
    assert after["num_parameters"] == before["num_parameters"] + 8
    for name in ("num_nonfinite_tensors", "num_tensors", "num_parameters"):
        before.pop(name)
    assert {name: after[name] for name in before} == before
