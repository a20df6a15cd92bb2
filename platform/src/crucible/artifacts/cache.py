"""The cache index: what a step of a fingerprint wrote before."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from crucible.artifacts.backend import CACHE
from crucible.artifacts.manifest import canonical_json, digest_hex

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheEntry:
    """The outputs of one finished step."""

    outputs: dict[str, str]
    """Manifest digest by output name."""
    run_id: str
    """The run that did the work."""
    parts: dict[str, str] = field(default_factory=dict)
    """What went into the fingerprint, by name."""

    def to_json(self, fingerprint: str) -> bytes:
        """The entry with its fingerprint and a checksum over both."""
        body = {"fingerprint": fingerprint, **asdict(self)}
        return canonical_json({**body, "sha256": _checksum(body)})

    @classmethod
    def from_json(cls, data: bytes, fingerprint: str) -> CacheEntry | None:
        """The entry in ``data``, or None (and a warning) if it is damaged or another's."""
        try:
            body = json.loads(data)
            checksum = body.pop("sha256")
            if checksum != _checksum(body) or body.pop("fingerprint") != fingerprint:
                raise ValueError("checksum or fingerprint differs")
            entry = cls(**body)
            for digest in entry.outputs.values():
                digest_hex(digest)
            return entry
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("cache entry of %s is damaged and not used: %s", fingerprint, error)
            return None


def cache_key(fingerprint: str) -> str:
    """Key of the entry for a ``sha256:<hex>`` fingerprint."""
    return f"{CACHE}{digest_hex(fingerprint)}"


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()
