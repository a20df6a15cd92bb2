"""What is known of models before their weights are read, and what is made of their tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from crucible_components.merging.recipe.layers import Layers, layers_of
from crucible_components.models.weights import TensorInfo


@dataclass(frozen=True)
class ModelHeaders:
    """Names, types and shapes of a model."""

    infos: Mapping[str, TensorInfo]
    num_layers: int | None = None
    """By its configuration."""

    @cached_property
    def layers(self) -> Layers | None:
        return layers_of(self.infos, self.num_layers)

    def only(self, module: str) -> ModelHeaders:
        """The tensors of one module; all if the model has no module of that name.

        A language model may so be merged into the language module of a vision-language model.
        """
        names = [n for n in self.infos if n.startswith((f"{module}.", f"model.{module}."))]
        infos = {name: self.infos[name] for name in names} or self.infos
        return ModelHeaders(infos, self.num_layers)


@dataclass(frozen=True)
class Input:
    """A tensor of a model."""

    model: str
    tensor: str


@dataclass(frozen=True)
class TensorPlan:
    """How one tensor of the result is made."""

    name: str
    shape: tuple[int, ...]
    inputs: tuple[Input, ...]
    """Without the base."""
    base: Input | None
    values: Mapping[str, Any]
    """Of the method's parameters; one per model as a tuple, in the order of ``inputs``."""
    dtype: torch.dtype
    """In which it is stored."""
    copied_from: Input | None = None
    """Taken as it is: no arithmetic."""

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize

    @property
    def all(self) -> tuple[Input, ...]:
        """What is read; the base last, if there is one."""
        if self.copied_from is not None:
            return (self.copied_from,)
        return self.inputs if self.base is None else (*self.inputs, self.base)
