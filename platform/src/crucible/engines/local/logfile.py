"""Step logs that cannot fill the disk: the beginning and the end are kept, the middle is dropped.

``log.txt`` takes the first half of the limit. What comes after goes to ``log.txt.1``,
``log.txt.2`` and so on, of which the newest are kept, so that the end is on disk whatever happens
to the writer. Readers put the parts together and say what was dropped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

MAX_LOG_BYTES = 64 * 2**20
"""Enough for a day of progress lines; a hundred such logs still fit a laptop's disk."""
_KEPT_SEGMENTS = 4
_READ_BYTES = 2**16
_MAX_OVERSHOOT_BYTES = 4096
"""A part grows by so much over its size to end with a line."""
_MAX_LINE_BYTES = 2**20
"""Longer lines are handed out in pieces."""
_CONTINUED = b"[crucible] the log goes on in %s.1 and so on; of these the newest are kept\n"


class CappedLog:
    """Writes one log. A full disk loses bytes and never raises: a step must not fail by talking."""

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._segment_bytes = max(1, max_bytes // 2 // _KEPT_SEGMENTS)
        self._number = 0
        self._room = max_bytes // 2
        self._ends_line = True
        self._descriptor = _create(path)
        self._lost_bytes = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._room <= 0 and (self._ends_line or self._room <= -_MAX_OVERSHOOT_BYTES):
                self._next_segment()
            room = self._room
            if room <= 0:  # full, but in the middle of a line
                room += _MAX_OVERSHOOT_BYTES
                line_end = bytes(view[:room]).find(b"\n") + 1
                room = line_end or room
            part, view = view[:room], view[room:]
            self._room -= len(part)
            self._ends_line = part[-1] == ord("\n")
            self._put(part)

    def close(self) -> None:
        if self._lost_bytes:
            self._put(f"\n[crucible] {self._lost_bytes:,} bytes could not be written\n".encode())
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Release the file in a fork, whose parent goes on writing it."""
        os.close(self._descriptor)

    def _put(self, data: bytes | memoryview) -> None:
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            written = 0
        self._lost_bytes += len(data) - written

    def _next_segment(self) -> None:
        if self._number == 0:
            self._put(_CONTINUED % self._path.name.encode())
        os.close(self._descriptor)
        self._number += 1
        oldest = self._number - _KEPT_SEGMENTS
        if oldest > 0:
            with contextlib.suppress(OSError):  # somebody was faster: then it is gone all the same
                _segment_path(self._path, oldest).unlink()
        self._descriptor = _create(_segment_path(self._path, self._number))
        self._room = self._segment_bytes


def read_lines(path: Path, *, is_over: Callable[[], bool] | None = None) -> Iterator[str | None]:
    """Lines of a log without line ends, and None each time that more is to be waited for.

    Without ``is_over`` reading stops where the log ends now. Works on a log that is being written
    and on one whose writer was killed.
    """
    pending = b""
    for chunk in _chunks(path, is_over):
        if chunk is None:
            yield None
            continue
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
        while len(pending) > _MAX_LINE_BYTES:
            yield pending[:_MAX_LINE_BYTES].decode(errors="replace")
            pending = pending[_MAX_LINE_BYTES:]
    if pending:
        yield pending.decode(errors="replace")


def tail(path: Path, num_lines: int = 20, *, max_line_chars: int = 500) -> tuple[str, ...]:
    """The last lines of a log, long ones cut."""
    text = b""
    for part in (path, *(_segment_path(path, number) for number in _segments(path)[-2:])):
        with contextlib.suppress(FileNotFoundError), open(part, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4 * _READ_BYTES))
            text += stream.read()
    lines = text[-4 * _READ_BYTES :].decode(errors="replace").splitlines()
    return tuple(line[:max_line_chars] for line in lines[-num_lines:])


def _chunks(path: Path, is_over: Callable[[], bool] | None) -> Iterator[bytes | None]:
    number = 0
    stream: BinaryIO | None = None
    while True:
        # Both are asked before reading, so that what was written before them is read after them.
        over = is_over is None or is_over()
        later = _segments(path, after=number)
        stream = stream or _open_if_there(_segment_path(path, number))
        while stream and (chunk := stream.read(_READ_BYTES)):
            yield chunk
        if later:
            if stream:
                stream.close()
            stream = None
            if later[0] > number + 1:
                yield _dropped(path, number, later[0])
            number = later[0]
        elif over:
            break
        else:
            yield None
    if stream:
        stream.close()


def _dropped(path: Path, number: int, next_number: int) -> bytes:
    size_bytes = 0
    with contextlib.suppress(FileNotFoundError):  # dropped in its turn: the next gap is larger
        size_bytes = _segment_path(path, next_number).stat().st_size
    missing = size_bytes * (next_number - number - 1)
    return f"[crucible] about {missing:,} bytes of this log were dropped here\n".encode()


def _open_if_there(path: Path) -> BinaryIO | None:
    with contextlib.suppress(FileNotFoundError):
        return open(path, "rb")
    return None


def _segments(path: Path, after: int = 0) -> list[int]:
    numbers = (int(found.suffix[1:]) for found in path.parent.glob(f"{path.name}.[0-9]*"))
    return sorted(number for number in numbers if number > after)


def _segment_path(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
