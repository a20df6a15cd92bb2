"""A file that grows, as numbered objects: what a store without append can hold of a log.

A part is full at `PART_BYTES` and never changes from then on; the last one is replaced as it grows.
So a reader that knows how far it got needs one request to learn that there is nothing new.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crucible.artifacts.backend import Backend

PART_BYTES = 1 << 20


@dataclass
class StreamWriter:
    """Copies a growing local file into the store. One writer a prefix."""

    backend: Backend
    prefix: str
    """Ends in ``/``."""
    source: Path
    _part: int = 0
    """Index of the part that is not full."""
    _sent_bytes: int = 0
    """How much of that part the store has."""

    def flush(self) -> None:
        """Send what is new.

        Raises:
            StoreUnavailable: the store does not answer; the next call sends it.
        """
        while (data := self._read_part()) is not None and len(data) > self._sent_bytes:
            self.backend.write(_key(self.prefix, self._part), data, durable=False)
            self._sent_bytes = len(data)
            if len(data) == PART_BYTES:
                self._part, self._sent_bytes = self._part + 1, 0

    def _read_part(self) -> bytes | None:
        try:
            with self.source.open("rb") as stream:
                stream.seek(self._part * PART_BYTES)
                return stream.read(PART_BYTES)
        except FileNotFoundError:  # nothing was written yet
            return None


@dataclass
class StreamReader:
    """Reads a stream from where the last look ended."""

    backend: Backend
    prefix: str
    _part: int = 0
    _offset: int = 0

    def read(self) -> bytes:
        """What is new."""
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        while (document := self.backend.read(_key(self.prefix, self._part))) is not None:
            data = document.data
            yield data[self._offset :]
            if len(data) < PART_BYTES:
                self._offset = max(self._offset, len(data))
                return
            self._part, self._offset = self._part + 1, 0


@dataclass
class LineReader:
    """The whole lines of a stream, from where the last look ended."""

    stream: StreamReader
    _rest: bytes = b""

    def read(self, *, final: bool = False) -> list[str]:
        """New lines without their ends; a last line without an end comes with ``final``."""
        data = self._rest + self.stream.read()
        whole, newline, self._rest = data.rpartition(b"\n")
        lines = whole.split(b"\n") if newline else []
        if final and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        return [line.decode(errors="replace") for line in lines]


def _key(prefix: str, part: int) -> str:
    return f"{prefix}{part:06d}"
