"""Checkpoints of one step in the artifact store: they survive the pod and its node.

A checkpoint is written to a local folder, digested and uploaded; its record of digests is uploaded
last, so that a checkpoint without a record is rubbish and one with a record is whole. ``latest``
still checks every digest after the download and falls back to the checkpoint before.

Keys are ``checkpoints/<fingerprint>/<run>/<serial>-at-<position>/``: a run writes and tidies up
under its own name only, so that two runs of one step at the same time cannot tear each other's
checkpoints apart, and reads the newest of all runs. They are plain objects, not blobs of the store:
a week of training writes hundreds, and each must be gone when the one after the next is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible.artifacts.backend import CHECKPOINTS, Backend
from crucible.artifacts.files import sha256_of, walk_files
from crucible.artifacts.manifest import path_problem
from crucible.errors import ArtifactError, ArtifactNotFound, TemporaryError

logger = logging.getLogger(__name__)

STORE_CHECKPOINTS = "store"
"""Value of ``CRUCIBLE_CHECKPOINTS``: they go where the artifacts go."""
_RECORD = "checkpoint.json"
_NAME = re.compile(r"([^/]+)/(\d{8})-at-(\d+)/checkpoint\.json\Z")
_FILES_AT_ONCE = 4


@dataclass(frozen=True)
class _Saved:
    """A checkpoint whose record is there."""

    prefix: str
    run_id: str
    serial: int
    position: int
    modified_at: float


class StoreCheckpoints:
    """Implements `crucible.sdk.context.CheckpointStore`.

    Args:
        backend: of the artifact store.
        fingerprint: of the step, ``sha256:<hex>``.
        run_id: the run that writes.
        scratch_dir: where checkpoints are written to and downloaded to.
        keep_older: how many checkpoints before the newest to keep.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        fingerprint: str,
        run_id: str,
        scratch_dir: Path,
        keep_older: int = 1,
    ) -> None:
        self._backend = backend
        self._root = f"{CHECKPOINTS}{fingerprint.removeprefix('sha256:')}/"
        self._own = f"{self._root}{run_id}/"
        self._run_id = run_id
        self._scratch_dir = scratch_dir / "checkpoints"
        self._keep_older = keep_older

    @contextlib.contextmanager
    def save(self, position: int) -> Iterator[Path]:
        """A folder to write into; durable and visible when the block ends, gone if it raises."""
        own = [saved for saved in self._saved() if saved.run_id == self._run_id]
        serial = max((saved.serial for saved in own), default=-1) + 1
        folder = self._scratch_dir / f"save-{serial}"
        folder.mkdir(parents=True)
        try:
            yield folder
            self._upload(folder, f"{self._own}{serial:08d}-at-{position}/", position)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        older = sorted(own, key=lambda saved: saved.serial, reverse=True)[self._keep_older :]
        for saved in older:
            with contextlib.suppress(TemporaryError):  # the next save tries again
                self._remove(saved.prefix)

    def workspace(self) -> None:
        """There is none: a pod's successor may run elsewhere."""
        return

    def latest(self) -> tuple[int, Path] | None:
        """Position and folder of the newest checkpoint whose digests hold, or None.

        Raises:
            StoreUnavailable: the store does not answer. Work must not start over because of it.
        """
        for saved in sorted(self._saved(), key=_newest_first):
            folder = self._scratch_dir / f"load-{saved.run_id}-{saved.serial}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                self._download(saved, folder)
            except TemporaryError:
                raise
            except (ArtifactError, ValueError, KeyError, TypeError) as error:
                logger.warning("checkpoint %s is not used: %s", saved.prefix, error)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            return saved.position, folder
        return None

    def clear(self) -> None:
        """Remove all checkpoints of the step: it has ended well."""
        self._remove(self._root)
        self.close()

    def close(self) -> None:
        """Remove what was downloaded."""
        shutil.rmtree(self._scratch_dir, ignore_errors=True)

    def _saved(self) -> list[_Saved]:
        found = []
        for item in self._backend.listing(self._root):
            match = _NAME.match(item.key.removeprefix(self._root))
            if match:
                prefix = item.key.removesuffix(_RECORD)
                run_id, serial, position = match.groups()
                found.append(_Saved(prefix, run_id, int(serial), int(position), item.modified_at))
        return found

    def _upload(self, folder: Path, prefix: str, position: int) -> None:
        paths = {path.relative_to(folder).as_posix(): path for path in walk_files(folder)}
        with ThreadPoolExecutor(_FILES_AT_ONCE, "checkpoint") as pool:
            digests = dict(zip(paths, pool.map(sha256_of, paths.values()), strict=True))
            sent = [pool.submit(self._backend.put_file, prefix + n, p) for n, p in paths.items()]
        for future in sent:
            future.result()
        files = {
            name: {"sha256": digests[name], "size_bytes": path.stat().st_size}
            for name, path in paths.items()
        }
        record = {"position": position, "files": files}
        self._backend.write(f"{prefix}{_RECORD}", json.dumps(record, indent=1).encode())

    def _download(self, saved: _Saved, folder: Path) -> None:
        document = self._backend.read(f"{saved.prefix}{_RECORD}")
        if document is None:
            raise ArtifactNotFound("it was removed")
        files: Mapping[str, Any] = json.loads(document.data)["files"]
        if wrong := [name for name in files if path_problem(name)]:
            raise ValueError(f"its record names {wrong[0]!r}")
        folder.mkdir(parents=True)

        def fetch(name: str) -> None:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            size_bytes = int(files[name]["size_bytes"])
            found = self._backend.get_file(f"{saved.prefix}{name}", size_bytes, target)
            if found != files[name]["sha256"]:
                raise ValueError(f"{name} was altered")

        with ThreadPoolExecutor(_FILES_AT_ONCE, "checkpoint") as pool:
            list(pool.map(fetch, files))

    def _remove(self, prefix: str) -> None:
        """The record first: a kill in the middle must not leave half a checkpoint with one."""
        keys = [item.key for item in self._backend.listing(prefix)]
        records = [key for key in keys if key.endswith(f"/{_RECORD}")]
        self._backend.remove(records)
        self._backend.remove([key for key in keys if key not in records])


def _newest_first(saved: _Saved) -> tuple[float, int]:
    return -saved.modified_at, -saved.serial
