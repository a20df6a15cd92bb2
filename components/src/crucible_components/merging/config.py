"""Settings of `merge-models`: which method, with which parameters. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crucible.sdk.component import ComponentConfig


class SceMethod(ComponentConfig):
    """SCE: select by variance, calculate one weight per source and tensor, erase minority signs."""

    name: Literal["sce"]
    """Select, calculate, erase (FuseChat 2.0, arXiv:2408.07990)."""
    select_topk: float = Field(default=1.0, ge=0.0, le=1.0)
    """Fraction of the elements with non-zero variance that stay selected; 1 selects all."""
    variant: Literal["P", "R", "U"] = "U"
    """P: the paper's formula, never renormalised. R: as released with FuseO1, where the selection
    moves only the weights. U: as in upstream mergekit, which renormalises over the sources that
    survived the erasure. U's test for degenerate weights is relative here: see sce.py."""


# Grows into `Annotated[SceMethod | ..., Field(discriminator="name")]` with the second method;
# pydantic refuses a discriminator over a single one.
MergeMethod = SceMethod
OutputDtype = Literal["base", "float32", "bfloat16", "float16"]


class MergeConfig(ComponentConfig):
    """Settings of one merge."""

    method: MergeMethod = SceMethod(name="sce")
    """How the sources' changes to the base are combined, chosen by ``name``."""
    dtype: OutputDtype = "base"
    """Stored type of the merged weights; ``base`` keeps each tensor's own type in the base. All
    arithmetic is float32 with one rounding at the end."""
