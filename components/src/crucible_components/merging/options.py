"""How a merge is carried out, beside what its file says. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ArithmeticName = Literal["float32", "mergekit"]


@dataclass(frozen=True)
class MergeOptions:
    """None of these but the first two changes the result."""

    arithmetic: ArithmeticName = "float32"
    """``mergekit``: in the file's dtype, as mergekit does; else float32 with a single rounding."""
    random_seed: int = 0
    """Of methods that draw."""
    max_shard_bytes: int = 5_000_000_000
    """Of the result's files."""
    threads: int = 2
    cache_bytes: int = 192 << 20
    """For the stored values of one tensor in all models, a thread."""
    commit_bytes: int = 512 << 20
    """Written between two entries of the journal: what a kill costs at most, about."""
