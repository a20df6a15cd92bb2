"""What makes a process that merges for minutes faster: no change to what it computes."""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Of glibc's malloc.h."""


def settle() -> None:
    """Keep freed memory for the next block, and leave what is imported out of garbage collection.

    Otherwise glibc gives a block's memory back to the system and gets it anew, page by page, and
    every collection walks over all of torch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 256 << 20)
        mallopt(_TOP_PAD, 16 << 20)
    gc.freeze()
