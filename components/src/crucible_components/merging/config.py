"""Settings of `merge-models`: a merge file's keys, and how the step's models are called there."""

from __future__ import annotations

from pydantic import Field, model_validator

from crucible.sdk.component import ComponentConfig
from crucible_components.merging.options import ArithmeticName
from crucible_components.merging.recipe.checks import check_method
from crucible_components.merging.recipe.schema import MergeFile


class Recipe(MergeFile):
    """A merge as mergekit's files describe it.

    Models are those of the step, called ``base`` and ``model_1``, ``model_2``, … unless settings
    give them other names. Without ``models``, ``slices`` and ``modules`` all of them are merged by
    the parameters at the top.
    """

    @model_validator(mode="after")
    def _one_of(self) -> Recipe:
        if sum(map(bool, (self.models, self.slices, self.modules))) > 1:
            raise ValueError("give at most one of models, slices and modules")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise ValueError("give tokenizer or tokenizer_source, not both")
        if problems := check_method(self):
            raise ValueError("; ".join(map(str, problems)))
        return self


class MergeConfig(ComponentConfig):
    """Settings of one merge."""

    recipe: Recipe = Recipe(merge_method="sce")
    """What to do, in the keys of mergekit's files; see the merging README."""
    by_filter: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Parameters for tensors whose name holds the key, before those of the recipe. Unlike items of
    the recipe's lists they may be metrics of other steps, as a search needs it."""
    model_names: list[str] = Field(default_factory=list)
    """What the recipe calls ``models``, in their order; for a mergekit file that is taken as is."""
    base_name: str = "base"
    """What the recipe calls ``base``."""
    arithmetic: ArithmeticName = "float32"
    """``float32`` rounds once, at the end; ``mergekit`` computes in the recipe's dtype."""
    random_seed: int = Field(default=0, ge=0)
    """Of methods that draw; the same numbers for the same seed on any machine."""
    max_shard_gb: float = Field(default=5.0, gt=0)
    """Largest file of weights of the result."""
    cache_mib: int = Field(default=192, ge=1)
    """Memory for the stored values of one tensor, a thread."""
