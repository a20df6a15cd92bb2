"""Where the Kubernetes API keeps its objects."""

from __future__ import annotations

from urllib.parse import quote


def path_of(
    api_version: str,
    plural: str,
    *,
    namespace: str | None = None,
    name: str | None = None,
    part: str | None = None,
) -> str:
    """Path of a collection, of one object in it, or of a part of that.

    Args:
        api_version: ``v1`` or ``group/version``.
        plural: the resource, e.g. ``pods``.
        namespace: None for all of them, and for objects that are in none.
        name: of one object.
        part: its subresource, e.g. ``log``.
    """
    prefix = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    parts = ["namespaces", namespace] if namespace else []
    parts += [each for each in (plural, name, part) if each]
    return "/".join((prefix, *(quote(each, safe=":") for each in parts)))
