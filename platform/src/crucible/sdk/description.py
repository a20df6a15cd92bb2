"""What a component declares, as plain data for listings, JSON and reference pages."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from dataclasses import asdict, dataclass, replace
from typing import Any

from crucible.sdk.component import Component, Resources, Slot, slots_of


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
    texts: dict[str, str] = {}
    for base in reversed(holder.__mro__[:-1]):
        texts |= attribute_docstrings(base)
    return tuple(replace(slot, description=texts.get(slot.name, "")) for slot in slots_of(holder))


def attribute_docstrings(cls: type) -> dict[str, str]:
    """The string under each annotated attribute of ``cls``, parents left out."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # made at run time: there is no source to read
        return {}
    body = ast.parse(textwrap.dedent(source)).body[0]
    texts: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, text in itertools.pairwise(statements):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts
