"""A model's tensors under other names: left out, or one under two names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from torch import Tensor

from crucible_components.models.weights import Reader, TensorInfo


class ClosableReader(Reader, Protocol):
    """What the executor reads from, and who opened it closes."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class ViewReader:
    """Those tensors of ``reader`` that ``names`` lists, each under its new name."""

    reader: ClosableReader
    names: Mapping[str, str]
    """Names of ``reader`` by new names."""

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {new: replace(self.reader.infos[old], name=new) for new, old in self.names.items()}

    def read_span(self, name: str, span: slice) -> Tensor:
        return self.reader.read_span(self.names[name], span)

    def close(self) -> None:
        self.reader.close()


def without(reader: ClosableReader, name: str) -> ClosableReader:
    """``reader`` less one tensor, if it has it."""
    if name not in reader.infos:
        return reader
    return ViewReader(reader, {each: each for each in reader.infos if each != name})


def with_alias(reader: ClosableReader, alias: str, name: str) -> ClosableReader:
    """``reader`` whose tensor ``name`` is also there as ``alias``, in place of any of that name."""
    names = {each: each for each in reader.infos}
    return ViewReader(reader, {**names, alias: name})
