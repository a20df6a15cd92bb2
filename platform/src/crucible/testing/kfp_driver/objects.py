"""What pods leave in the pipeline root, read by the driver."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from crucible.testing.kfp_driver.launcher import ENV_PREFIX, open_bucket
from crucible.testing.object_store import ObjectStore


class Objects:
    """Reads objects by uri; knows what launchers must be told to reach them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        """For launchers."""
        self._bucket = open_bucket(environ)

    @classmethod
    def in_folder(cls, folder: Path) -> Objects:
        """Objects as files below ``folder``."""
        return cls({f"{ENV_PREFIX}FOLDER": str(folder)})

    @classmethod
    def in_store(cls, store: ObjectStore, endpoint: str | None = None) -> Objects:
        """Objects of a server, which pods may reach under another address."""
        found = cls(_access(store, store.endpoint))
        found.environ = _access(store, endpoint or store.endpoint)
        return found

    def keys(self, uri: str) -> list[str]:
        """Keys below ``uri``, each with its bucket."""
        return list(self._bucket.keys(uri.partition("://")[2]))

    def read(self, uri: str) -> bytes | None:
        """An object, or None."""
        key = uri.partition("://")[2]
        if key not in self._bucket.keys(key):
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "object")
            self._bucket.download(key, path)
            return path.read_bytes()


def _access(store: ObjectStore, endpoint: str) -> dict[str, str]:
    return {
        f"{ENV_PREFIX}ENDPOINT": endpoint,
        f"{ENV_PREFIX}ACCESS_KEY": store.access_key,
        f"{ENV_PREFIX}SECRET_KEY": store.secret_key,
    }
