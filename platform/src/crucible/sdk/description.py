"""What a component declares, as plain data for listings, JSON and reference pages."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass, replace
from typing import Any

from crucible.sdk.component import Component, Resources, Slot, slots_of
from crucible.sdk.docstrings import attribute_docstrings


@dataclass(frozen=True)
class ComponentInfo:
    """A component's declaration. Built by `describe`."""

    name: str
    version: str
    uses: str
    """``package.module:Class`` of the declaring class."""
    summary: str
    description: str
    """The class docstring, summary included."""
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    config_schema: dict[str, Any]
    """JSON Schema of the settings."""
    resources: Resources
    cacheable: bool

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def describe(cls: type[Component]) -> ComponentInfo:
    """Everything that ``cls`` declares; a slot's description is the string under it."""
    return ComponentInfo(
        name=cls.name,
        version=cls.version,
        uses=f"{cls.__module__}:{cls.__qualname__}",
        summary=cls.summary(),
        description=inspect.getdoc(cls) or "",
        inputs=_documented(cls.Inputs),
        outputs=_documented(cls.Outputs),
        config_schema=cls.Config.model_json_schema(),
        resources=cls.resources,
        cacheable=cls.cacheable,
    )


def _documented(holder: type) -> tuple[Slot, ...]:
    texts = attribute_docstrings(holder)
    return tuple(replace(slot, description=texts.get(slot.name, "")) for slot in slots_of(holder))
