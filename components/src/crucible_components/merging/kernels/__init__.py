"""What merge methods are written in: blocks of one tensor, sums over it, its largest elements."""

from crucible_components.merging.kernels.block import Block, chosen, equal_bits
from crucible_components.merging.kernels.consensus import Mask, add_up, kept_share_factors
from crucible_components.merging.kernels.gram import Gram, Grouping, combination, gram
from crucible_components.merging.kernels.random import seed_of
from crucible_components.merging.kernels.tensors import Tensors
from crucible_components.merging.kernels.topk import TopMask

__all__ = [
    "Block",
    "Gram",
    "Grouping",
    "Mask",
    "Tensors",
    "TopMask",
    "add_up",
    "chosen",
    "combination",
    "equal_bits",
    "gram",
    "kept_share_factors",
    "seed_of",
]
