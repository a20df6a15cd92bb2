"""Keeps the store up to date with what an attempt logs, while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crucible.errors import CrucibleError
from crucible.journal import AttemptJournal, StreamWriter

logger = logging.getLogger(__name__)

CADENCE_SECONDS = 5.0
"""How old a log line or a progress bar may be. Each look that finds news costs one request."""


@contextmanager
def reporting(attempt: AttemptJournal, *, log: Path, events: Path) -> Iterator[None]:
    """Send ``log`` and ``events`` every few seconds within the block, and once more at its end.

    A store that does not answer is tried again at the next look; the step does not wait for it.
    """
    streams = [
        StreamWriter(attempt.backend, attempt.log_prefix, log),
        StreamWriter(attempt.backend, attempt.events_prefix, events),
    ]
    over = threading.Event()

    def report() -> None:
        while not over.wait(CADENCE_SECONDS):
            _flush(streams)

    thread = threading.Thread(target=report, name="reporter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _flush(streams)


def _flush(streams: list[StreamWriter]) -> None:
    for stream in streams:
        try:
            stream.flush()
        except CrucibleError as error:
            logger.warning("%s is not up to date in the store: %s", stream.source.name, error)
