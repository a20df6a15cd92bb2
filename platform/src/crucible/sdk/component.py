"""The component declaration, and what is read off it.

A component is one class: typed inputs, a pydantic config, typed outputs, resources and ``run``.
From it come the validation of pipeline files, JSON Schema, reference docs and the process on both
engines. The declaring module imports only `crucible.sdk` and pydantic at module level; torch and
friends are imported inside ``run``, so that planning a pipeline never loads them.
"""

from __future__ import annotations

import abc
import inspect
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from crucible.sdk.types import Artifact, ArtifactType, SameVariantAs

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

    from crucible.sdk.context import Context


class ComponentConfig(BaseModel):
    """Base of every component's settings. The string under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The settings as JSON Schema, the string under each as its description.

        pydantic's ``use_attribute_docstrings`` reads the source of every class on every start.
        """
        from crucible.sdk.docstrings import attribute_docstrings

        written = handler(schema)
        properties = handler.resolve_ref_schema(written).get("properties", {})
        texts = attribute_docstrings(cls)
        for name, info in cls.model_fields.items():
            if name in texts:
                properties[info.alias or name].setdefault("description", texts[name])
        return written


class _Slots:
    """Holds one artifact (or list, or None) per annotation of the subclass."""

    def __init__(self, **artifacts: Any) -> None:
        declared = {slot.name for slot in slots_of(type(self))}
        unknown = artifacts.keys() - declared
        if unknown:
            raise TypeError(f"{type(self).__name__} has no slot {sorted(unknown)}")
        for name in declared:
            setattr(self, name, artifacts.get(name))


class ComponentInputs(_Slots):
    """Base of ``Inputs``: annotate slots with artifact classes, ``list[...]`` or ``... | None``."""


class ComponentOutputs(_Slots):
    """Base of ``Outputs``: annotate with artifact classes; ``... | None`` may stay unwritten."""


@dataclass(frozen=True)
class Slot:
    """One input or output of a component, read off its annotation."""

    name: str
    type: ArtifactType
    many: bool = False
    optional: bool = False
    same_variant_as: str | None = None
    description: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a step is expected to need, from a formula over its config."""

    memory_gib: float | None = None
    seconds: float | None = None
    formula: str = ""
    """The formula in words, printed by ``plan``."""


@dataclass(frozen=True)
class Resources:
    """What a step asks for. Unset in a pipeline file means the component's default."""

    cpus: float = 1.0
    memory_gib: float = 1.0
    gpus: int = 0
    nodes: int = 1
    pool: str = "cpu"


class Component(abc.ABC):
    """Base of every component. Subclasses set ``name``, the nested classes and ``run``."""

    name: ClassVar[str]
    """Kebab-case; the value of ``uses`` in pipeline files."""
    version: ClassVar[str] = "1"
    """Raise it to declare that outputs changed though no source file did."""
    resources: ClassVar[Resources] = Resources()
    cacheable: ClassVar[bool] = True
    """False for steps that must run each time, e.g. reports about the run."""
    image: ClassVar[str] = "base"
    """Set of dependencies that it needs, and so the container image of its pods: base, eval, train
    or serve. A step's own ``image`` wins."""
    preload: ClassVar[tuple[str, ...]] = ()
    """Modules that take long to import, e.g. torch. The local engine imports them once a run and
    forks its steps from there; elsewhere they are imported at once before ``run``."""
    distributed: ClassVar[bool] = False
    """Its ``run`` may be called in several processes at once, which share the work by
    ``Context.rank`` and ``world_size``. Only such a component may ask for several nodes."""

    Inputs: ClassVar[type[ComponentInputs]] = ComponentInputs
    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    Outputs: ClassVar[type[ComponentOutputs]] = ComponentOutputs

    @classmethod
    def estimate(cls, config: Any) -> Estimate | None:
        """Memory and time of one run with ``config`` on the default resources, or None."""
        return None

    @abc.abstractmethod
    def run(self, inputs: Any, config: Any, outputs: Any, context: Context) -> None:
        """Do the work: read ``inputs``, write every non-optional output."""

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def slots_of(holder: type[_Slots]) -> tuple[Slot, ...]:
    """The slots of an ``Inputs`` or ``Outputs`` class, in order of declaration.

    Raises:
        TypeError: an annotation is not an artifact class, a list of one, or either with ``| None``.
    """
    hints = typing.get_type_hints(holder, include_extras=True)
    return tuple(_slot(name, hint, holder) for name, hint in hints.items())


def _slot(name: str, hint: Any, holder: type) -> Slot:
    same_variant_as: str | None = None
    if typing.get_origin(hint) is Annotated:
        hint, *marks = typing.get_args(hint)
        same_variant_as = next((m.slot for m in marks if isinstance(m, SameVariantAs)), None)
    optional = many = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else hint
    if typing.get_origin(hint) is list:
        many, hint = True, typing.get_args(hint)[0]
    cls = typing.get_origin(hint) or hint
    if not (isinstance(cls, type) and issubclass(cls, Artifact)):
        raise TypeError(
            f"{holder.__qualname__}.{name}: {hint!r} is not an artifact type. "
            "Use Model[...], Dataset[...], Metrics, Report, list[...] of one, or ... | None."
        )
    variant = next((arg.variant for arg in typing.get_args(hint) if hasattr(arg, "variant")), "any")
    return Slot(name, ArtifactType(cls.type_name, variant), many, optional, same_variant_as)
