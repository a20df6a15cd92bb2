"""From a merge file and the headers of its models to what makes each tensor of the result.

Nothing is read but names, types and shapes; every mistake is found, and all are told together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from crucible.errors import Problem
from crucible_components.merging.methods import METHODS, Method
from crucible_components.merging.recipe.headers import Input, ModelHeaders, TensorPlan
from crucible_components.merging.recipe.layers import Layers, is_before_layers
from crucible_components.merging.recipe.references import leading_model
from crucible_components.merging.recipe.schema import (
    MergeFile,
    ModelReference,
    Parameters,
    Slice,
    SliceSource,
    Source,
)
from crucible_components.merging.recipe.settings import resolve

_LISTED = 3


@dataclass
class Planner:
    """Plans one file that `check_file` has nothing against.

    Args:
        file: what is to be done.
        models: by how the file refers to them.

    ``problems`` are all that is wrong, ``notes`` what happens to tensors that are not merged.
    """

    file: MergeFile
    models: Mapping[str, ModelHeaders]
    notes: list[str] = field(default_factory=list)
    layers: list[tuple[str, int]] = field(default_factory=list)
    """Of a result made of slices: model and layer that each of its layers comes from first."""
    _found: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        return METHODS[self.file.merge_method]

    @property
    def problems(self) -> list[Problem]:
        """One for all tensors that have the same fault."""
        return [
            Problem(_listed(paths) if paths[0] else where, message, fix)
            for (where, message, fix), paths in self._found.items()
        ]

    def plan(self) -> list[TensorPlan]:
        """Every tensor of the result, in the order of its layers."""
        if not self.file.modules:
            module = _Part(self, "", self.file.models, self.file.slices, ())
            return list(module.plan())
        planned: list[TensorPlan] = []
        for name, given in self.file.modules.items():
            module = _Part(self, name, given.models, given.slices, (given.parameters,))
            planned += module.plan()
        return [*planned, *self._rest({plan.name for plan in planned})]

    def _rest(self, planned: set[str]) -> Iterator[TensorPlan]:
        """What no module has: from the base, else from the first model that is named."""
        owner = str(leading_model(self.file))
        for name in self.models[owner].infos:
            if name not in planned:
                yield self.copy(name, Input(owner, name))
        count = len(set(self.models[owner].infos) - planned)
        if count:
            self.notes.append(f"{count} tensors in no module: copied from {owner}")

    def copy(self, name: str, source: Input) -> TensorPlan:
        """A tensor that is taken as it is."""
        info = self.models[source.model].infos[source.tensor]
        return TensorPlan(name, info.shape, (), None, {}, info.dtype, copied_from=source)

    def problem(self, where: str, message: str, fix: str, tensor: str = "") -> None:
        """Note a mistake; those of many tensors with one reason are told as one."""
        paths = self._found.setdefault((where, message, fix), [])
        path = f"{where}.{tensor}" if tensor else ""
        if path not in paths:
            paths.append(path)


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(paths[:_LISTED]) + more


@dataclass(frozen=True)
class _Part:
    """The whole model, or one module of it."""

    planner: Planner
    module: str
    """Its name; empty for the whole."""
    sources: list[Source] | None
    given_slices: list[Slice] | None
    parameters: tuple[Parameters, ...]

    def headers(self, model: ModelReference) -> ModelHeaders:
        found = self.planner.models[str(model)]
        return found.only(self.module) if self.module else found

    def plan(self) -> Iterator[TensorPlan]:
        slices = self._slices()
        yield from self._outside_layers(slices[0], before=True)
        number = 0
        for each in slices:
            lengths = {s.layer_range[1] - s.layer_range[0] for s in each.sources}
            if len(lengths) != 1 or min(lengths) < 0:
                message = "have different numbers of layers, or end before they begin."
                self.planner.problem(f"{self._path}slices", message, "Make the ranges equal.")
                continue
            [length] = lengths
            for offset in range(length):
                position = offset / (length - 1) if length > 1 else 1.0
                yield from self._layer(each, offset, number, position)
                leader = each.sources[0]
                if self.given_slices is not None:
                    self.planner.layers.append((str(leader.model), leader.layer_range[0] + offset))
                number += 1
        yield from self._outside_layers(slices[-1], before=False)

    @property
    def _path(self) -> str:
        return f"modules.{self.module}." if self.module else ""

    def _slices(self) -> list[Slice]:
        """Whole models are one slice of all layers; the base is one of them."""
        slices = self.given_slices
        if slices is None:
            models = [(s.model, s.parameters) for s in self.sources or ()]
            whole = [
                SliceSource(model=model, layer_range=(0, self._count(model)), parameters=given)
                for model, given in models
            ]
            slices = [Slice(sources=whole)]
        return [self._with_base(each) for each in slices]

    def _with_base(self, each: Slice) -> Slice:
        base = each.base_model or self.planner.file.base_model
        needs_base = self.planner.method.base != "none"
        if base is None or not needs_base or any(s.model == base for s in each.sources):
            return each
        source = SliceSource(model=base, layer_range=each.sources[0].layer_range)
        return each.model_copy(update={"sources": [*each.sources, source]})

    def _count(self, model: ModelReference) -> int:
        layers = self.headers(model).layers
        return 0 if layers is None else layers.count

    def _outside_layers(self, each: Slice, *, before: bool) -> Iterator[TensorPlan]:
        """Embeddings from the first slice, norm and head from the last, as mergekit does."""
        leader = self.headers(each.sources[0].model)
        for name in leader.infos:
            is_outside = leader.layers is None or leader.layers.index_of(name) is None
            if is_outside and is_before_layers(name) == before:
                names = [
                    self._name_in(source, name, leader.layers, None) for source in each.sources
                ]
                yield self._tensor(each, name, names, 0.0)

    def _layer(
        self, each: Slice, offset: int, number: int, position: float
    ) -> Iterator[TensorPlan]:
        leader = each.sources[0]
        headers = self.headers(leader.model)
        if not all(self._has_layer(source, offset) for source in each.sources):
            return
        assert headers.layers is not None
        index = leader.layer_range[0] + offset
        for name in headers.infos:
            if headers.layers.index_of(name) == index:
                names = [
                    self._name_in(source, name, headers.layers, offset) for source in each.sources
                ]
                yield self._tensor(each, headers.layers.moved(name, number), names, position)

    def _has_layer(self, source: SliceSource, offset: int) -> bool:
        index, count = source.layer_range[0] + offset, self._count(source.model)
        if index >= count:
            message = f"reaches beyond the model, which has {count} layers."
            where = f"{self._path}slices.{source.model}.layer_range"
            self.planner.problem(where, message, f"End it at {count} at most.")
        return index < count

    def _name_in(
        self, source: SliceSource, name: str, layers: Layers | None, offset: int | None
    ) -> str:
        """What the leader's tensor, whose layers are ``layers``, is called in another source."""
        own = self.headers(source.model).layers
        if layers is None or own is None:
            return name
        if offset is not None:
            name = layers.moved(name, source.layer_range[0] + offset)
        return layers.translated(name, own)

    def _tensor(self, each: Slice, name: str, names: Sequence[str], position: float) -> TensorPlan:
        planner = self.planner
        base_model = each.base_model or planner.file.base_model
        uses_base = planner.method.base != "none" and base_model is not None
        inputs, base, chosen = [], None, []
        for source, tensor in zip(each.sources, names, strict=True):
            self._check(str(source.model), tensor, names[0], str(each.sources[0].model))
            if uses_base and source.model == base_model and base is None:
                base = Input(str(source.model), tensor)
            else:
                inputs.append(Input(str(source.model), tensor))
                chosen.append(source)
        origin = base or inputs[0]
        info = planner.models[origin.model].infos.get(origin.tensor)
        info = info or planner.models[str(each.sources[0].model)].infos[names[0]]
        if not info.dtype.is_floating_point:
            planner.notes.append(f"{name}: {info.dtype} is not merged, copied from {origin.model}")
            return replace(planner.copy(names[0], origin), name=name)
        values = self._values(each, name, inputs, chosen, position)
        dtype = self._out_dtype or info.dtype
        return TensorPlan(name, info.shape, tuple(inputs), base, values, dtype)

    @property
    def _out_dtype(self) -> torch.dtype | None:
        wanted = self.planner.file.out_dtype or self.planner.file.dtype
        return None if wanted is None else getattr(torch, wanted)

    def _values(
        self,
        each: Slice,
        name: str,
        inputs: Sequence[Input],
        sources: Sequence[SliceSource],
        position: float,
    ) -> dict[str, Any]:
        planner = self.planner
        shared = [each.parameters, *self.parameters, planner.file.parameters]
        found: dict[str, Any] = {}
        for parameter in planner.method.parameters:
            if parameter.per_model:
                many = [
                    resolve(parameter.name, [s.parameters, *shared], i.tensor, position)
                    for s, i in zip(sources, inputs, strict=True)
                ]
                value: Any = tuple(parameter.default if v is None else v for v in many)
                if None in value:
                    value = None
            else:
                value = resolve(parameter.name, shared, name, position)
                value = parameter.default if value is None else value
            if value is not None:
                found[parameter.name] = value
            elif not parameter.is_optional:
                where = f"parameters.{parameter.name}"
                fix = "Set it for all tensors, or add an entry without filter."
                planner.problem(where, f"is not set for some tensors, such as {name}.", fix)
        self._check_values(found)
        return found

    def _check_values(self, values: dict[str, Any]) -> None:
        fault = self.planner.method.check(values)
        if fault is not None:
            self.planner.problem("parameters", fault, "Change them.")

    def _check(self, model: str, tensor: str, other_tensor: str, other: str) -> None:
        info = self.planner.models[model].infos.get(tensor)
        wanted = self.planner.models[other].infos[other_tensor]
        if info is None:
            message, fix = f"is missing; {other} has it.", "Merge models of one architecture."
            self.planner.problem(model, message, fix, tensor)
        elif info.shape != wanted.shape:
            message = f"has shape {list(info.shape)}, in {other} {list(wanted.shape)}."
            fix = "Merge models of one shape; for vocabularies set tokenizer_source."
            self.planner.problem(model, message, fix, tensor)
