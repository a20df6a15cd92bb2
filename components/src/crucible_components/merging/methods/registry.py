"""What a merge method is, and the table of all of them.

A method is one function with the decorator `merge_method`. It is called once per tensor, may walk
over the tensor as often as it wants (`Tensors.sum`, `Tensors.top`), and returns what makes a block
of the result from a block of the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from crucible_components.merging.kernels import Block, Tensors

Merged: TypeAlias = "Callable[[Block], Tensor]"
Values = Mapping[str, Any]
"""By parameter: a number, flag or word; of a parameter per model, a Tensor [K] of float64."""
MethodFunction: TypeAlias = "Callable[[Tensors, Values], Merged]"
BasePolicy = Literal["required", "optional", "none"]


@dataclass(frozen=True)
class Parameter:
    """One parameter as a merge file may set it."""

    name: str
    default: float | bool | str | None = None
    """None: it has to be given. Its type is that of the parameter; numbers may be gradients."""
    per_model: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    """With no default: what is not given is absent from the values."""


@dataclass(frozen=True)
class Method:
    """A method and what may be asked of it."""

    name: str
    function: MethodFunction
    parameters: tuple[Parameter, ...] = ()
    base: BasePolicy = "required"
    min_models: int = 1
    """Without the base."""
    max_models: int | None = None
    by_rows: bool = False
    """Its blocks hold whole rows of the tensor."""
    is_random: bool = False
    check: Callable[[Mapping[str, Any]], str | None] = lambda values: None
    """What is wrong with parameters that are right each by itself; a parameter per model is a
    tuple."""


METHODS: dict[str, Method] = {}


def merge_method(
    name: str, *parameters: Parameter, **rules: Any
) -> Callable[[MethodFunction], MethodFunction]:
    """Register a function under ``name``; the further arguments are those of `Method`."""

    def register(function: MethodFunction) -> MethodFunction:
        assert name not in METHODS, f"{name} is registered twice"
        METHODS[name] = Method(name, function, parameters, **rules)
        return function

    return register
