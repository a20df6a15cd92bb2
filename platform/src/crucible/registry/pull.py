"""Copying an artifact out of the store, for use without the platform."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from crucible.errors import UserError

if TYPE_CHECKING:
    from crucible.artifacts.store import Store

_CHUNK_BYTES = 8 << 20


def pull_artifact(store: Store, digest: str, folder: Path) -> None:
    """Write every file of the artifact to the new ``folder``; it appears when all are there.

    Bytes are verified as they are read.

    Raises:
        UserError: the folder exists and is not empty.
        ArtifactCorrupt: stored bytes differ from their digest; nothing is left behind.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder. Name a new one.")
    reader = store.reader(digest)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        for path in reader.paths():
            target = building / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with reader.open(path) as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
