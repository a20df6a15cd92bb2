"""An artifact being written: a staging folder that becomes blobs and a manifest at once."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from crucible.artifacts.backend import Backend, HashedFile
from crucible.artifacts.files import storage_errors, walk_files
from crucible.artifacts.manifest import (
    ArtifactRef,
    FileEntry,
    Manifest,
    MetadataValue,
    path_problem,
)
from crucible.artifacts.tree import tree_files
from crucible.errors import ArtifactError, UserError

Publish = Callable[[Manifest, tuple[HashedFile, ...]], ArtifactRef]

_HASH_THREADS = min(4, os.cpu_count() or 1)


class Draft:
    """Where one artifact is written. Every file under `folder` belongs to it when it is committed.

    Made by `Store.draft`. As a context manager it abandons what was not committed.
    """

    def __init__(self, backend: Backend, publish: Publish, scratch_dir: Path | None) -> None:
        self._backend = backend
        self._publish = publish
        self._staging = backend.stage(scratch_dir)
        self._announced: set[str] = set()
        self._is_open = True

    @property
    def folder(self) -> Path:
        """The staging folder itself, for writers that fill folders (``save_pretrained``)."""
        return self._staging.folder

    @property
    def is_empty(self) -> bool:
        """True if nothing was written yet."""
        return next(walk_files(self.folder), None) is None

    def new_file(self, path: str) -> Path:
        """Where to write file ``path``; its parent folder exists.

        Raises:
            UserError: not a relative POSIX path inside the artifact.
            ArtifactError: the draft was committed or abandoned.
        """
        self._check_open()
        if rule := path_problem(path):
            raise UserError(f"artifact file {path!r}: {rule}.")
        target = self.folder / path
        with storage_errors(self.folder, f"make a folder for {path}"):
            target.parent.mkdir(parents=True, exist_ok=True)
        self._announced.add(path)
        return target

    def commit(
        self,
        *,
        type: str,
        variant: str = "any",
        metadata: Mapping[str, MetadataValue] | None = None,
        producer: Mapping[str, str] | None = None,
        parents: Iterable[str] = (),
    ) -> ArtifactRef:
        """Store all files and the manifest that names them; the draft is closed, even on error.

        Raises:
            ArtifactError: there is no file, or an announced one is missing.
            UserError: a file cannot be stored (a pipe, a link to a folder), or metadata, producer
                or parents break the manifest's rules.
            StoreFull, StoreUnavailable: as they say.
        """
        self._check_open()
        try:
            hashed = self._hash_all()
            manifest = Manifest(
                type=type,
                variant=variant,
                files=tuple(FileEntry(p, h.sha256, h.size_bytes) for p, h in hashed.items()),
                metadata=dict(metadata or {}),
                producer=dict(producer or {}),
                parents=tuple(parents),
            )
            return self._publish(manifest, tuple(hashed.values()))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what was written. Nothing happens if the draft is closed already."""
        if self._is_open:
            self._is_open = False
            self._staging.release()

    def paths(self) -> tuple[str, ...]:
        raise self._write_only()

    def open(self, path: str) -> BinaryIO:
        raise self._write_only()

    def local_path(self, path: str) -> Path:
        raise self._write_only()

    def local_dir(self) -> Path:
        raise self._write_only()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def _hash_all(self) -> dict[str, HashedFile]:
        if self.is_empty:
            raise ArtifactError("nothing was written to this artifact. Write at least one file.")
        files = tree_files(self.folder)
        if missing := sorted(self._announced - files.keys()):
            raise ArtifactError(
                f"new_file was called for {', '.join(missing)} but no such file was written. "
                "Write it, or do not announce it."
            )
        for file in files.values():
            if file.is_symlink() or file.stat().st_nlink > 1:
                _own_copy(file)
        with ThreadPoolExecutor(_HASH_THREADS, "hash") as pool:
            return dict(zip(files, pool.map(self._backend.hash_file, files.values()), strict=True))

    def _check_open(self) -> None:
        if not self._is_open:
            raise ArtifactError("this artifact was committed or abandoned. Take a new draft.")

    def _write_only(self) -> ArtifactError:
        return ArtifactError(
            "an output cannot be read while it is written. Keep what you need in variables, or "
            "read the path that new_file returned."
        )


def _own_copy(file: Path) -> None:
    """Replace a link by a copy: whoever owns the other name may edit it later."""
    copy = file.with_name(f".{secrets.token_hex(8)}.copy")
    with storage_errors(file, "copy what a link in a draft leads to"):
        shutil.copyfile(file, copy)
        os.replace(copy, file)
