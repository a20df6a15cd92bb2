"""All merge methods: importing this package registers them in `METHODS`."""

from crucible_components.merging.methods import (  # noqa: F401
    arcee_fusion,
    breadcrumbs,
    dare,
    della,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    ram,
    sce,
    slerp,
    task_arithmetic,
    ties,
    varm,
)
from crucible_components.merging.methods.registry import METHODS, Method, Parameter, merge_method

__all__ = ["METHODS", "Method", "Parameter", "merge_method"]
