"""The merge in numbers to track and compare, over the whole model."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_components.merging.reporting.figures import TensorFigures
from crucible_components.merging.reporting.shares import pool


def summary_metrics(
    figures: Sequence[TensorFigures], sources: tuple[str, ...], *, num_skipped: int = 0
) -> dict[str, float]:
    """Sources are counted from 1, in their order.

    Without a base, what two sources changed is unknown: there is no ``cosine/mean`` and no
    ``sign_conflict_fraction``. A cosine with a change of zero is left out as well.

    Args:
        figures: of all tensors of the result.
        sources: all models without the base.
        num_skipped: tensors of the models that the result does not have.
    """
    whole = pool("all", figures, sources)
    metrics = {
        "num_tensors": float(whole.num_tensors),
        "num_parameters": float(whole.num_elements),
        "num_copied_tensors": float(whole.num_copied),
        "num_skipped_tensors": float(num_skipped),
        "num_nonfinite_tensors": float(whole.num_broken),
        "explained_fraction": whole.explained,
        "changed_fraction": whole.changed_fraction,
        "relative_change/merged": whole.relative_change(-1),
    }
    for number in range(len(sources)):
        metrics[f"share/source_{number + 1}"] = whole.shares[number]
        metrics[f"relative_change/source_{number + 1}"] = whole.relative_change(number)
    if whole.has_base:
        metrics["sign_conflict_fraction"] = whole.conflict_fraction
        cosines = {f"source_{n + 1}": whole.cosine(n) for n in range(len(sources))}
        for name, cosine in {"mean": whole.mean_cosine(), **cosines}.items():
            if cosine is not None:
                metrics[f"cosine/{name}"] = cosine
    return metrics
