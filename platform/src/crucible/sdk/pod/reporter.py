"""Keeps the store up to date with what an attempt logs, while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from crucible.artifacts.backend import Backend
from crucible.errors import CrucibleError
from crucible.journal import AttemptJournal, StreamWriter

logger = logging.getLogger(__name__)

CADENCE_SECONDS = 5.0
"""How old a log line or a progress bar may be. Each look that finds news costs one request."""


def reporting(attempt: AttemptJournal, *, log: Path, events: Path) -> AbstractContextManager[None]:
    """Keep an attempt's part of the journal up to date, see `reporting_to`."""
    sources = {attempt.log_prefix: log, attempt.events_prefix: events}
    return reporting_to(attempt.backend, sources)


@contextmanager
def reporting_to(backend: Backend, sources: Mapping[str, Path]) -> Iterator[None]:
    """Send growing files every few seconds within the block, and once more at its end.

    A store that does not answer is tried again at the next look; the step does not wait for it.

    Args:
        backend: of the artifact store.
        sources: the file by the prefix that it goes to.
    """
    streams = [StreamWriter(backend, prefix, path) for prefix, path in sources.items()]
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
