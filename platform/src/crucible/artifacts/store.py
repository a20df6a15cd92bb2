"""The artifact store: manifests over content-addressed blobs, a cache index, leases.

Everything here is written once against `Backend`; what differs between a folder and a bucket is in
`file_backend` and `s3_backend`.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crucible.artifacts.backend import (
    GRACE_SECONDS,
    LEASES,
    Backend,
    HashedFile,
    blob_key,
    manifest_key,
)
from crucible.artifacts.cache import CacheEntry, cache_key
from crucible.artifacts.draft import Draft
from crucible.artifacts.files import storage_errors
from crucible.artifacts.manifest import (
    ArtifactRef,
    FileEntry,
    Manifest,
    MetadataValue,
    canonical_json,
    digest_hex,
)
from crucible.artifacts.reader import ArtifactReader
from crucible.artifacts.tree import open_users_file, tree_files
from crucible.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound, UserError

_COPY_BYTES = 1 << 20


def open_store(uri: str) -> Store:
    """The store at ``file:///folder`` or ``s3://bucket/prefix``.

    S3's endpoint and credentials come from the environment (see the README of this folder).

    Raises:
        UserError: another kind of URI, a missing bucket, no credentials.
        StoreUnavailable: the server does not answer.
    """
    parts = urlsplit(uri)
    fix = "Use file:///folder or s3://bucket/prefix."
    if parts.query or parts.fragment:
        raise UserError(f"store {uri!r}: must have no '?' and no '#'. {fix}")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UserError(f"store {uri!r}: file:// needs an absolute path. {fix}")
        from crucible.artifacts.file_backend import FileBackend

        return Store(FileBackend(Path(unquote(parts.path))))
    if parts.scheme == "s3":
        if not parts.netloc or "@" in parts.netloc:
            raise UserError(f"store {uri!r}: s3:// needs a bucket and no credentials. {fix}")
        from crucible.artifacts.s3_backend import S3Backend

        return Store(S3Backend.connect(parts.netloc, parts.path.strip("/")))
    raise UserError(f"store {uri!r}: unknown kind {parts.scheme!r}. {fix}")


class Store:
    """Artifacts of one place. Safe to use from many threads and processes at once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def uri(self) -> str:
        return self.backend.uri

    def check(self) -> None:
        """Return if the store can be written, read and cleaned up.

        Raises:
            UserError, StoreUnavailable, StoreFull, ArtifactError: it cannot; says why.
        """
        key, data = f"probes/{secrets.token_hex(8)}", b"{}"
        self.backend.write(key, data)
        document = self.backend.read(key)
        self.backend.remove([key])
        if document is None or document.data != data:
            raise ArtifactError(
                f"store {self.uri}: what was written did not come back. Check the server."
            )

    def draft(self, scratch: Path | None = None) -> Draft:
        """A staging area for one artifact.

        Args:
            scratch: where to stage on s3://; a temporary folder if None. On file:// the staging
                folder is in the store, so that a commit renames and copies nothing.
        """
        return Draft(self.backend, self._publish, scratch)

    def put_tree(
        self,
        path: Path,
        *,
        type: str,
        variant: str = "any",
        metadata: Mapping[str, MetadataValue] | None = None,
        producer: Mapping[str, str] | None = None,
        parents: Iterable[str] = (),
        scratch: Path | None = None,
    ) -> ArtifactRef:
        """Copy a user's file or folder into the store; the original stays the user's to edit."""
        files = tree_files(path)
        with self.draft(scratch) as draft:
            for name, file in files.items():
                _copy(file, draft.new_file(name))
            return draft.commit(
                type=type, variant=variant, metadata=metadata, producer=producer, parents=parents
            )

    def manifest(self, digest: str) -> Manifest:
        """The manifest of that digest.

        Raises:
            ArtifactNotFound: the store has none.
            ArtifactCorrupt: its bytes were changed.
        """
        key = manifest_key(digest_hex(digest))
        document = self.backend.read(key)
        if document is None:
            raise ArtifactNotFound(
                f"artifact {digest}: not in {self.uri}. Check the digest and CRUCIBLE_STORE, or "
                "submit the run that makes it again."
            )
        return _checked_manifest(document.data, digest, self.backend.place(key))

    def reader(
        self, artifact: ArtifactRef | str, scratch_dir: Path | None = None
    ) -> ArtifactReader:
        """Reads an artifact by reference or digest.

        Args:
            artifact: what to read.
            scratch_dir: where `local_dir` and, on s3://, downloads go.
        """
        manifest = artifact.manifest if isinstance(artifact, ArtifactRef) else None
        return ArtifactReader(self.backend, manifest or self.manifest(str(artifact)), scratch_dir)

    def locate(self, entry: FileEntry) -> str:
        """Where the bytes of a file are: a path on file://, an object's URI on s3://."""
        return self.backend.place(blob_key(entry.sha256))

    def cache_get(self, fingerprint: str) -> CacheEntry | None:
        """What a step of that fingerprint wrote before, or None.

        None also if any manifest or blob that the entry names is gone. A hit is safe from `gc`
        for its grace period; lease it to keep it longer.
        """
        key = cache_key(fingerprint)
        document = self.backend.read(key)
        entry = CacheEntry.from_json(document.data, fingerprint) if document else None
        if document is None or entry is None:
            return None
        if document.age_seconds < GRACE_SECONDS / 2:
            return entry if all(map(self._is_whole, entry.outputs.values())) else None
        with self.backend.writing([digest_hex(digest) for digest in entry.outputs.values()]):
            if not all(map(self._is_whole, entry.outputs.values())):
                return None
            self.backend.write(key, document.data, durable=False)
        return entry

    def cache_put(self, fingerprint: str, entry: CacheEntry) -> None:
        """Record what a step of that fingerprint wrote; replaces an earlier record."""
        # Not synced: an entry lost with the power costs one step, a torn one fails its checksum.
        self.backend.write(cache_key(fingerprint), entry.to_json(fingerprint), durable=False)

    def lease(self, run_id: str, digests: Iterable[str]) -> None:
        """Keep these artifacts from `gc` until `release_lease`; adds to what the run holds.

        Raises:
            ArtifactNotFound: one of them is not in the store, or not whole.
        """
        held = sorted(set(digests))
        body = canonical_json({"digests": held})
        name = hashlib.sha256(body).hexdigest()
        with self.backend.writing([digest_hex(digest) for digest in held]):
            self.backend.write(f"{_lease_prefix(run_id)}{name}", body)
            for digest in held:
                if not self._is_whole(digest):
                    raise ArtifactNotFound(
                        f"artifact {digest}: needed by run {run_id} but not, or not whole, in "
                        f"{self.uri}. Submit again: the step that made it runs again by itself."
                    )

    def release_lease(self, run_id: str) -> None:
        """Give up all that the run holds. Nothing happens if it holds nothing."""
        prefix = _lease_prefix(run_id)
        self.backend.remove([stored.key for stored in self.backend.listing(prefix)])

    def _publish(self, manifest: Manifest, files: tuple[HashedFile, ...]) -> ArtifactRef:
        ref = ArtifactRef.of(manifest, self.uri)
        key = digest_hex(ref.digest)
        unique = {file.sha256: file for file in files}
        with self.backend.writing([key, *unique]):
            self.backend.put_blobs(tuple(unique.values()), f"{manifest.label} ({ref.digest})")
            self.backend.write(manifest_key(key), manifest.to_json())
        return ref

    def _is_whole(self, digest: str) -> bool:
        try:
            manifest = self.manifest(digest)
        except (ArtifactNotFound, ArtifactCorrupt):
            return False
        return self.backend.has_blobs({e.sha256: e.size_bytes for e in manifest.files})


def _copy(source: Path, target: Path) -> None:
    with (
        open_users_file(source) as stream,
        storage_errors(target.parent, f"copy {source}"),
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(stream, copy, _COPY_BYTES)


def _checked_manifest(data: bytes, digest: str, place: str) -> Manifest:
    found = hashlib.sha256(data).hexdigest()
    if found != digest_hex(digest):
        raise ArtifactCorrupt(
            f"artifact {digest}: its manifest {place} is damaged: its bytes are sha256:{found}. "
            f"Remove {place} and submit the run again: the step that wrote it runs again by itself."
        )
    return Manifest.from_json(data)


def _lease_prefix(run_id: str) -> str:
    if not run_id or "/" in run_id or run_id.startswith("."):
        raise UserError(f"run id {run_id!r}: must be non-empty, without '/' and a leading '.'.")
    return f"{LEASES}{run_id}/"
