"""Durable, atomic file writes, shared by everything that stores documents on a local disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from crucible.errors import CrucibleError, StoreFull, StoreUnavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` by ``data``: temporary name beside it, fsync, rename, fsync of the folder.

    A reader sees the old bytes or the new ones. With ``durable=False`` nothing is synced: for
    documents that may be lost in a crash because whoever reads them checks them.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``; safe beside writes elsewhere in the same file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def walk_files(folder: Path) -> Iterator[Path]:
    """Everything under ``folder`` that is not a folder, in no order; nothing if it is missing.

    Links to folders come along, unfollowed.

    Raises:
        OSError: a folder cannot be listed. What is not seen must not pass for absent.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                yield from walk_files(Path(entry.path))
            else:
                yield Path(entry.path)


def sha256_of(path: Path) -> str:
    """Hex digits of the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_temporary(name: str) -> bool:
    """True for the names that `write_atomically` uses until it renames."""
    return name.startswith(".") and name.endswith(".tmp")


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage_errors(place: Path, action: str) -> Iterator[None]:
    """Give errors of the operating system a type: `StoreFull` or `StoreUnavailable`."""
    try:
        yield
    except CrucibleError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(
                f"cannot {action}: no space left at {place} ({error.strerror}). Free space there, "
                "run `platformctl artifacts gc`, or set CRUCIBLE_STORE to a larger place."
            ) from error
        raise StoreUnavailable(
            f"cannot {action} at {place}: {error}. Check that the folder is mounted and that "
            "this user may use it."
        ) from error
