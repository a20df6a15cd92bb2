"""Checkpoints of one step in a folder: whole and verified, or not there.

A checkpoint is written under a temporary name, every file is digested and synced, the record of
digests is written last, then the folder is renamed. So after ``kill -9`` or a power cut at any
point a folder with a final name is complete, and a temporary one is rubbish. ``latest`` still
checks every digest, since disks and people alter files, and falls back to the checkpoint before.

Names are ``<serial>-at-<position>``: the newest save wins, whatever its position, and saving a
position again never touches the older copy. A process holds a lock on the folder it uses; a second
run of the same fingerprint at the same time works in a folder of its own beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from crucible.artifacts.files import sync_folder, write_atomically

logger = logging.getLogger(__name__)

_RECORD = "checkpoint.json"
_FILES = "files"
_LOCK = "lock"
_WORKSPACE = "workspace"
_NAME = re.compile(r"(\d{8})-at-(\d+)")
_TEMPORARY = ".tmp-"


class FolderCheckpoints:
    """Implements `crucible.sdk.context.CheckpointStore`.

    Args:
        folder: belongs to one step fingerprint; made when first needed.
        keep_older: how many checkpoints before the newest to keep.
    """

    def __init__(self, folder: Path, *, keep_older: int = 1) -> None:
        self._wanted = folder
        self._keep_older = keep_older
        self._claimed: Path | None = None
        self._lock_descriptor = -1

    @contextlib.contextmanager
    def save(self, position: int) -> Iterator[Path]:
        """A folder to write into; durable and visible when the block ends, gone if it raises."""
        self._remove_temporaries()
        existing = self._names()
        serial = int(existing[-1].partition("-")[0]) + 1 if existing else 0
        temporary = self._folder / f"{_TEMPORARY}{os.getpid()}"
        files_dir = temporary / _FILES
        files_dir.mkdir(parents=True)
        try:
            yield files_dir
            record = {"position": position, "files": _sync_and_digest(files_dir)}
            write_atomically(temporary / _RECORD, json.dumps(record, indent=1).encode())
            temporary.rename(self._folder / f"{serial:08d}-at-{position}")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(self._folder)
        for name in existing[: max(0, len(existing) - self._keep_older)]:
            self._remove(name)

    def latest(self) -> tuple[int, Path] | None:
        """Position and folder of the newest checkpoint whose digests hold, or None."""
        for name in reversed(self._names()):
            checkpoint_dir = self._folder / name
            fault = _fault(checkpoint_dir)
            if fault is None:
                return int(name.rpartition("-")[2]), checkpoint_dir / _FILES
            logger.warning("checkpoint %s is not used: %s", checkpoint_dir, fault)
        return None

    def workspace(self) -> Path:
        """A folder beside the checkpoints; it goes with them."""
        folder = self._folder / _WORKSPACE
        folder.mkdir(exist_ok=True)
        return folder

    def clear(self) -> None:
        """Remove all checkpoints: the step has ended well."""
        if self._claimed is not None or self._wanted.is_dir():
            shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let another process use the folder."""
        if self._claimed is not None:
            os.close(self._lock_descriptor)
            self._claimed = None

    @property
    def _folder(self) -> Path:
        if self._claimed is None:
            self._claimed, self._lock_descriptor = _claim(self._wanted)
        return self._claimed

    def _names(self) -> list[str]:
        return sorted(entry for entry in os.listdir(self._folder) if _NAME.fullmatch(entry))

    def _remove(self, name: str) -> None:
        """Hide first: a kill in the middle must not leave half a checkpoint under a final name."""
        hidden = self._folder / f"{_TEMPORARY}{name}"
        (self._folder / name).rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _remove_temporaries(self) -> None:
        for path in self._folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


def _claim(wanted: Path) -> tuple[Path, int]:
    """The first of ``wanted``, ``wanted.1``, … that no process holds, and the lock on it."""
    for count in itertools.count():
        folder = wanted.with_name(f"{wanted.name}.{count}") if count else wanted
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        # Suppressed: another process holds it, or has just cleared the folder.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / _LOCK)):
                return folder, descriptor
        os.close(descriptor)
    raise AssertionError("count() never ends")


def _sync_and_digest(files_dir: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    for folder, _, names in os.walk(files_dir, topdown=False):
        for name in names:
            path = Path(folder, name)
            with path.open("rb") as stream:
                digests[path.relative_to(files_dir).as_posix()] = hashlib.file_digest(
                    stream, "sha256"
                ).hexdigest()
                os.fsync(stream.fileno())
        sync_folder(Path(folder))
    return dict(sorted(digests.items()))


def _fault(checkpoint_dir: Path) -> str | None:
    """Why the checkpoint must not be used, or None."""
    try:
        record = json.loads((checkpoint_dir / _RECORD).read_bytes())
        for path, expected in record["files"].items():
            with (checkpoint_dir / _FILES / path).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
                    return f"{path} was altered"
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{_RECORD} cannot be read: {error}"
    return None
