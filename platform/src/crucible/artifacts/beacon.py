"""Beacons: small objects that say "I am at it", for stores without locks.

A writer lights one that names what it is about to need; a sweep lights one before it looks. Each
lights first and looks second, so at least one of two sees the other: the sweep keeps what a writer
named, a writer waits until sweeps that may not have seen it are over. S3's reads after writes are
strongly consistent, which is all this rests on. A beacon is refreshed while its process lives and
counts as dead when it was not for `STALE_SECONDS`.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from crucible.artifacts.backend import Stored
from crucible.artifacts.s3_client import S3Client
from crucible.errors import CrucibleError, StoreUnavailable

logger = logging.getLogger(__name__)

WRITERS, SWEEPS = "writers/", "sweeps/"
STALE_SECONDS = 180.0
"""How long a killed sweep holds up writers at most."""
REFRESH_SECONDS = 20.0
_POLL_SECONDS = 0.2


class Beacon:
    """One lit beacon; put out when the block ends."""

    def __init__(self, client: S3Client, prefix: str, body: bytes) -> None:
        self.key = f"{prefix}{secrets.token_hex(16)}"
        self.lit_at = 0.0
        """When it was lit, by the store's clock."""
        self._client = client
        self._body = body
        self._refreshed = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="beacon", daemon=True)

    def __enter__(self) -> Beacon:
        self._refreshed = time.monotonic()
        self.lit_at = self._client.put(self.key, self._body)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._client.remove([self.key])
        except CrucibleError as failure:  # it goes stale; the block's outcome is what counts
            logger.warning("beacon %s stays until it is stale: %s", self.key, failure)

    def check(self) -> None:
        """Return if others still see it lit.

        Raises:
            StoreUnavailable: it could not be refreshed in time.
        """
        if time.monotonic() - self._refreshed > STALE_SECONDS / 2:
            raise StoreUnavailable(
                f"{self._client.uri}: could not be reached for {STALE_SECONDS / 2:.0f} s in the "
                "middle of the work. Try again."
            )

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            sent = time.monotonic()
            try:
                self._client.put(self.key, self._body)
                self._refreshed = sent
            except CrucibleError as failure:
                logger.warning("beacon %s could not be refreshed: %s", self.key, failure)


def lit(client: S3Client, prefix: str, now: float) -> Iterator[Stored]:
    """The beacons under ``prefix`` that are not stale at ``now``, the store's clock."""
    for beacon in client.listing(prefix):
        if now - beacon.modified_at < STALE_SECONDS:
            yield beacon


def wait_for_sweeps(client: S3Client, now: float) -> None:
    """Return once every sweep that was under way is over or dead."""
    began = time.monotonic()
    under_way = {beacon.key for beacon in lit(client, SWEEPS, now)}
    if under_way:
        logger.info("%s: waiting for a garbage collection to end", client.uri)
    while under_way:
        time.sleep(_POLL_SECONDS)
        elapsed = time.monotonic() - began
        under_way &= {beacon.key for beacon in lit(client, SWEEPS, now + elapsed)}


def named_by_writers(client: S3Client, now: float) -> frozenset[str]:
    """Hex digests that live writers said they need."""
    named: set[str] = set()
    for beacon in lit(client, WRITERS, now):
        if document := client.get(beacon.key):
            named.update(json.loads(document.data)["digests"])
    return frozenset(named)
