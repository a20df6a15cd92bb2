"""A plain folder as the files of an artifact: data outside of any store, notebooks, tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from crucible.errors import ArtifactNotFound


@dataclass(frozen=True)
class FolderBytes:
    """Implements `crucible.sdk.types.ArtifactBytes` on a folder; nothing is hashed or verified."""

    folder: Path

    def paths(self) -> tuple[str, ...]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return tuple(sorted(path.relative_to(self.folder).as_posix() for path in files))

    def open(self, path: str) -> BinaryIO:
        return self.local_path(path).open("rb")

    def local_path(self, path: str) -> Path:
        """The file itself.

        Raises:
            ArtifactNotFound: the folder has no such file.
        """
        file = self.folder / path
        if not file.is_file():
            raise ArtifactNotFound(f"{self.folder} has no file {path!r}.")
        return file

    def local_dir(self) -> Path:
        return self.folder

    def new_file(self, path: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
