"""A store in a bucket: verified ranged reads, beacons instead of locks."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from crucible.artifacts import beacon
from crucible.artifacts.backend import BLOBS, Blob, Document, HashedFile, Stored, blob_key
from crucible.artifacts.chunks import CHUNK_BYTES, ChunkList, RangedStream
from crucible.artifacts.files import storage_errors, write_at
from crucible.artifacts.manifest import canonical_json
from crucible.artifacts.s3_client import PATIENCE, Patience, S3Client, SizeDiffers
from crucible.artifacts.verify import Stamps, hash_file, open_verified
from crucible.errors import ArtifactNotFound

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNKS = "chunks/"
_PARALLEL_REQUESTS = 8
_REMOVE_BATCH = 500
_MAX_CHUNK_LISTS = 256
_SPAN_BYTES = 8 << 20
_SPANS_AT_ONCE = 3


class S3Backend:
    """Blobs and documents under ``s3://bucket/prefix``."""

    def __init__(self, client: S3Client, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.uri = client.uri
        self._client = client
        self._chunk_bytes = chunk_bytes
        self._chunk_lists: dict[str, ChunkList] = {}

    @classmethod
    def connect(
        cls,
        bucket: str,
        prefix: str,
        environ: Mapping[str, str] = os.environ,
        patience: Patience = PATIENCE,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> S3Backend:
        """A backend for an existing bucket; errors as `S3Client.connect`."""
        return cls(S3Client.connect(bucket, prefix, environ, patience), chunk_bytes)

    def place(self, key: str) -> str:
        return self._client.place(key)

    def stage(self, scratch_dir: Path | None) -> S3Staging:
        with storage_errors(scratch_dir or Path(tempfile.gettempdir()), "make a staging folder"):
            if scratch_dir is not None:
                scratch_dir.mkdir(parents=True, exist_ok=True)
            staging = S3Staging(Path(tempfile.mkdtemp(prefix="draft-", dir=scratch_dir)))
            staging.folder.mkdir()
            return staging

    def hash_file(self, source: Path) -> HashedFile:
        with storage_errors(source, "hash"):
            return hash_file(source, chunk_bytes=self._chunk_bytes)

    @contextlib.contextmanager
    def writing(self, digests: Collection[str]) -> Iterator[None]:
        body = canonical_json({"digests": sorted(digests)})
        with beacon.Beacon(self._client, beacon.WRITERS, body) as lit:
            beacon.wait_for_sweeps(self._client, lit.lit_at)
            yield
            lit.check()

    def put_blobs(self, files: Sequence[HashedFile], label: str) -> None:
        _each(lambda file: self._put(file, label), [f for f in files if not self._is_large(f)])
        for file in filter(self._is_large, files):  # its parts go side by side already
            self._put(file, label)

    def has_blobs(self, sizes: Mapping[str, int]) -> bool:
        def is_there(sha256: str) -> bool:
            status = self._client.head(blob_key(sha256))
            return status is not None and status.size_bytes == sizes[sha256]

        return all(_each(is_there, sizes))

    def open_blob(self, blob: Blob) -> BinaryIO:
        if not self._is_large(blob):
            return io.BytesIO(self._whole(blob))
        chunk_bytes = self._chunk_list(blob).chunk_bytes

        def fetch(offset: int, length: int) -> bytes:
            return self.read_blob(blob, offset, length)

        return io.BufferedReader(RangedStream(blob.size_bytes, fetch, chunk_bytes), chunk_bytes)

    def read_blob(self, blob: Blob, offset: int, length: int) -> bytes:
        length = max(0, min(length, blob.size_bytes - offset))
        if not self._is_large(blob):
            return self._whole(blob)[offset : offset + length]
        chunk_list = self._chunk_list(blob)
        start, covered = chunk_list.aligned(offset, length)
        data = self._range(blob, start, covered)
        if wrong := chunk_list.check(start, data):
            raise blob.corrupt(self.place(blob_key(blob.sha256)), wrong)
        return data if covered == length else data[offset - start : offset - start + length]

    def local_blob(self, blob: Blob, scratch_dir: Path) -> Path:
        target = scratch_dir / blob.sha256
        stamps = Stamps(scratch_dir / "stamps")
        with storage_errors(scratch_dir, f"download {blob.label}"):
            if target.exists():
                open_verified(target, blob, stamps).close()
            else:
                stamps.save(blob.sha256, self._download(blob, target))
        return target

    def read(self, key: str) -> Document | None:
        return self._client.get(key)

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        self._client.put(key, data)

    def put_file(self, key: str, source: Path) -> None:
        self._client.upload(key, source, source.stat().st_size)

    def get_file(self, key: str, size_bytes: int, target: Path) -> str:
        def fetch(offset: int, length: int) -> bytes:
            try:
                return self._client.get_range(key, offset, length, size_bytes)
            except (FileNotFoundError, SizeDiffers) as error:
                raise ArtifactNotFound(f"{self.place(key)}: {error or 'not there'}.") from error

        with storage_errors(target.parent, f"download {key}"), target.open("xb+") as stream:
            return _fill(stream.fileno(), size_bytes, fetch)

    def remove(self, keys: Sequence[str]) -> None:
        self._client.remove(keys)

    def listing(self, prefix: str) -> Iterator[Stored]:
        return self._client.listing(prefix)

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[S3Sweep]:
        with beacon.Beacon(self._client, beacon.SWEEPS, b"{}") as lit:
            writing = beacon.named_by_writers(self._client, lit.lit_at)
            yield S3Sweep(self._client, lit, lit.lit_at, writing)

    def _put(self, file: HashedFile, label: str) -> None:
        if self._is_large(file) and self._is_stored(file):
            return
        key = blob_key(file.sha256)
        etag = self._client.upload(key, file.source, file.size_bytes)
        if not file.is_unchanged(file.source.stat()):
            self._client.remove([key])
            raise file.changed(label)
        if self._is_large(file):
            chunk_list = ChunkList(
                file.sha256, file.size_bytes, file.chunk_sha256s, self._chunk_bytes, etag
            )
            self._client.put(_chunks_key(file.sha256), chunk_list.to_json())

    def _is_large(self, file: HashedFile | Blob) -> bool:
        return file.size_bytes > self._chunk_bytes

    def _is_stored(self, file: HashedFile) -> bool:
        """True if the object is the one that an earlier upload of these bytes made."""
        status = self._client.head(blob_key(file.sha256))
        if status is None or status.size_bytes != file.size_bytes:
            return False
        stored = self._stored_chunk_list(file.sha256)
        return stored is not None and (stored.etag, stored.chunk_sha256s) == (
            status.etag,
            file.chunk_sha256s,
        )

    def _whole(self, blob: Blob) -> bytes:
        data = self._range(blob, 0, blob.size_bytes)
        self._check_whole(blob, hashlib.sha256(data).hexdigest())
        return data

    def _range(self, blob: Blob, offset: int, length: int) -> bytes:
        """Bytes as they are stored: the caller verifies them."""
        try:
            return self._client.get_range(blob_key(blob.sha256), offset, length, blob.size_bytes)
        except FileNotFoundError:
            raise blob.missing(self.place(blob_key(blob.sha256))) from None
        except SizeDiffers as error:
            raise blob.corrupt(self.place(blob_key(blob.sha256)), str(error)) from None

    def _chunk_list(self, blob: Blob) -> ChunkList:
        known = self._chunk_lists.get(blob.sha256)
        if known is None:
            known = self._stored_chunk_list(blob.sha256) or self._rebuilt_chunk_list(blob)
            if len(self._chunk_lists) >= _MAX_CHUNK_LISTS:
                self._chunk_lists.clear()
            self._chunk_lists[blob.sha256] = known
        return known

    def _stored_chunk_list(self, sha256: str) -> ChunkList | None:
        document = self._client.get(_chunks_key(sha256))
        if document is not None:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # damaged: as good as lost
                chunk_list = ChunkList.from_json(document.data)
                if chunk_list.blob == sha256:
                    return chunk_list
        return None

    def _rebuilt_chunk_list(self, blob: Blob) -> ChunkList:
        """Chunk digests from one whole, verified read; stored for the next reader."""
        logger.warning("%s: its chunk digests are lost; reading all of it to verify", blob.label)
        status = self._client.head(blob_key(blob.sha256))
        whole = hashlib.sha256()
        digests = []
        for start in range(0, blob.size_bytes, self._chunk_bytes):
            chunk = self._range(blob, start, min(self._chunk_bytes, blob.size_bytes - start))
            whole.update(chunk)
            digests.append(hashlib.sha256(chunk).hexdigest())
        self._check_whole(blob, whole.hexdigest())
        etag = status.etag if status else ""
        chunk_list = ChunkList(
            blob.sha256, blob.size_bytes, tuple(digests), self._chunk_bytes, etag
        )
        self._client.put(_chunks_key(blob.sha256), chunk_list.to_json())
        return chunk_list

    def _download(self, blob: Blob, target: Path) -> os.stat_result:
        """Fill ``target`` with the whole blob, or leave nothing there."""

        def fetch(offset: int, length: int) -> bytes:
            return self._range(blob, offset, length)

        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            with partial.open("xb+") as stream:
                file = stream.fileno()
                digest = _fill(file, blob.size_bytes, fetch)
                os.fchmod(file, 0o444)
                self._check_whole(blob, digest)
                os.replace(partial, target)
                return os.fstat(file)
        finally:
            partial.unlink(missing_ok=True)

    def _check_whole(self, blob: Blob, found: str) -> None:
        if found != blob.sha256:
            raise blob.corrupt(self.place(blob_key(blob.sha256)), f"its bytes are sha256:{found}")


@dataclass(frozen=True)
class S3Staging:
    """A local folder from which files are uploaded."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "files"

    def release(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


@dataclass(frozen=True)
class S3Sweep:
    """Removal while a sweep's beacon is lit: writers that it may have missed wait for its end."""

    client: S3Client
    beacon: beacon.Beacon
    started_at: float
    writing: frozenset[str]

    def remove(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), _REMOVE_BATCH):
            batch = keys[at : at + _REMOVE_BATCH]
            self.beacon.check()
            self.client.remove(batch)
            chunk_lists = [_chunks_key(key.rpartition("/")[2]) for key in batch if _is_blob(key)]
            if chunk_lists:
                self.client.remove(chunk_lists)

    def remove_remains(self, grace_seconds: float, *, dry_run: bool) -> tuple[int, int]:
        stale = [
            item
            for prefix in (beacon.WRITERS, beacon.SWEEPS)
            for item in self.client.listing(prefix)
            if self.started_at - item.modified_at >= beacon.STALE_SECONDS
        ]
        uploads = self.client.abandoned_uploads(self.started_at - grace_seconds)
        if not dry_run:
            self.client.remove([item.key for item in stale])
            for object_name, upload_id in uploads:
                self.client.abort_upload(object_name, upload_id)
        return len(stale) + len(uploads), sum(item.size_bytes for item in stale)


def _chunks_key(sha256: str) -> str:
    return f"{_CHUNKS}{sha256[:2]}/{sha256}"


def _is_blob(key: str) -> bool:
    return key.startswith(BLOBS)


def _fill(file: int, size_bytes: int, fetch: Callable[[int, int], bytes]) -> str:
    """Write all bytes that ``fetch(offset, length)`` gives into ``file``; returns their sha256.

    Spans arrive side by side; each is hashed as soon as all before it are there.
    """
    spans = range(0, max(1, size_bytes), _SPAN_BYTES)
    whole = hashlib.sha256()
    with ThreadPoolExecutor(_SPANS_AT_ONCE, "s3") as pool:

        def write(start: int) -> None:
            write_at(file, fetch(start, min(_SPAN_BYTES, size_bytes - start)), start)

        try:
            for start, _ in zip(spans, pool.map(write, spans), strict=True):
                whole.update(os.pread(file, _SPAN_BYTES, start))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return whole.hexdigest()


def _each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``work`` on every item, some at a time: requests wait on the network, not on each other."""
    listed = list(items)
    if len(listed) <= 1:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(_PARALLEL_REQUESTS, "s3") as pool:
        return list(pool.map(work, listed))
