"""Drop changes at random, the smaller the likelier, row by row (DELLA, arXiv:2406.11617)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.dare import random_seeds
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method


def _parameters(*, normalize: bool) -> tuple[Parameter, ...]:
    return (
        Parameter("weight", per_model=True),
        Parameter("density", 1.0, per_model=True, minimum=0.0, maximum=1.0),
        Parameter("epsilon", 0.15, per_model=True, minimum=0.0, maximum=0.5),
        Parameter("normalize", normalize),
        Parameter("lambda", 1.0),
        Parameter("rescale", True),
        Parameter("int8_mask", False),
    )


def _check(values: Mapping[str, Any]) -> str | None:
    for density, epsilon in zip(values["density"], values["epsilon"], strict=True):
        if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            return f"have density {density:g} ± epsilon {epsilon:g}, which leaves (0, 1)."
    return None


@merge_method("della", *_parameters(normalize=True), by_rows=True, is_random=True, check=_check)
def della(tensors: kernels.Tensors, values: Values) -> Merged:
    """Keep by rank in the row, then vote and add up as ties does."""
    return _della(tensors, values, vote=True)


@merge_method(
    "della_linear", *_parameters(normalize=False), by_rows=True, is_random=True, check=_check
)
def della_linear(tensors: kernels.Tensors, values: Values) -> Merged:
    """Keep by rank in the row, then add up as task_arithmetic does."""
    return _della(tensors, values, vote=False)


def _della(tensors: kernels.Tensors, values: Values, *, vote: bool) -> Merged:
    """Keep changes by chance, according to their rank.

    The probability to be kept rises with the rank of |δ| in its row from density - ε to
    density + ε; a vector is one row.

    Departs: a row of one element is kept with probability density (mergekit gives it NaN).
    """
    density_K, epsilon_K = values["density"], values["epsilon"]
    seeds = random_seeds(tensors, values)
    rules = {"vote": vote, "normalize": values["normalize"], "scale": values["lambda"]}
    if float(density_K.min()) >= 1:
        return kernels.add_up(values["weight"], **rules)
    spread_K = torch.where((density_K > 0) & (density_K < 1), epsilon_K, 0.0)

    def mask(block: kernels.Block) -> torch.Tensor:
        rank_KRC = kernels.row_ranks(block.rows(kernels.sizes(block)))
        last = max(1, block.num_columns - 1)
        middle = 0.5 if block.num_columns == 1 else 0.0
        share_KN = (rank_KRC.float() / last + middle).flatten(1)
        keep_KN = density_K[:, None] + (2 * share_KN - 1) * spread_K[:, None]
        return torch.lt(block.uniform_KN(seeds), keep_KN).float()

    factors_K = kernels.kept_share_factors(tensors, mask) if values["rescale"] else None
    return kernels.add_up(values["weight"], **rules, mask=mask, factors_K=factors_K)
