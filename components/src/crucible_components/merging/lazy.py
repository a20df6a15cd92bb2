"""torch and the kernels, loaded when they are first used.

Which methods there are and which parameters they take must be known where merge files are checked:
before a pipeline begins, on machines without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["kernels", "torch"]

if TYPE_CHECKING:
    import torch

    from crucible_components.merging import kernels
else:

    class _Module:
        """Stands for a module until one of its names is looked up."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module(self._name), name)
            setattr(self, name, value)
            return value

    torch = _Module("torch")
    kernels = _Module("crucible_components.merging.kernels")
