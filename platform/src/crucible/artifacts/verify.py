"""Hashing of local files, and stamps that make verifying a file once enough.

A stamp says: the blob with this inode, size, modification and change time was hashed and was right.
Writing to a file, replacing or truncating it changes one of them, so a stale stamp costs one more
hashing and never trust. What a stamp cannot see is bits that rot under the filesystem, and a write
within one tick of the kernel's clock after stamping.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from crucible.artifacts.backend import Blob, HashedFile
from crucible.artifacts.chunks import chunk_digests
from crucible.artifacts.files import write_atomically

logger = logging.getLogger(__name__)

BUFFER_BYTES = 1 << 20


class Stamps:
    """Verification stamps of a folder of blobs. Losing any of them is harmless."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def holds(self, sha256: str, status: os.stat_result) -> bool:
        """True if the file of that status was verified to be ``sha256``."""
        try:
            return self.path(sha256).read_bytes() == _stamp(status)
        except OSError:
            return False

    def save(self, sha256: str, status: os.stat_result) -> None:
        """Record that the file of that status is ``sha256``."""
        path = self.path(sha256)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _stamp(status), durable=False)
        except OSError as error:  # read-only or full store: it is verified again next time
            logger.debug("no verification stamp for %s: %s", sha256, error)

    def drop(self, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # never stamped
            self.path(sha256).unlink()


def open_verified(path: Path, blob: Blob, stamps: Stamps) -> BinaryIO:
    """``path`` opened for reading, its bytes known to be ``blob``.

    Raises:
        ArtifactNotFound: no such file.
        ArtifactCorrupt: other size or other bytes.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise blob.missing(str(path)) from None
    try:
        status = os.fstat(stream.fileno())
        if status.st_size != blob.size_bytes:
            raise blob.corrupt(str(path), f"it has {status.st_size} bytes")
        if not stamps.holds(blob.sha256, status):
            found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != blob.sha256:
                raise blob.corrupt(str(path), f"its bytes are sha256:{found}")
            if _stamp(os.fstat(stream.fileno())) == _stamp(status):
                stamps.save(blob.sha256, status)
            stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def hash_file(source: Path, *, sync: bool = False, chunk_bytes: int | None = None) -> HashedFile:
    """Digest ``source``; with ``sync`` its bytes reach the disk meanwhile.

    Large files are flushed and their chunks hashed in threads beside the hashing of the whole: one
    costs disk time, the others processor time outside the interpreter's lock.
    """
    with source.open("rb", buffering=0) as stream, ThreadPoolExecutor(2, "hash") as pool:
        status = os.fstat(stream.fileno())
        is_large = status.st_size > BUFFER_BYTES
        flushed = pool.submit(os.fsync, stream.fileno()) if sync and is_large else None
        chunks = None
        if chunk_bytes is not None and status.st_size > chunk_bytes:
            chunks = pool.submit(chunk_digests, source, chunk_bytes)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if flushed is not None:
            flushed.result()
        elif sync:
            os.fsync(stream.fileno())
        chunk_sha256s = chunks.result() if chunks is not None else ()
    return HashedFile(source, sha256, status.st_size, status.st_mtime_ns, chunk_sha256s)


def _stamp(status: os.stat_result) -> bytes:
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode()
