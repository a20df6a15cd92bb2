"""An artifact being read: verified files in place, as streams or as ranges."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from crucible.artifacts.backend import Backend, Blob
from crucible.artifacts.files import storage_errors
from crucible.artifacts.manifest import Manifest
from crucible.errors import ArtifactError


class ArtifactReader:
    """Reads one artifact. Bytes that differ from the manifest raise `ArtifactCorrupt`.

    Made by `Store.reader`. Safe to share between threads.
    """

    def __init__(self, backend: Backend, manifest: Manifest, scratch_dir: Path | None) -> None:
        self._backend = backend
        self._scratch_dir = scratch_dir
        self.manifest = manifest
        self.digest = manifest.digest

    def paths(self) -> tuple[str, ...]:
        """Relative POSIX paths of the files, sorted."""
        return tuple(entry.path for entry in self.manifest.files)

    def open(self, path: str) -> BinaryIO:
        """A seekable stream: the blob itself on file://, ranged reads on s3://."""
        return self._backend.open_blob(self._blob(path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Bytes ``[offset, offset + length)`` of one file, fewer where it ends before."""
        return self._backend.read_blob(self._blob(path), offset, length)

    def local_path(self, path: str) -> Path:
        """A read-only local file for memory mapping: the blob itself on file://.

        On s3:// it is downloaded once into the scratch folder.
        """
        return self._backend.local_blob(self._blob(path), self._scratch("blobs"))

    def local_dir(self) -> Path:
        """A folder that shows every file under its name, made of links to `local_path`."""
        folder = self._scratch("artifacts") / self.digest.removeprefix("sha256:")
        links = {entry.path: self.local_path(entry.path) for entry in self.manifest.files}
        if not folder.is_dir():
            with storage_errors(folder, f"link the files of {self.manifest.label}"):
                _link_all(folder, links)
        return folder

    def new_file(self, path: str) -> Path:
        raise ArtifactError(
            f"{self.manifest.label} ({self.digest}) is an input and cannot be written. "
            "Write to an output of the step."
        )

    def _blob(self, path: str) -> Blob:
        entry = self.manifest.file(path)
        label = f"{self.manifest.label} ({self.digest}), file {path}"
        return Blob(entry.sha256, entry.size_bytes, label)

    def _scratch(self, name: str) -> Path:
        if self._scratch_dir is None:
            raise ArtifactError(
                f"{self.manifest.label} ({self.digest}) was opened without a scratch folder. "
                "Give Store.reader a scratch_dir to get local files."
            )
        folder = self._scratch_dir.resolve() / name
        with storage_errors(folder, "make a scratch folder"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder


def _link_all(folder: Path, links: Mapping[str, Path]) -> None:
    """Make ``folder`` with links to files; it appears whole or, if another was quicker, not."""
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    for path, target in links.items():
        link = building / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    try:
        os.rename(building, folder)
    except OSError:
        shutil.rmtree(building)
        if not folder.is_dir():
            raise
