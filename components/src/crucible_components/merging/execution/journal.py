"""Which tensors are written, in a file that outlives the process that wrote them.

One JSON document a line. The first names what is being made: a journal of anything else is not
continued. A tensor's line follows once its values are durable, so what stands here is there, and a
last line that a kill cut off is no line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crucible.artifacts.files import storage_errors, write_atomically


class Journal:
    """The journal at ``path`` of the work that ``key`` names.

    ``done``: what was recorded of each tensor that is written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self.done: dict[str, Any] = {}
        head, *lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        if head == _encoded({"key": key}):
            whole = lines[:-1]  # after the last line's end there is nothing, or a torn line
            for line in whole:
                self.done.update(json.loads(line))
            self._truncate(len(b"\n".join([head, *whole])) + 1)
        else:
            self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self.done.clear()
        with storage_errors(self._path, "begin the journal"):
            write_atomically(self._path, _encoded({"key": self._key}) + b"\n")

    def record(self, tensors: Mapping[str, Any]) -> None:
        """Note that these are written, and what is to be known of them; durable on return."""
        with storage_errors(self._path, "write the journal"), self._path.open("ab") as stream:
            stream.write(_encoded(tensors) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.done.update(tensors)

    def _truncate(self, num_bytes: int) -> None:
        if self._path.stat().st_size > num_bytes:
            os.truncate(self._path, num_bytes)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
