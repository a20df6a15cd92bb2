"""A component's reference page in Markdown, generated from its declaration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crucible.sdk.component import Component, Slot
from crucible.sdk.description import ComponentInfo, describe

JsonSchema = Mapping[str, Any]

_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "items ≥",
    "maxItems": "items ≤",
    "pattern": "matches",
}


def reference_markdown(cls: type[Component]) -> str:
    """One page: what it does, inputs, outputs, settings with types and defaults, resources."""
    info = describe(cls)
    blocks = [f"# {info.name}", info.description]
    blocks += ["## Inputs", _slot_table(info.inputs)]
    blocks += ["## Outputs", _slot_table(info.outputs)]
    blocks += ["## Settings", *_setting_blocks(info.config_schema)]
    blocks += ["## Resources", _resource_text(info)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _slot_table(slots: Sequence[Slot]) -> str:
    rows = [(f"`{slot.name}`", f"`{slot_type(slot)}`", slot.description) for slot in slots]
    return _table(("name", "type", "meaning"), rows)


def slot_type(slot: Slot) -> str:
    """The slot's annotation as a user would write it, e.g. ``list[Model[causal-lm]] | None``."""
    text = f"list[{slot.type}]" if slot.many else str(slot.type)
    if slot.same_variant_as:
        text += f", variant of {slot.same_variant_as}"
    return f"{text} | None" if slot.optional else text


def _setting_blocks(schema: JsonSchema) -> Iterator[str]:
    yield _setting_table(schema)
    for name, definition in sorted(schema.get("$defs", {}).items()):
        if "properties" in definition:
            yield f"### {name}"
            yield str(definition.get("description", ""))
            yield _setting_table(definition)


def _setting_table(schema: JsonSchema) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"`{name}`",
            f"`{setting_type(field)}`",
            "required" if name in required else _default(field),
            field.get("description", ""),
        )
        for name, field in schema.get("properties", {}).items()
    ]
    return _table(("name", "type", "default", "meaning"), rows)


def _default(schema: JsonSchema) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else "computed"


def setting_type(schema: JsonSchema) -> str:
    """A JSON Schema as a short type with its bounds, e.g. ``number ≥ 0 ≤ 1`` or ``"a" | "b"``."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(setting_type(member) for member in schema[union])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list[{setting_type(schema.get('items', {}))}]"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        kind = f"map[{setting_type(schema['additionalProperties'])}]"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join((kind, *bounds))


def _resource_text(info: ComponentInfo) -> str:
    want = info.resources
    caching = "cached by fingerprint" if info.cacheable else "runs each time (never cached)"
    return (
        f"{want.cpus:g} CPUs, {want.memory_gib:g} GiB, {want.gpus} GPUs on {want.nodes} node(s) of "
        f"pool `{want.pool}` unless the pipeline says otherwise; {caching}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
