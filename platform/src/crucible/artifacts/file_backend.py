"""A store in a folder: blobs are plain files, taken over by renaming and read in place.

One lock file orders writers and `gc`: whoever adds or needs something holds it shared for the few
renames that this takes, a sweep holds it alone. Staging folders carry a lock of their own for as
long as their writer lives; the kernel drops it when the process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from crucible.artifacts.backend import (
    CACHE,
    LEASES,
    MANIFESTS,
    Blob,
    Document,
    HashedFile,
    Stored,
    blob_key,
)
from crucible.artifacts.files import (
    is_temporary,
    storage_errors,
    sync_folder,
    walk_files,
    write_atomically,
)
from crucible.artifacts.verify import Stamps, hash_file, open_verified
from crucible.errors import ArtifactNotFound


class FileBackend:
    """Blobs and documents under ``root``. The folder is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = root.as_uri()
        self._stamps = Stamps(root / "stamps")

    def place(self, key: str) -> str:
        return str(self.root / key)

    def stage(self, scratch_dir: Path | None) -> FileStaging:
        """A staging folder on the store's own filesystem; ``scratch_dir`` is not needed here."""
        with self._lock(fcntl.LOCK_SH), storage_errors(self.root, "make a staging folder"):
            folder = self.root / "staging" / f"{os.getpid()}-{secrets.token_hex(6)}"
            folder.mkdir(parents=True)
            staging = FileStaging(folder, _locked(folder / "lock", fcntl.LOCK_EX))
            staging.folder.mkdir()
            return staging

    def hash_file(self, source: Path) -> HashedFile:
        with storage_errors(source, "hash and flush"):
            source.chmod(0o444)
            return hash_file(source, sync=True)

    @contextlib.contextmanager
    def writing(self, digests: Collection[str]) -> Iterator[None]:
        with self._lock(fcntl.LOCK_SH):
            yield

    def put_blobs(self, files: Sequence[HashedFile], label: str) -> None:
        with storage_errors(self.root, f"store {label}"):
            for folder in {self._put(file, label).parent for file in files}:
                sync_folder(folder)

    def has_blobs(self, sizes: Mapping[str, int]) -> bool:
        with storage_errors(self.root, "look for blobs"):
            with contextlib.suppress(FileNotFoundError):
                return all(self._blob_path(x).stat().st_size == size for x, size in sizes.items())
            return False

    def open_blob(self, blob: Blob) -> BinaryIO:
        with storage_errors(self.root, f"read {blob.label}"):
            return open_verified(self._blob_path(blob.sha256), blob, self._stamps)

    def read_blob(self, blob: Blob, offset: int, length: int) -> bytes:
        with self.open_blob(blob) as stream:
            stream.seek(offset)
            return stream.read(length)

    def local_blob(self, blob: Blob, scratch_dir: Path) -> Path:
        self.open_blob(blob).close()
        return self._blob_path(blob.sha256)

    def read(self, key: str) -> Document | None:
        with storage_errors(self.root, f"read {key}"):
            try:
                with (self.root / key).open("rb") as stream:
                    age_seconds = time.time() - os.fstat(stream.fileno()).st_mtime
                    return Document(stream.read(), age_seconds)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        path = self.root / key
        with self._lock(fcntl.LOCK_SH), storage_errors(self.root, f"write {key}"):
            self._make_folder(path.parent)
            write_atomically(path, data, durable=durable)

    def put_file(self, key: str, source: Path) -> None:
        target = self.root / key
        partial = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        with storage_errors(self.root, f"write {key}"):
            self._make_folder(target.parent)
            try:
                shutil.copyfile(source, partial)
                with partial.open("rb") as stream:
                    os.fsync(stream.fileno())
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
            sync_folder(target.parent)

    def get_file(self, key: str, size_bytes: int, target: Path) -> str:
        path = self.root / key
        if not path.is_file() or path.stat().st_size != size_bytes:
            raise ArtifactNotFound(f"{path}: not there with {size_bytes} bytes.")
        with storage_errors(target.parent, f"copy {key}"):
            shutil.copyfile(path, target)
            with target.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()

    def remove(self, keys: Sequence[str]) -> None:
        with storage_errors(self.root, "remove documents"):
            for key in keys:
                (self.root / key).unlink(missing_ok=True)

    def listing(self, prefix: str) -> Iterator[Stored]:
        with storage_errors(self.root, f"list {prefix}"):
            for path in walk_files(self.root / prefix):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    status = path.stat()
                    key = path.relative_to(self.root).as_posix()
                    if not is_temporary(path.name):
                        yield Stored(key, status.st_size, status.st_mtime)

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[FileSweep]:
        with self._lock(fcntl.LOCK_EX):
            yield FileSweep(self.root, self._stamps, started_at=time.time())

    def _blob_path(self, sha256: str) -> Path:
        return self.root / blob_key(sha256)

    def _put(self, file: HashedFile, label: str) -> Path:
        target = self._blob_path(file.sha256)
        with contextlib.suppress(FileNotFoundError):
            status = target.stat()
            # A blob that is not known to be right is replaced: that heals a damaged store.
            if status.st_size == file.size_bytes and self._stamps.holds(file.sha256, status):
                file.source.unlink()
                return target
        self._make_folder(target.parent)
        with file.source.open("rb") as stream:
            if not file.is_unchanged(os.fstat(stream.fileno())):
                raise file.changed(label)
            os.replace(file.source, target)
            # Asked of the open file: the name may stand for another writer's equal bytes by now.
            if file.is_unchanged(status := os.fstat(stream.fileno())):
                self._stamps.save(file.sha256, status)
        return target

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)

    @contextlib.contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        with storage_errors(self.root, "open the store"):
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(self.root / "gc.lock", kind)
        try:
            yield
        finally:
            _unlock(descriptor)


@dataclass
class FileStaging:
    """A staging folder and the lock that tells `gc` its writer is alive."""

    root: Path
    lock: int

    @property
    def folder(self) -> Path:
        return self.root / "files"

    def release(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        _unlock(self.lock)


@dataclass(frozen=True)
class FileSweep:
    """Removal under the exclusive lock: no commit is under way while it is held."""

    root: Path
    stamps: Stamps
    started_at: float
    writing: frozenset[str] = frozenset()

    def remove(self, keys: Sequence[str]) -> None:
        with storage_errors(self.root, "remove what nothing reaches"):
            for key in keys:
                (self.root / key).unlink(missing_ok=True)
                self.stamps.drop(key.rpartition("/")[2])

    def remove_remains(self, grace_seconds: float, *, dry_run: bool) -> tuple[int, int]:
        with storage_errors(self.root, "remove what dead writers left"):
            folders = [path for path in self._staging() if not _is_locked(path / "lock")]
            files = list(self._temporaries())
            size_bytes = _bytes_of(itertools.chain(files, *map(walk_files, folders)))
            if not dry_run:
                for folder in folders:  # its writer may be removing it too
                    shutil.rmtree(folder, ignore_errors=True)
                for file in files:
                    file.unlink(missing_ok=True)
        return len(folders) + len(files), size_bytes

    def _staging(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):  # nothing was ever written here
            yield from (self.root / "staging").iterdir()

    def _temporaries(self) -> Iterator[Path]:
        for prefix in (MANIFESTS, CACHE, LEASES):
            files = walk_files(self.root / prefix)
            yield from (file for file in files if is_temporary(file.name))


def _locked(path: Path, kind: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone leaves it to children forked meanwhile
    os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _bytes_of(files: Iterable[Path]) -> int:
    size_bytes = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # its writer removed it meanwhile
            size_bytes += file.lstat().st_size
    return size_bytes
