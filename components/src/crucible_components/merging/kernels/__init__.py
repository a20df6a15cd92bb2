"""What merge methods are written in: blocks of one tensor, sums over it, its largest elements."""

from crucible_components.merging.kernels.block import Block, Rows
from crucible_components.merging.kernels.consensus import Mask, add_up, kept_share_factors
from crucible_components.merging.kernels.elementwise import (
    add_majority,
    energies,
    row_ranks,
    sizes,
    take_agreed,
    variance,
    weighted_sum,
)
from crucible_components.merging.kernels.gram import Gram, Grouping, combination, gram
from crucible_components.merging.kernels.random import seed_of
from crucible_components.merging.kernels.tensors import Tensors
from crucible_components.merging.kernels.topk import TopMask

__all__ = [
    "Block",
    "Gram",
    "Grouping",
    "Mask",
    "Rows",
    "Tensors",
    "TopMask",
    "add_majority",
    "add_up",
    "combination",
    "energies",
    "gram",
    "kept_share_factors",
    "row_ranks",
    "seed_of",
    "sizes",
    "take_agreed",
    "variance",
    "weighted_sum",
]
