"""Which kinds of objects a cluster knows, in which versions, and what their fields are."""

from __future__ import annotations

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.wire import Json
from crucible.errors import ClusterRefused

_CRDS = "apiextensions.k8s.io/v1"


def served_version(connection: Connection, group: str, plural: str) -> str | None:
    """The version of an API group that serves ``plural``, the preferred one first.

    None if the cluster does not know it; errors as `Connection.call`.
    """
    found = connection.find(f"look for {group}", f"/apis/{group}")
    if found is None:
        return None
    preferred = (found.get("preferredVersion") or {}).get("version")
    versions = [str(entry["version"]) for entry in found.get("versions") or []]
    for version in sorted(versions, key=lambda each: each != preferred):
        listed = connection.find(f"look for {plural}", f"/apis/{group}/{version}") or {}
        if any(entry["name"] == plural for entry in listed.get("resources") or []):
            return version
    return None


def schema_of(connection: Connection, group: str, plural: str, version: str) -> Json | None:
    """OpenAPI schema of a custom resource; None if the cluster does not know it.

    From its definition, or, without the right to read that, from the published API, which every
    user may read. Errors as `Connection.call`.
    """
    path = path_of(_CRDS, "customresourcedefinitions", name=f"{plural}.{group}")
    try:
        definition = connection.find(f"read the definition of {plural}", path)
    except ClusterRefused:
        return _published(connection, group, plural, version)
    for entry in ((definition or {}).get("spec") or {}).get("versions") or []:
        if entry["name"] == version and entry.get("served"):
            schema: Json = (entry.get("schema") or {}).get("openAPIV3Schema") or {}
            return schema
    return None


def field(schema: Json | None, *names: str) -> Json | None:
    """The schema of a field below another one, through lists as well; None if there is none."""
    for name in names:
        if schema is None:
            return None
        holder = schema.get("items") or schema
        schema = (holder.get("properties") or {}).get(name)
    return schema


def _published(connection: Connection, group: str, plural: str, version: str) -> Json | None:
    document = connection.find(f"read the API of {group}", f"/openapi/v3/apis/{group}/{version}")
    paths = (document or {}).get("paths") or {}
    create = paths.get(f"/apis/{group}/{version}/namespaces/{{namespace}}/{plural}", {}).get("post")
    if create is None:
        return None
    content = create["requestBody"]["content"]["application/json"]["schema"]
    name = str(content.get("$ref") or "").rpartition("/")[2]
    schema: Json | None = (document or {})["components"]["schemas"].get(name)
    return schema
