"""What a place that holds bytes must do, and how keys are laid out in it.

Two kinds of things are stored: *blobs*, large, immutable, named by the sha256 of their bytes, and
*documents*, small JSON replaced atomically. `FileBackend` and `S3Backend` implement `Backend`; all
that is above it (`Store`, `ArtifactReader`, `gc`) is written once, against this protocol.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from crucible.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound

GRACE_SECONDS = 3600.0
"""How long `gc` leaves fresh things alone; what writers on s3:// may rely on."""

BLOBS, MANIFESTS, CACHE, LEASES = "blobs/sha256/", "manifests/sha256/", "cache/", "runs/"
CHECKPOINTS = "checkpoints/"
"""Of steps in pods: files under keys of their own, removed by the step that ended."""


def blob_key(sha256: str) -> str:
    """Key of the blob with that hex digest."""
    return f"{BLOBS}{sha256[:2]}/{sha256}"


def manifest_key(sha256: str) -> str:
    """Key of the manifest with that hex digest."""
    return f"{MANIFESTS}{sha256[:2]}/{sha256}"


@dataclass(frozen=True)
class Blob:
    """Bytes that someone wants, and what to call them if they are not as they should be."""

    sha256: str
    size_bytes: int
    label: str
    """E.g. ``Model[causal-lm] of merge-models (sha256:…), file model.safetensors``."""

    def missing(self, place: str) -> ArtifactNotFound:
        return ArtifactNotFound(
            f"{self.label}: no bytes sha256:{self.sha256} at {place}. Submit the run again: "
            f"the step that wrote it runs again by itself."
        )

    def corrupt(self, place: str, found: str) -> ArtifactCorrupt:
        return ArtifactCorrupt(
            f"{self.label}: {place} is damaged: {found}, expected sha256:{self.sha256} of "
            f"{self.size_bytes} bytes. Remove {place} and submit the run again: the step that "
            f"wrote the file runs again by itself."
        )


@dataclass(frozen=True)
class HashedFile:
    """A local file whose bytes are known and which the store may take over."""

    source: Path
    sha256: str
    size_bytes: int
    mtime_ns: int
    """At the time of hashing: a later change means the digest is no longer true."""
    chunk_sha256s: tuple[str, ...] = ()
    """Per-chunk digests, where the backend asked for them."""

    def is_unchanged(self, status: os.stat_result) -> bool:
        """True if the file of that status is still as it was hashed."""
        return (status.st_size, status.st_mtime_ns) == (self.size_bytes, self.mtime_ns)

    def changed(self, label: str) -> ArtifactError:
        return ArtifactError(
            f"{label}: {self.source.name} changed while it was being stored. Close every file "
            "before the component's run returns."
        )


@dataclass(frozen=True)
class Document:
    """A small object and how long ago it was written, by the store's clock."""

    data: bytes
    age_seconds: float


@dataclass(frozen=True)
class Stored:
    """One object in a listing."""

    key: str
    size_bytes: int
    modified_at: float
    """Seconds since the epoch, by the store's clock."""


class Staging(Protocol):
    """A folder for one artifact being written, held against `gc` until released."""

    @property
    def folder(self) -> Path: ...

    def release(self) -> None:
        """Remove the folder and what is in it."""
        ...


class Sweep(Protocol):
    """The right to remove things, while held."""

    @property
    def started_at(self) -> float:
        """By the store's clock, in seconds since the epoch."""
        ...

    @property
    def writing(self) -> frozenset[str]:
        """Hex digests of blobs and manifests that writers are about to need."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove the objects of ``keys``."""
        ...

    def remove_remains(self, grace_seconds: float, *, dry_run: bool) -> tuple[int, int]:
        """Remove what dead writers left behind; returns count and bytes."""
        ...


class Backend(Protocol):
    """Holds blobs and documents. Every method raises only errors of `crucible.errors`."""

    uri: str

    def place(self, key: str) -> str:
        """Where an object is, for people: a path or a URI."""
        ...

    def stage(self, scratch_dir: Path | None) -> Staging: ...

    def hash_file(self, source: Path) -> HashedFile:
        """Digest ``source`` and get it ready for `put_blobs`. Safe to call from many threads."""
        ...

    def writing(self, digests: Collection[str]) -> AbstractContextManager[None]:
        """Keep blobs and manifests of these hex digests, present or not yet, from `gc`."""
        ...

    def put_blobs(self, files: Sequence[HashedFile], label: str) -> None:
        """Make every file's bytes durable under their digests; sources may be moved away."""
        ...

    def has_blobs(self, sizes: Mapping[str, int]) -> bool:
        """True if blobs of these digests and sizes are all stored; their bytes are not read."""
        ...

    def open_blob(self, blob: Blob) -> BinaryIO:
        """A seekable stream that yields verified bytes only."""
        ...

    def read_blob(self, blob: Blob, offset: int, length: int) -> bytes:
        """Verified bytes ``[offset, offset + length)``, fewer at the end."""
        ...

    def local_blob(self, blob: Blob, scratch_dir: Path) -> Path:
        """A verified, read-only local file: in place, or downloaded once into ``scratch_dir``."""
        ...

    def read(self, key: str) -> Document | None: ...

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Create or replace a document atomically.

        With ``durable=False`` a power failure may lose or empty it; its reader must notice.
        """
        ...

    def put_file(self, key: str, source: Path) -> None:
        """Store a large file under a key of its own, e.g. a part of a checkpoint.

        Durable when this returns. Nobody verifies it but its reader, who keeps the digest.
        """
        ...

    def get_file(self, key: str, size_bytes: int, target: Path) -> str:
        """Copy what `put_file` stored to a new local file; returns the sha256 of what came.

        Raises:
            ArtifactNotFound: nothing of that size is there.
        """
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove documents and files; those that are not there are ignored."""
        ...

    def listing(self, prefix: str) -> Iterator[Stored]:
        """Objects whose key starts with ``prefix``, a folder key ending in ``/``."""
        ...

    def sweeping(self) -> AbstractContextManager[Sweep]:
        """Entered when no writer can be surprised by a removal."""
        ...
