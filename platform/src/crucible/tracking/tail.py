"""Reading event files that other processes are still writing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Event = dict[str, Any]

_CHUNK_BYTES = 1 << 20


class EventTail:
    """The events of one JSON-lines file from ``offset`` on, as far as they are written.

    ``offset`` is where the last event given out ends, so a reader that stores it once the event is
    dealt with, and starts there next time, misses nothing.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset

    def new_events(self) -> Iterator[tuple[Event, int]]:
        """Each event that became complete since, with the offset at which it ends.

        A missing file has no events yet; a line without its end stays for the next call. A line
        that is no JSON object is passed over with a warning: its writer was killed in the middle.
        """
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            stream.seek(self.offset)
            rest = b""
            while chunk := stream.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self.offset += len(line) + 1
                    event = self._parse(line)
                    if event is not None:
                        yield event, self.offset

    def _parse(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            return event
        logger.warning("%s: skipped a broken line before byte %d", self.path, self.offset)
        return None
