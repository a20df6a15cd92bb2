"""Chunk digests: what lets a part of a large object be verified without reading the rest.

A blob above one chunk is stored with a sidecar that lists the sha256 of each chunk. The sidecar
carries a checksum of its own and the blob's digest, so a damaged or foreign one is noticed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from crucible.artifacts.manifest import canonical_json

CHUNK_BYTES = 4 << 20
MAX_READAHEAD_CHUNKS = 8

_SCHEMA = "crucible.chunks/v1"


@dataclass(frozen=True)
class ChunkList:
    """The chunk digests of one blob."""

    blob: str
    size_bytes: int
    chunk_sha256s: tuple[str, ...]
    chunk_bytes: int
    etag: str
    """The stored object's ETag when it was written; another one now means other bytes."""
    schema: str = _SCHEMA

    def to_json(self) -> bytes:
        body = asdict(self)
        return canonical_json({**body, "sha256": _checksum(body)})

    @classmethod
    def from_json(cls, data: bytes) -> ChunkList:
        """Parse and check.

        Raises:
            ValueError: damaged.
        """
        body = json.loads(data)
        if not isinstance(body, dict) or body.pop("sha256", None) != _checksum(body):
            raise ValueError("checksum differs")
        if body.get("schema") != _SCHEMA:
            raise ValueError(f"unknown schema {body.get('schema')!r}")
        chunk_list = cls(**{**body, "chunk_sha256s": tuple(body["chunk_sha256s"])})
        if len(chunk_list.chunk_sha256s) != -(-chunk_list.size_bytes // chunk_list.chunk_bytes):
            raise ValueError("not one digest for each chunk")
        return chunk_list

    def aligned(self, offset: int, length: int) -> tuple[int, int]:
        """The smallest whole-chunk range ``(start, length)`` that covers the given one."""
        start = offset - offset % self.chunk_bytes
        end = min(self.size_bytes, offset + length)
        end = min(self.size_bytes, end + -end % self.chunk_bytes)
        return start, end - start

    def check(self, start: int, data: bytes | memoryview) -> str | None:
        """What is wrong with whole chunks ``data`` that begin at ``start``, or None."""
        view = memoryview(data)
        for at in range(0, len(view), self.chunk_bytes):
            index = (start + at) // self.chunk_bytes
            found = hashlib.sha256(view[at : at + self.chunk_bytes]).hexdigest()
            if found != self.chunk_sha256s[index]:
                return f"bytes from {start + at} on are sha256:{found}"
        return None


def chunk_digests(source: Path, chunk_bytes: int) -> tuple[str, ...]:
    """The sha256 of each chunk of a local file."""
    with source.open("rb") as stream:
        chunks = iter(functools.partial(stream.read, chunk_bytes), b"")
        return tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks)


class RangedStream(io.RawIOBase):
    """A seekable stream over ranged reads, which ``fetch(offset, length)`` does and verifies.

    Fetches whole chunks, and the more of them at once the longer it is read in sequence.
    """

    def __init__(
        self, size_bytes: int, fetch: Callable[[int, int], bytes], chunk_bytes: int
    ) -> None:
        self._chunk_bytes = chunk_bytes
        self._max_fetch_bytes = MAX_READAHEAD_CHUNKS * chunk_bytes
        self._size_bytes = size_bytes
        self._fetch = fetch
        self._position = 0
        self._window = b""
        self._window_start = 0
        self._readahead_bytes = chunk_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        if whence not in base:
            raise ValueError(f"whence={whence}: must be 0, 1 or 2")
        if base[whence] + offset < 0:
            raise ValueError(f"offset={offset}: must not lead before the start")
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the start of ``buffer``; returns how many bytes, 0 at the end."""
        if self._position >= self._size_bytes or not len(buffer):
            return 0
        at = self._position - self._window_start
        if not 0 <= at < len(self._window):
            self._load(len(buffer))
            at = self._position - self._window_start
        part = memoryview(self._window)[at : at + len(buffer)]
        memoryview(buffer).cast("B")[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _load(self, wanted_bytes: int) -> None:
        is_sequential = self._window and self._position == self._window_start + len(self._window)
        grown = self._readahead_bytes * 2 if is_sequential else self._chunk_bytes
        self._readahead_bytes = min(grown, self._max_fetch_bytes)
        length = max(self._readahead_bytes, min(wanted_bytes, self._max_fetch_bytes))
        start = self._position - self._position % self._chunk_bytes
        self._window = b""
        self._window = self._fetch(start, length)
        self._window_start = start


def _checksum(body: dict[str, object]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()
