"""Equal bits from equal inputs: what caching and resuming by digest rest on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only kernels that give the same bits for the same input, thread count and machine.

    On a CPU, too: the gradient of indexing with a tensor adds up atomically, in the order in which
    the threads come, as soon as it is large enough for two.
    """
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # it costs time, and nothing reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled
