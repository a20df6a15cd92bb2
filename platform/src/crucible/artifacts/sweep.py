"""Garbage collection: removes what nothing reaches, never what something may still need."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from crucible.artifacts.backend import (
    BLOBS,
    CACHE,
    GRACE_SECONDS,
    LEASES,
    MANIFESTS,
    Backend,
    Stored,
    Sweep,
)
from crucible.artifacts.cache import CacheEntry
from crucible.artifacts.manifest import Manifest, digest_hex, is_hex
from crucible.artifacts.store import Store
from crucible.errors import ArtifactCorrupt, ArtifactNotFound

_READ_THREADS = 8


@dataclass
class GcReport:
    """What `gc` removed, or with ``dry_run`` would have removed, and what it kept."""

    dry_run: bool
    removed_blobs: int = 0
    removed_bytes: int = 0
    removed_manifests: int = 0
    removed_cache_entries: int = 0
    removed_remains: int = 0
    """Staging folders, uploads and temporary files of dead writers."""
    removed_remains_bytes: int = 0
    kept_manifests: int = 0
    kept_blobs: int = 0
    kept_bytes: int = 0

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        verb = "would remove" if self.dry_run else "removed"
        return (
            f"{verb} {self.removed_blobs} blobs ({self.removed_bytes:,} bytes), "
            f"{self.removed_manifests} manifests, {self.removed_cache_entries} cache entries, "
            f"{self.removed_remains} remains of dead writers ({self.removed_remains_bytes:,} "
            f"bytes); kept {self.kept_manifests} manifests and {self.kept_blobs} blobs "
            f"({self.kept_bytes:,} bytes)"
        )


def gc(
    store: Store,
    *,
    dry_run: bool = False,
    grace_seconds: float = GRACE_SECONDS,
    roots: Iterable[str] | None = None,
    runs_to_keep: Iterable[str] | None = None,
) -> GcReport:
    """Remove blobs that no manifest names and what dead writers left behind.

    What is leased, being written, or younger than the grace period is always kept.

    Args:
        store: the store to clean.
        dry_run: count only.
        grace_seconds: age below which nothing is removed. It covers the time between writing an
            artifact, or hitting the cache, and leasing it; shorten it only while no run needs that.
        roots: manifest digests to keep besides those of cache entries and leases; None keeps all
            manifests.
        runs_to_keep: cache entries that other runs wrote are removed; None keeps all of them.
    """
    report = GcReport(dry_run)
    with store.backend.sweeping() as sweep:
        collector = _Collector(store, sweep, grace_seconds, report)
        collector.sweep_cache(None if runs_to_keep is None else set(runs_to_keep))
        collector.sweep_manifests(None if roots is None else set(map(digest_hex, roots)))
        collector.sweep_blobs()
        count, size_bytes = sweep.remove_remains(grace_seconds, dry_run=dry_run)
        report.removed_remains, report.removed_remains_bytes = count, size_bytes
    return report


class _Collector:
    """One pass. Order matters: a crash in between leaves no manifest without its bytes."""

    def __init__(self, store: Store, sweep: Sweep, grace_seconds: float, report: GcReport) -> None:
        self._store = store
        self._backend: Backend = store.backend
        self._sweep = sweep
        self._grace_seconds = grace_seconds
        self._report = report
        self._rooted: set[str] = set()
        self._named_blobs: set[str] = set()

    def sweep_cache(self, runs_to_keep: set[str] | None) -> None:
        dropped = []
        for item, data in self._documents(CACHE):
            entry = CacheEntry.from_json(data, f"sha256:{_name(item)}")
            is_wanted = entry and (runs_to_keep is None or entry.run_id in runs_to_keep)
            if entry and (is_wanted or self._is_young(item)):
                self._rooted.update(map(digest_hex, entry.outputs.values()))
            else:
                dropped.append(item)
        self._remove(dropped)
        self._report.removed_cache_entries = len(dropped)

    def sweep_manifests(self, roots: set[str] | None) -> None:
        for item, data in self._documents(LEASES):
            self._rooted.update(_leased(data, self._backend.place(item.key)))
        self._rooted |= self._sweep.writing | (roots or set())
        dropped: list[Stored] = []
        kept: list[Stored] = []
        for item in self._named(MANIFESTS):
            is_kept = roots is None or _name(item) in self._rooted or self._is_young(item)
            (kept if is_kept else dropped).append(item)
        with ThreadPoolExecutor(_READ_THREADS, "gc") as pool:
            for manifest in pool.map(self._manifest, kept):
                self._named_blobs.update(
                    file.sha256 for file in (manifest.files if manifest else ())
                )
        self._remove(dropped)
        self._report.removed_manifests = len(dropped)
        self._report.kept_manifests = len(kept)

    def sweep_blobs(self) -> None:
        needed = self._named_blobs | self._sweep.writing
        dropped = []
        for item in self._named(BLOBS):
            if _name(item) in needed or self._is_young(item):
                self._report.kept_blobs += 1
                self._report.kept_bytes += item.size_bytes
            else:
                dropped.append(item)
        self._remove(dropped)
        self._report.removed_blobs = len(dropped)
        self._report.removed_bytes = sum(item.size_bytes for item in dropped)

    def _manifest(self, item: Stored) -> Manifest | None:
        with contextlib.suppress(ArtifactNotFound):  # another sweep removed it meanwhile
            return self._store.manifest(f"sha256:{_name(item)}")
        return None

    def _documents(self, prefix: str) -> Iterator[tuple[Stored, bytes]]:
        """Objects under ``prefix`` with their bytes, without those removed meanwhile."""
        listed = list(self._named(prefix))
        with ThreadPoolExecutor(_READ_THREADS, "gc") as pool:
            read = pool.map(self._backend.read, [item.key for item in listed])
            for item, document in zip(listed, read, strict=True):
                if document is not None:
                    yield item, document.data

    def _named(self, prefix: str) -> Iterator[Stored]:
        """Objects under ``prefix`` named by a digest; what else someone put there is not ours."""
        return (item for item in self._backend.listing(prefix) if is_hex(_name(item)))

    def _is_young(self, item: Stored) -> bool:
        return self._sweep.started_at - item.modified_at < self._grace_seconds

    def _remove(self, items: list[Stored]) -> None:
        if not self._report.dry_run:
            self._sweep.remove([item.key for item in items])


def _name(item: Stored) -> str:
    return item.key.rpartition("/")[2]


def _leased(data: bytes, place: str) -> set[str]:
    try:
        return set(map(digest_hex, json.loads(data)["digests"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactCorrupt(
            f"lease {place} is damaged, so what it protects is unknown and nothing was removed. "
            f"Remove {place} if its run has ended."
        ) from error
