"""From a path in a merge file to a folder of files.

In this order: the name of an input, a folder of this machine, an artifact, a model of the hub.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol
from urllib.parse import unquote, urlsplit

from crucible.artifacts import open_store
from crucible.errors import ArtifactError, Problem, UserError
from crucible.sdk.suggestion import did_you_mean
from crucible.sdk.types import Artifact
from crucible_components.merging.recipe.schema import ModelPath

Kind = Literal["input", "folder", "artifact", "hub"]

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ADDRESS_FIX = (
    "Write file:///STORE@sha256:DIGEST or s3://BUCKET/PREFIX@sha256:DIGEST; artifact:sha256:DIGEST "
    "means the store in CRUCIBLE_STORE."
)


class Folder(Protocol):
    """The part of `crucible.sdk.types.Artifact` that a source needs."""

    def paths(self) -> tuple[str, ...]: ...
    def open(self, path: str) -> BinaryIO: ...
    def read_json(self, path: str) -> Any: ...


@dataclass(frozen=True)
class LocalFolder:
    """The files right in a folder of this machine, links to files included, hidden ones not."""

    path: Path

    @cached_property
    def _names(self) -> tuple[str, ...]:
        found = (each for each in self.path.iterdir() if each.is_file())
        return tuple(sorted(each.name for each in found if not each.name.startswith(".")))

    def paths(self) -> tuple[str, ...]:
        return self._names

    def open(self, path: str) -> BinaryIO:
        return (self.path / path).open("rb")

    def read_json(self, path: str) -> Any:
        with self.open(path) as stream:
            return json.load(stream)


@dataclass(frozen=True)
class Located:
    """A folder and where it was found."""

    folder: Folder
    kind: Kind
    digest: str | None = None
    """Of the artifact, or the commit of a hub's model; None for folders, whose bytes may change."""
    hub_names: tuple[str, ...] = ()


def locate(
    path: ModelPath, lookup: Mapping[str, Folder], *, scratch_dir: Path | None = None
) -> Located:
    """The folder that ``path`` means.

    Args:
        path: as in the merge file.
        lookup: folders by name, such as the inputs of a step.
        scratch_dir: where an artifact's reader puts files, if asked for local ones.

    Raises:
        UserError: there is none; ``problems`` holds one entry.
    """
    if path.path in lookup:
        folder = lookup[path.path]
        digest = getattr(folder, "digest", None)
        return _unrevised(path, Located(folder, "input", digest))
    local = Path(path.path).expanduser()
    if local.is_dir():
        return _unrevised(path, Located(LocalFolder(local), "folder"))
    if path.path.startswith(("file:", "s3:", "artifact:")):
        return _artifact(path, scratch_dir)
    if _HUB_NAME.fullmatch(path.path):
        from crucible_components.hub.download import download

        snapshot = download(path.path, path.revision)
        return Located(LocalFolder(snapshot), "hub", f"commit:{snapshot.name}", (path.path,))
    fix = "Give a folder that exists, an artifact's address, or a hub name ORG/NAME."
    if lookup:
        fix = f"{did_you_mean(path.path, lookup)} {fix}"
    raise refusal(str(path), "no such folder or input.", fix)


def refusal(path: str, message: str, fix: str) -> UserError:
    """An error that carries one problem."""
    problem = Problem(path=path, message=message, fix=fix)
    return UserError(str(problem), [problem])


def _unrevised(path: ModelPath, located: Located) -> Located:
    if path.revision is None:
        return located
    message = f"has revision {path.revision!r}; only models of the hub have revisions."
    raise refusal(str(path), message, f"Write {path.path}.")


def _artifact(path: ModelPath, scratch_dir: Path | None) -> Located:
    store_uri, digest = path.path, path.revision or ""
    if store_uri.startswith("artifact:"):
        digest = store_uri.removeprefix("artifact:")
        store_uri = os.environ.get("CRUCIBLE_STORE", "")
        if not store_uri:
            raise refusal(str(path), "CRUCIBLE_STORE is not set.", _ADDRESS_FIX)
    elif not digest and (folder := _local_folder(store_uri)) is not None:
        return Located(LocalFolder(folder), "folder")
    if not _DIGEST.fullmatch(digest):
        missing = f"{digest!r} is not the digest of an artifact." if digest else "names no digest."
        raise refusal(str(path), missing, _ADDRESS_FIX)
    try:
        reader = open_store(store_uri).reader(digest, scratch_dir)
    except (UserError, ArtifactError) as cause:
        raise refusal(str(path), f"cannot be opened: {cause}", "") from cause
    return Located(Artifact(name=str(path), source=reader, digest=digest), "artifact", digest)


def _local_folder(uri: str) -> Path | None:
    """The folder of a ``file://`` address, if it is a model's."""
    if not uri.startswith("file:"):
        return None
    folder = Path(unquote(urlsplit(uri).path))
    return folder if (folder / "config.json").is_file() else None
