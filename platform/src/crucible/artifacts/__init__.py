"""Artifacts: manifests over content-addressed bytes, in a folder or a bucket."""

from crucible.artifacts.cache import CacheEntry
from crucible.artifacts.draft import Draft
from crucible.artifacts.manifest import ArtifactRef, FileEntry, Manifest
from crucible.artifacts.reader import ArtifactReader
from crucible.artifacts.store import Store, open_store
from crucible.artifacts.sweep import gc
from crucible.artifacts.tree import tree_digest

__all__ = [
    "ArtifactReader",
    "ArtifactRef",
    "CacheEntry",
    "Draft",
    "FileEntry",
    "Manifest",
    "Store",
    "gc",
    "open_store",
    "tree_digest",
]
