"""JSON Schema of pipeline files, for completion and checking in editors.

Form comes from the spec models, what may stand under ``with`` from the components' declarations.
A reference may stand for any value that is not a mapping of the file's own form.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crucible.sdk.catalogue import component_names, load_component
from crucible.sdk.component import Slot
from crucible.sdk.description import ComponentInfo, describe
from crucible.sdk.docstrings import attribute_docstrings
from crucible.specs.model import PipelineDocument, Spec

JsonSchema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE: JsonSchema = {"$ref": "#/$defs/Reference"}
_REFERENCE_DEFINITION: JsonSchema = {
    "description": "A value that holds ${params.NAME}, ${item} or ${steps.NAME.outputs.OUTPUT}.",
    "type": "string",
    "pattern": r"\$\{",
}
_SOURCE: JsonSchema = {"type": "string", "minLength": 1}
_UNTEMPLATED = ("MetadataSpec", "ParamSpec")
"""Where references have no meaning."""
_TASKS = ("StepSpec", "TaskSpec")
_NOTES = ("title", "description", "default")


def pipeline_json_schema(components: Iterable[str] | None = None) -> JsonSchema:
    """JSON Schema (draft 2020-12) of ``kind: Pipeline`` files.

    Args:
        components: values of ``uses`` whose ``with`` is described; None: the whole catalogue.

    Raises:
        UserError: one of them cannot be loaded.
    """
    described = tuple(component_names() if components is None else components)
    schema: JsonSchema = {"$schema": _DIALECT, **PipelineDocument.model_json_schema(by_alias=True)}
    definitions: JsonSchema = schema["$defs"]
    for cls in _models(PipelineDocument):
        _describe(schema if cls is PipelineDocument else definitions[cls.__name__], cls)
    for name in definitions.keys() - _UNTEMPLATED:
        _allow_references(definitions[name], for_mappings=False)
    definitions["Reference"] = _REFERENCE_DEFINITION
    conditions = []
    for uses in described:
        info = describe(load_component(uses))
        definitions |= _component_definitions(info)
        conditions.append(_condition(uses, info))
    for name in _TASKS:
        definitions[name]["properties"]["uses"]["anyOf"] = [
            {"enum": list(described)},  # first, so that editors offer the names
            {"pattern": ":"},
            _REFERENCE,
        ]
        definitions[name]["allOf"] = conditions
    return schema


def _models(cls: type[Spec]) -> Iterator[type[Spec]]:
    """``cls`` and the spec models in its fields, at any depth."""
    yield cls
    for info in cls.model_fields.values():
        for found in _models_in(info.annotation):
            yield from _models(found)


def _models_in(annotation: Any) -> Iterator[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _describe(definition: JsonSchema, cls: type[Spec]) -> None:
    """Put the strings under the fields of ``cls`` into its schema; close mappings."""
    texts = attribute_docstrings(cls)
    for name, info in cls.model_fields.items():
        field = definition["properties"][info.alias or name]
        if "patternProperties" in field:
            field["additionalProperties"] = False
        if name in texts:
            field["description"] = texts[name]


def _condition(uses: str, info: ComponentInfo) -> JsonSchema:
    """If a step uses this component, what stands under ``with``."""
    consequence: JsonSchema = {"properties": {"with": {"$ref": f"#/$defs/{_key(info)}"}}}
    if _required(info):
        consequence["required"] = ["with"]
    return {
        "if": {"properties": {"uses": {"const": uses}}, "required": ["uses"]},
        "then": consequence,
    }


def _key(info: ComponentInfo) -> str:
    return f"with.{info.name}"


def _required(info: ComponentInfo) -> list[str]:
    slots = [s.name for s in info.inputs if not s.optional and s.type.name != "RunRecord"]
    return [*slots, *info.config_schema.get("required", ())]


def _component_definitions(info: ComponentInfo) -> Iterator[tuple[str, JsonSchema]]:
    """The schema of what stands under ``with``, and those that it refers to."""
    settings = _renamed(info.config_schema, f"{_key(info)}.")
    nested = settings.pop("$defs", {}).items()
    yield from ((f"{_key(info)}.{name}", definition) for name, definition in nested)
    for definition in (settings, *(definition for _, definition in nested)):
        _allow_references(definition, for_mappings=True)
    slots = {slot.name: _slot_schema(slot) for slot in info.inputs}
    definition = {
        "description": info.summary,
        "type": "object",
        "properties": {**slots, **settings.get("properties", {})},
        "required": _required(info),
        "additionalProperties": settings.get("additionalProperties", True),
    }
    yield _key(info), definition


def _slot_schema(slot: Slot) -> JsonSchema:
    kind = f"list of {slot.type}" if slot.many else str(slot.type)
    listed = {"type": "array", "items": _SOURCE, "minItems": 1}
    accepted = [listed, _REFERENCE] if slot.many else [_SOURCE]
    if slot.optional:
        accepted.append({"type": "null"})
    return {"description": f"{kind}. {slot.description}".strip(), "anyOf": accepted}


def _renamed(schema: Any, prefix: str) -> Any:
    """A copy whose references to its own definitions carry ``prefix``."""
    if isinstance(schema, Mapping):
        copy = {key: _renamed(value, prefix) for key, value in schema.items()}
        if isinstance(copy.get("$ref"), str):
            copy["$ref"] = copy["$ref"].replace("#/$defs/", f"#/$defs/{prefix}")
        if isinstance(mapping := copy.get("discriminator"), dict):
            copy["discriminator"] = {"propertyName": mapping["propertyName"]}
        return copy
    return [_renamed(item, prefix) for item in schema] if isinstance(schema, list) else schema


def _allow_references(schema: JsonSchema, *, for_mappings: bool) -> None:
    """Let a reference stand for each value inside ``schema``, unless it is any string anyway.

    With ``for_mappings`` also for mappings, which ``${item}`` may be.
    """
    for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        _allow_references(member, for_mappings=for_mappings)
    holders = [(schema.get("properties", {}), name) for name in schema.get("properties", {})]
    holders += [(schema, key) for key in ("items", "additionalProperties")]
    for holder, key in holders:
        if isinstance(holder.get(key), dict):
            _allow_references(holder[key], for_mappings=for_mappings)
            holder[key] = _or_reference(holder[key], for_mappings=for_mappings)


def _or_reference(schema: JsonSchema, *, for_mappings: bool) -> JsonSchema:
    inner = {key: value for key, value in schema.items() if key not in _NOTES}
    is_mapping = inner.get("type") == "object" or "$ref" in inner
    if inner in ({"type": "string"}, {}) or (is_mapping and not for_mappings):
        return schema
    options = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
    notes = {key: schema[key] for key in _NOTES if key in schema}
    return {**notes, "anyOf": [*options, _REFERENCE]}
