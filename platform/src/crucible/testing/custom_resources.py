"""Custom resource definitions as schemas, strict: a field that they do not know is an error."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_KEEP = "x-kubernetes-preserve-unknown-fields"


class CustomSchemas:
    """Schemas by group, version and kind."""

    def __init__(self, definitions: Iterable[dict[str, Any]]) -> None:
        self._schemas: dict[tuple[str, str], dict[str, Any]] = {}
        for definition in definitions:
            spec = definition["spec"]
            for version in spec["versions"]:
                key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                self._schemas[key] = _root(version["schema"]["openAPIV3Schema"])

    @classmethod
    def load(cls, folders: Iterable[Path]) -> CustomSchemas:
        """From all definitions in YAML files of some folders."""
        documents = [
            document
            for folder in folders
            for path in sorted(folder.glob("*.yaml"))
            for document in yaml.safe_load_all(path.read_text())
        ]
        return cls(d for d in documents if d and d["kind"] == "CustomResourceDefinition")

    def knows(self, manifest: dict[str, Any]) -> bool:
        """True if the object's kind is defined."""
        return (manifest["apiVersion"], manifest["kind"]) in self._schemas

    def problems(self, manifest: dict[str, Any]) -> list[str]:
        """What is wrong with an object; rules in CEL are left to a server."""
        import jsonschema  # type: ignore[import-untyped]

        schema = self._schemas[manifest["apiVersion"], manifest["kind"]]
        validator = jsonschema.Draft202012Validator(schema)
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def _root(schema: dict[str, Any]) -> dict[str, Any]:
    strict: dict[str, Any] = _strict(copy.deepcopy(schema))
    strict["properties"]["metadata"] = {"type": "object"}
    return strict


def _strict(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("anyOf", None)
        return {"type": ["integer", "string"]}
    for key, value in schema.items():
        if key == "properties":
            schema[key] = {name: _strict(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties"):
            schema[key] = _strict(value)
    if "properties" in schema and not schema.get(_KEEP):
        schema.setdefault("additionalProperties", False)
    return schema
